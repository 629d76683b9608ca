"""The page in a real browser: clicks, keys, fingers, two widths, light and dark."""

import importlib.util
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.report.page import write_report
from pipeline.report.replays import ReplayRequest
from pipeline.report.run_sources import find_runs
from tests.report_samples import kept_run, write_logs, write_run
from tests.rl_samples import straight_line

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SCRIPT = "<img src=x onerror=window.hacked=1>"
READY = "document.documentElement.dataset.readyMs"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="playwright is not installed"
    ),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this system (Debian: apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs on a straight road; one has markup as its name."""
    root = tmp_path_factory.mktemp("browser")
    line = straight_line(root, 60.0)
    for name, skill, seed in (("plain", "novice", 2), (SCRIPT, "expert", 1)):
        write_run(root, name, line, kept_run(line, skill, seed))
        write_logs(root, name, [None, 12.0, float("nan"), 11.0])
    names = [str(root / "rl" / name) for name in ("plain", SCRIPT)]
    out = root / "report.html"
    write_report(out, find_runs(names, root / "tensorboard"), ReplayRequest(drivers=("good",)))
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Opened:
    """A page with what it asked for and complained of."""

    def __init__(self, browser: "Browser", path: Path, width: int, theme: Any = "light") -> None:
        narrow = width < 600
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 844 if narrow else 900},
            color_scheme=theme,
            has_touch=narrow,
            is_mobile=narrow,
        )
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.goto(path.as_uri())
        self.wait(READY)

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def wait(self, condition: str) -> None:
        """Wait until a condition holds; playwright's own wait needs `eval`, which the page bars."""
        for _ in range(600):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {condition}")

    def ms(self) -> float:
        """Race time that the clock shows."""
        text = self.page.locator('[data-part="clock"]').text_content() or ""
        return 1000 * float(text.split(" / ")[0])

    def settle(self) -> None:
        """Wait for two pictures."""
        self.page.evaluate(
            "new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))"
        )

    def value(self, expression: str) -> Any:
        return self.page.evaluate(expression)


@pytest.fixture
def wide(browser: "Browser", report: Path) -> Iterator[Opened]:
    opened = Opened(browser, report, 1440)
    yield opened
    opened.page.close()


@pytest.fixture
def phone(browser: "Browser", report: Path) -> Iterator[Opened]:
    opened = Opened(browser, report, 390)
    yield opened
    opened.page.close()


def test_the_page_loads_nothing_and_runs_no_text_of_a_run(wide: Opened) -> None:
    page = wide.page
    page.locator("figure").last.scroll_into_view_if_needed()
    wide.wait("document.querySelectorAll('[data-drawn]').length >= 1")
    assert [url for url in wide.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in wide.asked if url.startswith("file:")]) == 1
    assert wide.complaints == []
    assert wide.value("window.hacked") is None
    assert page.locator("h1").text_content() == f"Report of plain, {SCRIPT}"
    assert page.locator(".card-name").all_text_contents()[1].endswith(SCRIPT)
    assert page.locator("img").count() == 0


def test_the_clock_stops_at_the_recorded_times(wide: Opened) -> None:
    wide.page.keyboard.press("End")
    wide.settle()
    recorded = wide.value("viewer.data.runs.map(run => run.race_time_ms)")
    shown = wide.page.locator(".card .time").all_text_contents()
    assert [re.sub(r" s.*", "", text) for text in shown] == [f"{ms / 1000:.3f}" for ms in recorded]
    deltas = wide.page.locator(".card .delta").all_text_contents()
    assert deltas[0] == "reference"
    expected = (recorded[1] - recorded[0]) / 1000
    assert float(deltas[1].replace("\u2212", "-")) == pytest.approx(expected, abs=5e-4)
    totals = wide.page.locator('[data-part="sectors"] td:last-child').all_text_contents()
    assert totals == [f"{ms / 1000:.3f}" for ms in recorded]


def test_playing_stepping_and_scrubbing(wide: Opened) -> None:
    page = wide.page
    page.locator('[data-part="forward"]').click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    wide.settle()
    assert wide.ms() == 50.0  # 10, 20, then the next action
    page.locator('[data-part="back"]').click()
    wide.settle()
    before = wide.ms()
    page.locator('[data-part="play"]').click()
    wide.wait("viewer.timeline.ms > 400")
    page.locator('[data-part="play"]').click()
    wide.settle()
    stopped = wide.ms()
    assert stopped > before + 300
    page.wait_for_timeout(150)
    assert wide.ms() == stopped
    scrub = page.locator('[data-part="scrub"]')
    box = scrub.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wide.settle()
    end = wide.value("viewer.timeline.endMs")
    assert wide.ms() == pytest.approx(end / 2, rel=0.05)
    page.locator('[data-part="speed"]').select_option("0.1")
    assert wide.value("viewer.timeline.speed") == 0.1


PIXELS = """(canvas, ...box) => {
    const context = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    context.drawImage(canvas, 0, 0);
    return Array.from(context.getImageData(...box).data);
}"""
COUNT = """(() => {
    window.scenes = window.texts = 0;
    const draw = viewer.map.drawScene.bind(viewer.map);
    viewer.map.drawScene = () => { window.scenes += 1; draw(); };
    new MutationObserver((found) => (window.texts += found.length)).observe(
        viewer.part("clock"), { childList: true });
    window.before = viewer.pictures;
})()"""
PLACE = """(() => {
    const { map, timeline } = viewer;
    const place = map.runs[1].at(timeline.ms);
    const [car, root] = [map.cars[1].body, map.root].map((part) => part.getBoundingClientRect());
    const x = map.width / 2 + (place.x - map.view.x) * map.view.scale;
    const y = map.height / 2 + (place.y - map.view.y) * map.view.scale;
    return [car.x + car.width / 2 - root.x - x, car.y + car.height / 2 - root.y - y];
})()"""


@pytest.mark.parametrize("follow", ["0", "2"])
def test_a_picture_moves_the_cars_and_draws_nothing_anew(wide: Opened, follow: str) -> None:
    """The road is drawn once, and the numbers change at most 20 times a second."""
    wide.page.keyboard.press(follow)
    wide.settle()
    wide.value(COUNT)
    wide.page.keyboard.press(" ")
    wide.wait("viewer.timeline.ms > 700")
    wide.page.keyboard.press(" ")
    wide.settle()
    pictures, scenes, texts = wide.value("[viewer.pictures - before, scenes, texts]")
    assert pictures > 5
    assert scenes == 0
    assert 3 <= texts <= 0.02 * wide.value("viewer.timeline.ms") + 4
    assert wide.value(PLACE) == pytest.approx([0.0, 0.0], abs=0.1)
    assert wide.ms() == pytest.approx(wide.value("viewer.timeline.ms"), abs=0.51)


def test_speeds_are_those_of_the_clock(wide: Opened) -> None:
    """0.25 of real time, by the browser's own clock."""
    page = wide.page
    for _ in range(2):
        page.keyboard.press(",")
    assert wide.value("viewer.timeline.speed") == 0.25
    page.keyboard.press(" ")
    now = "[viewer.timeline.ms, performance.now()]"
    first, started = wide.value(now)
    page.wait_for_timeout(600)
    last, ended = wide.value(now)
    assert last - first == pytest.approx(0.25 * (ended - started), rel=0.35)


def test_zoom_follow_and_choices(wide: Opened) -> None:
    page = wide.page
    scale = wide.value("viewer.map.view.scale")
    page.locator('[data-part="closer"]').click()
    assert wide.value("viewer.map.view.scale") == pytest.approx(1.5 * scale)
    road = page.locator('[data-part="map"]')
    road.click(position={"x": 300, "y": 200})
    page.mouse.wheel(0, -300)
    wide.wait(f"viewer.map.view.scale > {1.6 * scale}")
    x = wide.value("viewer.map.view.x")
    road.hover(position={"x": 300, "y": 200})
    page.mouse.down()
    page.mouse.move(600, 300, steps=3)
    page.mouse.up()
    assert wide.value("viewer.map.view.x") != x
    page.keyboard.press("2")
    wide.settle()
    assert wide.value("viewer.map.follow.index") == 1
    assert wide.value("viewer.map.view.x - viewer.runs[1].at(viewer.timeline.ms).x") == 0
    page.keyboard.press("0")
    wide.settle()
    assert wide.value("viewer.map.follow") is None
    page.locator('[data-part="reference"]').select_option("2")
    wide.settle()
    assert page.locator(".card .delta").all_text_contents()[2] == "reference"
    page.locator('[data-part="mode"]').select_option("action")
    assert page.locator(".colours .swatch").count() >= 1
    page.locator(".card-show input").nth(1).uncheck()
    assert wide.value("viewer.runs[1].shown") is False


def test_the_curve_of_seconds_goes_to_a_place(wide: Opened) -> None:
    canvas = wide.page.locator('[data-part="delta"]')
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    wide.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 60)
    wide.settle()
    share = wide.value(
        "viewer.reference.at(viewer.timeline.ms).progress / viewer.data.track.length"
    )
    assert share == pytest.approx((box["width"] / 2 - 46) / (box["width"] - 56), abs=0.02)
    behind = wide.value("viewer.runs[1].behind(viewer.reference, viewer.timeline.ms)")
    assert math.isfinite(behind)


def test_frames_and_keys_keep_step_with_the_clock(wide: Opened) -> None:
    check = """viewer.runs.every(run => [0, 50, 99, 100, 730].every(ms => {
        const at = run.at(ms).action, frame = run.frameAt(ms);
        return at === run.actions[Math.floor(ms / 10)] && frame === Math.floor(ms / run.frameMs);
    }))"""
    assert wide.value(check) is True
    wide.page.evaluate("viewer.timeline.seek(730)")
    wide.settle()
    held = wide.value("viewer.data.actions[viewer.runs[0].at(730).action].keys")
    keys = wide.page.locator(".card").first.locator(".key")
    shown = ["held" in (keys.nth(i).get_attribute("class") or "") for i in range(4)]
    assert shown == [key == 1 for key in held]
    pixels = wide.value(f"({PIXELS})(viewer.cards[0].canvas, 0, 0, 64, 64)")[::4]
    assert len(set(pixels)) > 10  # a picture, not an empty canvas


def test_fingers_move_and_zoom_the_road(phone: Opened) -> None:
    page = phone.page
    page.locator('[data-part="play"]').tap()
    phone.wait("viewer.timeline.ms > 200")
    page.locator('[data-part="play"]').tap()
    road = page.locator('[data-part="map"]')
    road.scroll_into_view_if_needed()
    box = road.bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def touch(kind: str, *offsets: tuple[float, float]) -> None:
        points = [{"x": middle[0] + dx, "y": middle[1] + dy} for dx, dy in offsets]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    place = "[viewer.map.view.x, viewer.map.view.y, viewer.map.view.scale]"
    before = phone.value(place)
    touch("touchStart", (0.0, 0.0))
    touch("touchMove", (30.0, 0.0))
    touch("touchMove", (60.0, 0.0))
    touch("touchEnd")
    moved = phone.value(place)
    assert moved[0] < before[0]
    assert moved[2] == before[2]
    touch("touchStart", (-20.0, 0.0), (20.0, 0.0))
    touch("touchMove", (-50.0, 0.0), (50.0, 0.0))
    touch("touchMove", (-80.0, 0.0), (80.0, 0.0))
    touch("touchEnd")
    assert phone.value(place)[2] > 2.0 * moved[2]


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_widths_and_themes(browser: "Browser", report: Path, width: int, theme: str) -> None:
    opened = Opened(browser, report, width, theme)
    page = opened.page
    try:
        assert opened.value("document.documentElement.scrollWidth") <= width
        back = opened.value("getComputedStyle(document.body).backgroundColor")
        bright = sum(int(part) for part in re.findall(r"\d+", back)[:3]) > 3 * 128
        assert bright == (theme == "light")
        corner = opened.value(f"({PIXELS})(viewer.map.canvas, 2, 200, 1, 1)")[:3]
        assert (sum(corner) > 3 * 128) == (theme == "light")
        page.locator("#theme").click()
        opened.settle()
        turned = opened.value("getComputedStyle(document.body).backgroundColor")
        assert turned != back
        sizes = opened.value(
            "Array.from(document.querySelectorAll('.bar button')).map(b => b.offsetHeight)"
        )
        assert min(sizes) >= (40 if width == 390 else 30)
        assert opened.complaints == []
    finally:
        page.close()

"""The documentation names only files, commands, keys and messages that exist."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.contract.config import StrictModel, load_config
from pipeline.cli import build_parser
from pipeline.commands import stage_commands
from pretrain.bc.config import BCConfig
from pretrain.vis.config import VisConfig
from rl.config.experiment import REMOVED_KEYS, RLConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("datasets", "rl", "pretrain", "pipeline", "benchmarks", "config_files", "tests", "docs")
READERS_FILES = tuple(
    Path("config_files/rl") / name for name in ("my_map.yaml", "recorded_line.yaml", "NAME.yaml")
)
"""Configurations that a reader writes or chooses."""
SCHEMAS: dict[str, tuple[type[StrictModel], Path]] = {
    "vis": (VisConfig, stage_commands.DEFAULT_VIS_CONFIG),
    "bc": (BCConfig, stage_commands.DEFAULT_BC_CONFIG),
    "rl": (RLConfig, stage_commands.DEFAULT_RL_CONFIG),
}
README_LINES = 100
COMMAND = "rulka-pipeline"
HELP = "--help"
SHORTEST_MESSAGE = 20
"""Characters; shorter texts of a table are no messages."""


def for_each(pages: list[Path]) -> pytest.MarkDecorator:
    names = [page.relative_to(ROOT).as_posix() for page in pages]
    return pytest.mark.parametrize("page", pages, ids=names)


each_page = for_each(PAGES)


def prose(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def repository_paths(text: str) -> set[str]:
    """Paths below a folder of the repository, with a suffix or as a whole code span."""
    files = re.findall(
        rf"(?<![\w/.-])((?:{'|'.join(PACKAGES)})/[\w./-]*\.(?:py|yaml|md|png))", text
    )
    folders = re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:/[\w-]+)*)/?`", text)
    return {*files, *folders}


def links(text: str) -> set[str]:
    return set(re.findall(r"\]\(([^)\s]+)\)", text))


def anchor(heading: str) -> str:
    """Anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(h) for h in re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)}


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of every command line in a block, and of every command named in a code span."""
    call = r"(?:\w+=\S+ )*(?:uv run (?:--extra \w+ )?)?rulka-pipeline"
    found = re.findall(rf"^ *({call} .+)$", text, re.MULTILINE)
    found += [span for span in re.findall(rf"`({call} [^`]+)`", text) if "…" not in span]
    for line in found:
        words = shlex.split(line, comments=True)
        arguments = words[words.index(COMMAND) + 1 :]
        named = " --" not in line and " ".join(arguments).islower()  # only which command is meant
        yield [*arguments, HELP] if named else arguments


def messages_of_the_code() -> str:
    """All text of the packages, with … for what is filled in."""
    found = []
    for package in ("datasets", "rl", "pretrain", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[-+.,\d]*[sdfg]", "…", node.value))
    return "\n".join(found)


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text("utf-8").splitlines()) <= README_LINES


@each_page
def test_named_paths_exist(page: Path) -> None:
    paths = repository_paths(prose(page)) - {path.as_posix() for path in READERS_FILES}
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


@each_page
def test_links_lead_to_a_page_and_a_heading(page: Path) -> None:
    broken = []
    for link in sorted(links(prose(page))):
        if link.startswith("http"):
            continue
        name, _, place = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (place and place not in anchors(target)):
            broken.append(link)
    assert not broken


@each_page
def test_command_lines_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for arguments in commands(prose(page)):
        try:
            build_parser().parse_args(arguments)
        except SystemExit as end:
            if end.code == 0:
                continue
            refused.append(f"{shlex.join(arguments)}: {capsys.readouterr().err}")
    assert not refused


def test_the_pages_have_command_lines() -> None:
    assert sum(len(list(commands(prose(page)))) for page in PAGES) >= 40


@each_page
def test_overrides_of_command_lines_are_keys(page: Path) -> None:
    """`--set` and `--config` of the stages, with every key checked by the stage's schema."""
    for arguments in commands(prose(page)):
        if not SCHEMAS.keys() & set(arguments) or HELP in arguments:
            continue
        parsed = build_parser().parse_args(arguments)
        model, default = SCHEMAS[parsed.command]
        path = parsed.config if parsed.config not in (None, *READERS_FILES) else default
        removed = REMOVED_KEYS if model is RLConfig else {}
        load_config(model, ROOT / path, parsed.overrides, removed=removed)


@each_page
def test_named_benchmarks_exist(page: Path) -> None:
    names = re.findall(r"python -m benchmarks\.(\w+)", prose(page))
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")}
    assert not [name for name in names if name not in files | packages]


def yaml_blocks(page: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", prose(page), re.DOTALL)


@for_each([page for page in PAGES if yaml_blocks(page)])
def test_configurations_in_the_text_are_valid(page: Path, tmp_path: Path) -> None:
    for text in yaml_blocks(page):
        folder = (ROOT / "config_files" / "rl").as_posix()
        path = tmp_path / "shown.yaml"
        path.write_text(text.replace("extends: ", f"extends: {folder}/"), encoding="utf-8")
        load_config(RLConfig, path, (), removed=REMOVED_KEYS)


def test_every_page_can_be_reached() -> None:
    reached = {PAGES[0]}
    for _ in PAGES:
        for page in list(reached):
            targets = {page.parent / link.partition("#")[0] for link in links(prose(page))}
            reached |= {
                path.resolve() for path in targets if path.suffix == ".md" and path.is_file()
            }
    assert not set(PAGES) - reached


def test_quoted_messages_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    wanted = [message for message in quoted if len(message) >= SHORTEST_MESSAGE]
    known = messages_of_the_code()
    assert len(wanted) >= 15
    assert not [message for message in wanted if message not in known]

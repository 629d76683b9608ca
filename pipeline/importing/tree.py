"""`data import`: a tree of captured replays becomes a dataset.

Every manifest is read before the first frame is decoded, so that most of what is wrong is said at
once. Frames are decoded by threads: the decoder works without the interpreter's lock. Replays are
recorded in natural order, whichever of them is ready first.
"""

import dataclasses
import logging
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datasets.captured import find_captured
from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from datasets.cores import usable_cores
from datasets.format import DatasetSpec, ReplayRecord
from datasets.wheels import CAPTURED_SOURCE
from datasets.writer import DatasetWriter, check_dataset_output
from pipeline.importing.replay import Outline, Selection, load_record, outline
from pipeline.recording.request import check_image_size, frame_interval

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
SKIP_HINT: Final = "; --skip-bad leaves such replays out"
MAX_WORKERS: Final = 16
SHOWN_BAD: Final = 20
"""Bad replays that are named one by one."""


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        root: the tree, or a part of it.
        image_size: pixels (height, width); None keeps those of the frames.
        fps: frames per second of race to keep; None keeps all.
        line: a reference line, or a folder of them, to follow instead of the recorded one.
        frames_only: import frames and actions; floats stay unknown and are written as 0.
        skip_bad: leave out what cannot be imported, instead of stopping.
        workers: threads that decode; None for one per core.
    """

    root: Path
    image_size: tuple[int, int] | None = None
    fps: int | None = None
    line: Path | None = None
    frames_only: bool = False
    skip_bad: bool = False
    workers: int | None = None

    def check(self) -> None:
        """Raise UserError for values that cannot be meant."""
        if self.fps is not None:
            frame_interval(self.fps)
        if self.image_size is not None:
            check_image_size(self.image_size)
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers {self.workers}: at least 1")
        if self.frames_only and self.line is not None:
            raise UserError("--line is for floats, which --frames-only leaves out: drop one")

    def threads(self) -> int:
        """Return the number of threads."""
        return self.workers or min(usable_cores(), MAX_WORKERS)


@dataclass
class ImportSummary:
    """What an import did.

    Attributes:
        path: the dataset.
        imported: replays of this call.
        already_there: replays that an earlier, interrupted call had imported.
        frames: frames of this call.
        dropped: frames of this call that were left out, by reason.
        bad: one line for each replay that was left out.
    """

    path: Path
    imported: int = 0
    already_there: int = 0
    frames: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


def import_tree(out: Path, request: ImportRequest, *, overwrite: bool = False) -> ImportSummary:
    """Import a tree of captured replays.

    An interrupted call with the same arguments continues where it stopped.

    Args:
        out: `NAME.h5`, or a name without that suffix for a folder of shards.
        overwrite: replace an existing dataset at the end.

    Raises:
        UserError: nothing to import, a bad replay without `skip_bad`, an existing output.
    """
    request.check()
    check_dataset_output(out, overwrite=overwrite)  # before a long survey
    folders = find_captured(request.root)
    summary = ImportSummary(Path(out))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), "replays")
    with (
        ThreadPoolExecutor(request.threads()) as pool,
        Progress(*columns, TimeRemainingColumn()) as bar,
    ):
        try:
            job = _Import(request, summary, pool, bar)
            job.write(job.survey(folders), overwrite)
        finally:
            pool.shutdown(cancel_futures=True)
    _log_summary(summary)
    return summary


class _Import:
    """The two passes of one import."""

    def __init__(
        self,
        request: ImportRequest,
        summary: ImportSummary,
        pool: ThreadPoolExecutor,
        bar: Progress,
    ) -> None:
        self._request, self._summary = request, summary
        self._pool, self._bar = pool, bar
        self._selection = Selection(
            request.fps, not request.frames_only, follows_line=request.line is not None
        )

    def survey(self, folders: Sequence[Path]) -> list[Outline]:
        """Read every manifest; the replays that fit one another, in the order of `folders`."""
        task = self._bar.add_task("reading manifests", total=len(folders))
        found: list[Outline] = []
        selection = self._selection
        for _, future in self._in_order(lambda folder: outline(folder, selection), folders):
            result = self._result(future)
            if result is not None:
                found.append(result)
            self._bar.advance(task)
        fitting = self._fitting(found)
        if not fitting:
            raise UserError(f"{self._request.root}: none of its {len(folders)} replays is usable")
        return fitting

    def _fitting(self, found: Sequence[Outline]) -> list[Outline]:
        """Those that share the interval and the size of most, and whose names differ."""
        intervals = Counter(each.interval_ms for each in found if each.interval_ms)
        interval = intervals.most_common(1)[0][0] if intervals else 0
        sizes = Counter(each.size for each in found)
        size = sizes.most_common(1)[0][0] if sizes else (0, 0)
        names: dict[str, Path] = {}
        fitting = []
        for each in found:
            if each.interval_ms not in (0, interval):
                self._refuse(
                    f"{each.folder}: frames every {each.interval_ms} ms, but every {interval} ms "
                    "in most replays; --fps may choose common ones"
                )
            elif each.size != size:
                (height, width), (high, wide) = each.size, size
                self._refuse(
                    f"{each.folder}: frames of {height}x{width} pixels, but {high}x{wide} in most "
                    "replays"
                )
            elif each.name in names:
                self._refuse(f"{each.folder}: the same track and name as {names[each.name]}")
            else:
                names[each.name] = each.folder
                fitting.append(each)
        return fitting

    def write(self, outlines: Sequence[Outline], overwrite: bool) -> None:
        """Decode and record."""
        summary = self._summary
        tracks = list(dict.fromkeys(each.track for each in outlines))
        selection = self._with_lines(tracks)
        source = outlines[0].size
        size = self._request.image_size or source
        spec = self._spec(selection, outlines, tracks, size)
        with DatasetWriter(summary.path, spec, overwrite=overwrite) as writer:
            waiting = [each for each in outlines if each.name not in writer.done_names]
            summary.already_there = len(outlines) - len(waiting)
            if summary.already_there:
                logger.info(
                    "continuing: %d of %d replays are there", summary.already_there, len(outlines)
                )
            task = self._bar.add_task("importing", total=len(outlines))
            self._bar.advance(task, summary.already_there)

            def load(each: Outline) -> tuple[ReplayRecord, Counter[str]]:
                return load_record(each.folder, selection, source, size)

            for _, future in self._in_order(load, waiting):
                loaded = self._result(future)
                if loaded is not None:
                    self._add(writer, *loaded)
                self._bar.advance(task)

    def _add(self, writer: DatasetWriter, record: ReplayRecord, dropped: Counter[str]) -> None:
        writer.add(record)
        self._summary.imported += 1
        self._summary.frames += len(record.frames)
        self._summary.dropped += dropped

    def _with_lines(self, tracks: Sequence[str]) -> Selection:
        if self._request.line is None:
            return self._selection
        from rl.envs.line_following import find_line

        given = self._request.line
        lines = {track: find_line(given, track, len(tracks)) for track in tracks}
        return dataclasses.replace(self._selection, lines=lines)

    def _spec(
        self,
        selection: Selection,
        outlines: Sequence[Outline],
        tracks: Sequence[str],
        size: tuple[int, int],
    ) -> DatasetSpec:
        uneven = [each.folder for each in outlines if each.has_gaps]
        _warn(uneven, "frames are missing between others, so the dataset's interval is varying")
        held = [each.folder for each in outlines if each.has_held_actions]
        _warn(held, "no actions in the manifest; each frame's inputs are held until the next one")
        interval = max(each.interval_ms for each in outlines)
        return DatasetSpec(
            image_size=size,
            frame_interval_ms=0 if uneven else interval,
            key_ms=TICK_MS,
            source=CAPTURED_SOURCE,
            parameters={
                # An import of another folder must not continue this one.
                "folder": self._request.root.resolve().name,
                "tracks": list(tracks),
                "fps": selection.fps,
                "floats": selection.floats,
                "lines": {
                    track: zlib.crc32(line.points.tobytes())
                    for track, line in selection.lines.items()
                },
            },
        )

    def _in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, "Future[Result]"]]:
        """Call `function` in the threads; results in order, few at a time to bound the memory."""
        running: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            running.append((item, self._pool.submit(function, item)))
            if len(running) > 2 * self._request.threads():
                yield running.popleft()
        yield from running

    def _result(self, future: "Future[Result]") -> Result | None:
        """Return the result of a thread; None for a bad replay that is left out."""
        try:
            return future.result()
        except UserError as error:
            self._refuse(str(error))
            return None

    def _refuse(self, problem: str) -> None:
        if not self._request.skip_bad:
            raise UserError(problem + SKIP_HINT)
        self._summary.bad.append(problem)
        if len(self._summary.bad) <= SHOWN_BAD:
            logger.warning("left out: %s", problem)


def _warn(folders: Sequence[Path], message: str) -> None:
    if folders:
        more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
        logger.warning("%s%s: %s", folders[0], more, message)


def _log_summary(summary: ImportSummary) -> None:
    left_out = [f"{count:,} {reason}" for reason, count in summary.dropped.items() if count]
    logger.info(
        "%s: %d replays, %d of them imported now with %s frames; frames left out: %s%s",
        summary.path,
        summary.imported + summary.already_there,
        summary.imported,
        f"{summary.frames:,}",
        ", ".join(left_out) or "none",
        f"; {len(summary.bad)} bad replays left out" if summary.bad else "",
    )

"""Recording survives kills, full disks and second attempts without losing a closed shard."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import IO

import pytest

from datasets import locking
from datasets.contract.errors import UserError
from datasets.format import DatasetSpec
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from tests.dataset_samples import HEIGHT, SPEC, WIDTH, make_replay, sample_records, write_dataset
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
SHARD_BYTES = 30_000

RECORD = """
    import sys, time
    from pathlib import Path
    from datasets.writer import DatasetWriter
    from tests.dataset_samples import SPEC, sample_records
    with DatasetWriter(Path(sys.argv[1]), SPEC, shard_bytes=30_000) as writer:
        for record in sample_records():
            if record.name not in writer.done_names:
                writer.add(record)
                time.sleep(float(sys.argv[2]))
"""
LIMITED = """
    import resource, sys
    from datasets.contract.errors import UserError
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        exec(RECORD)
    except UserError as error:
        sys.exit(str(error))
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt_recording(path: Path) -> None:
    """Record one replay and press Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), DatasetWriter(path, SPEC) as writer:
        writer.add(make_replay(1))
        raise KeyboardInterrupt


def recorded(parts: Path) -> set[str]:
    with ReplayFile(parts) as file:
        return {str(name) for name in file.replays["name"]}


def test_a_killed_recording_keeps_its_shards_and_continues_to_the_same_dataset(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.h5"
    parts = tmp_path / "data.h5.parts"
    process = python(RECORD, str(path), "0.1")
    wait_for(lambda: len(list(parts.glob("shard_*.h5"))) >= 2, 30.0, "no shards", process=process)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not path.exists()
    before = recorded(parts)
    assert 0 < len(before) < 11

    with DatasetWriter(path, SPEC, shard_bytes=SHARD_BYTES) as writer:
        assert writer.done_names == before
        for record in sample_records():
            if record.name not in before:
                writer.add(record)
    whole = write_dataset(tmp_path / "whole.h5", sample_records())
    assert path.read_bytes() == whole.read_bytes()
    assert not parts.exists()


def test_an_interrupted_recording_keeps_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    interrupt_recording(path)
    assert recorded(tmp_path / "data.h5.parts") == {make_replay(1).name}


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
@pytest.mark.parametrize(("limit", "failing"), [(20_000, "shard_00000.h5"), (60_000, "data.h5")])
def test_a_full_disk_is_one_line_and_loses_nothing(
    limit: int, failing: str, tmp_path: Path
) -> None:
    """60,000 bytes are enough for every shard, and not for the assembled file."""
    path = tmp_path / "data.h5"
    code = f"RECORD = {textwrap.dedent(RECORD)!r}\n" + textwrap.dedent(LIMITED)
    process = python(code, str(path), "0", str(limit))
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(message.strip().splitlines()) == 1
    assert failing in message
    assert "free space and repeat the command" in message
    assert not path.exists()
    assert not list(tmp_path.rglob("*.tmp"))
    if failing == "data.h5":
        again = python(RECORD, str(path), "0")
        _, message = again.communicate(timeout=60)
        assert again.returncode == 0, message
        with ReplayFile(path) as file:
            assert file.n_replays == 11


def test_an_existing_output_is_only_replaced_when_asked_and_only_at_the_end(
    tmp_path: Path,
) -> None:
    path = write_dataset(tmp_path / "data.h5", sample_records())
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"data.h5 exists.*--overwrite"):
        DatasetWriter(path, SPEC)
    with DatasetWriter(path, SPEC, overwrite=True) as writer:
        writer.add(make_replay(77))
        writer.flush()
        assert path.read_bytes() == before
    assert recorded(path) == {make_replay(77).name}


def test_a_folder_is_replaced_when_asked(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data", sample_records())
    with DatasetWriter(path, SPEC, overwrite=True) as writer:
        writer.add(make_replay(77))
    assert recorded(path) == {make_replay(77).name}
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("has_index", [False, True])
def test_a_folder_of_anything_else_is_never_replaced(tmp_path: Path, *, has_index: bool) -> None:
    path = tmp_path / "output"
    if has_index:
        write_dataset(path, sample_records())
    (path / "rl").mkdir(parents=True)
    reason = "rl in it" if has_index else "no dataset.json in it"
    with pytest.raises(UserError, match=rf"output is not a dataset .*\({reason}\)"):
        DatasetWriter(path, SPEC, overwrite=True)
    assert (path / "rl").is_dir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["output"]


def test_a_folder_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data"
    writer = DatasetWriter(path, SPEC, overwrite=True)
    writer.add(make_replay(1))
    (path / "notes").mkdir(parents=True)
    with pytest.raises(UserError, match="not a dataset"):
        writer.close()
    assert (path / "notes").is_dir()
    assert recorded(tmp_path / "data.parts") == {make_replay(1).name}


def kill_in_removal(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the next removal of a folder end the program after the removal of one file."""

    def rmtree(folder: Path) -> None:
        monkeypatch.undo()
        (folder / name).unlink()
        raise SystemExit

    monkeypatch.setattr(shutil, "rmtree", rmtree)


@pytest.mark.parametrize("out", ["data", "data.h5"])
@pytest.mark.parametrize("first", ["spec.json", "shard_00000.h5"])
def test_a_kill_while_leftovers_are_removed_does_not_reach_the_next_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, first: str
) -> None:
    path = tmp_path / out
    if out == "data":
        write_dataset(path, sample_records())
    kill_in_removal(monkeypatch, first)
    with (
        contextlib.suppress(SystemExit),
        DatasetWriter(path, SPEC, overwrite=True, shard_bytes=SHARD_BYTES) as writer,
    ):
        for record in sample_records():
            writer.add(record)
    assert len(recorded(path)) == 11

    other = DatasetSpec((HEIGHT, WIDTH), 50, 50, "test", {"seed": 4})
    spec = other if first == "spec.json" else SPEC  # shards with their parameters would be kept
    with DatasetWriter(path, spec, overwrite=True) as writer:
        assert not writer.done_names
        writer.add(make_replay(77))
    assert recorded(path) == {make_replay(77).name}
    assert [entry.name for entry in tmp_path.iterdir()] == [out]


def assert_records_anew(path: Path, spec: DatasetSpec) -> None:
    """With `overwrite`, what another recording left is dropped and none of it passed on."""
    with DatasetWriter(path, spec, overwrite=True) as writer:
        assert not writer.done_names
        writer.add(make_replay(2))
    assert recorded(path) == {make_replay(2).name}


def test_shards_of_unknown_parameters_do_not_continue_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    interrupt_recording(path)
    (tmp_path / "data.h5.parts" / "spec.json").unlink()
    with pytest.raises(UserError, match="other parameters"):
        DatasetWriter(path, SPEC)
    assert_records_anew(path, SPEC)


def test_a_list_of_shards_from_a_killed_end_does_not_bind_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "data"
    interrupt_recording(path)
    (tmp_path / "data.parts" / "dataset.json").write_text('{"shards": ["shard_00000.h5"]}')
    with contextlib.suppress(KeyboardInterrupt), DatasetWriter(path, SPEC) as writer:
        writer.add(make_replay(2))
        raise KeyboardInterrupt
    with DatasetWriter(path, SPEC) as writer:
        assert len(writer.done_names) == 2


def test_other_parameters_do_not_continue_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    interrupt_recording(path)
    other = DatasetSpec((HEIGHT, WIDTH), 50, 50, "test", {"seed": 4})
    with pytest.raises(UserError, match="other parameters"):
        DatasetWriter(path, other)
    assert recorded(tmp_path / "data.h5.parts") == {make_replay(1).name}
    assert_records_anew(path, other)


def test_a_recording_without_shards_does_not_bind_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with contextlib.suppress(KeyboardInterrupt), DatasetWriter(path, SPEC):
        raise KeyboardInterrupt
    other = DatasetSpec((HEIGHT, WIDTH), 50, 50, "test", {"seed": 4})
    with DatasetWriter(path, other) as writer:
        writer.add(make_replay(2))
    with ReplayFile(path) as file:
        assert file.spec == other


def test_two_recordings_of_one_dataset_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with DatasetWriter(path, SPEC) as writer:
        with pytest.raises(UserError, match="another process is recording it"):
            DatasetWriter(path, SPEC)
        writer.add(make_replay(1))


@pytest.mark.skipif(os.name != "posix", reason="replaces the lock of this system")
def test_a_folder_without_locks_is_not_taken_for_one_that_another_process_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: IO[bytes]) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking, "_lock", refuse)
    with pytest.raises(UserError, match="No locks available"):
        DatasetWriter(tmp_path / "data.h5", SPEC)


def test_nothing_recorded_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="no replay was recorded"),
        DatasetWriter(tmp_path / "data.h5", SPEC),
    ):
        pass

"""Personal records of a map: put aside while it is loaded, and never lost."""

import errno
import os
from pathlib import Path
from typing import IO

import pytest

from datasets import locking
from datasets.locking import ProcessLock
from rl.envs.tmnf.machine import records
from rl.envs.tmnf.machine.records import ASIDE, records_aside


def test_records_are_put_aside_and_back(tmp_path: Path) -> None:
    own = tmp_path / "me_A01-Race.Replay.gbx"
    stale = tmp_path / f"you_A01-Race.Replay.gbx{ASIDE}"  # of a process that was killed
    other = tmp_path / "me_A02-Race.Replay.gbx"
    for file in (own, stale, other):
        file.write_text(file.name, encoding="utf-8")
    with records_aside(tmp_path, "White\\A01-Race.Challenge.Gbx"):
        assert not own.exists()
        assert other.exists()
    assert own.read_text(encoding="utf-8") == own.name
    assert (tmp_path / "you_A01-Race.Replay.gbx").exists()
    with pytest.raises(KeyboardInterrupt), records_aside(tmp_path, "A01-Race.Challenge.Gbx"):
        raise KeyboardInterrupt
    assert own.exists()
    with records_aside(tmp_path / "missing", "A01"):
        pass


def test_a_record_driven_while_an_older_one_was_aside_replaces_none(tmp_path: Path) -> None:
    """A process was killed while a record was aside, and the player has driven another one."""
    newer = tmp_path / "me_A01-Race.Replay.gbx"
    older = tmp_path / f"me_A01-Race.Replay.gbx{ASIDE}"
    newer.write_bytes(b"newer")
    older.write_bytes(b"older")
    for _ in range(2):  # the second time both are put aside and come back as they are
        with records_aside(tmp_path, "A01-Race.Challenge.Gbx"):
            assert not list(tmp_path.glob("*.Replay.gbx"))
        found = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert found == {newer.name: b"newer", "me_A01-Race.2.Replay.gbx": b"older"}


def test_a_record_driven_while_a_map_loads_replaces_none(tmp_path: Path) -> None:
    record = tmp_path / "me_A01.Replay.gbx"
    record.write_bytes(b"older")
    with records_aside(tmp_path, "A01.Challenge.Gbx"):
        record.write_bytes(b"newer")
    found = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert found == {record.name: b"newer", "me_A01.2.Replay.gbx": b"older"}


def test_a_record_that_cannot_be_renamed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "player_A01.Replay.gbx"
    record.write_bytes(b"record")

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with records_aside(tmp_path, "A01.Challenge.Gbx"):
        assert record.exists()
    assert "cannot be renamed" in caplog.text


def test_who_waits_for_the_load_of_another_game_shows_that_nothing_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LOOK_S", 0.0)
    other = ProcessLock(tmp_path / ".rulka.lock")
    signs: list[int] = []

    def alive() -> None:
        signs.append(len(signs))
        if len(signs) == 3:
            other.remove()

    with records_aside(tmp_path, "A01.Challenge.Gbx", alive):
        assert signs == [0, 1, 2]


@pytest.mark.skipif(os.name != "posix", reason="replaces the lock of this system")
def test_where_files_have_no_locks_maps_are_loaded_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "player_A01.Replay.gbx"
    record.write_bytes(b"record")

    def refuse(file: IO[bytes]) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locking, "_lock", refuse)
    with records_aside(tmp_path, "A01.Challenge.Gbx"):
        assert not record.exists()
    assert record.exists()
    assert "cannot be locked" in caplog.text

"""How commands end that cannot go on, and what configurations are refused before they start."""

import argparse
import errno
import logging
import os
from pathlib import Path

import pytest
import torch
from pydantic import Field

from datasets.contract.config import Seed, StrictModel, load_config
from datasets.contract.errors import UserError
from datasets.contract.memory import MemoryNeed, check_memory, machine_memory
from datasets.contract.yaml_files import MOST_BYTES, parse_yaml, read_yaml
from pipeline import cli
from pipeline.commands import demo_command
from pipeline.failures import LONGEST_LINE, failure_of, one_line
from pretrain.bc.config import BCConfig
from pretrain.memory_need import check_stage_memory
from pretrain.vis.config import VisConfig
from rl.config.experiment import RLConfig
from rl.config.network import NetworkConfig
from rl.config.network_size import feature_dimension, parameter_count
from rl.config.sections import MapCycleEntry
from rl.network.iqn import IQN
from rl.run.build import build_run
from rl.run.memory_need import check_run_memory, replay_needs
from tests.rl_samples import changed_nn, tiny_config

Capture = pytest.CaptureFixture[str]


# -- the one line -------------------------------------------------------------------------------


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str) -> int:
    """Run `rulka-pipeline demo` where the command raises `error`."""

    def run(arguments: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(demo_command, "run_demo", run)
    return cli.main(["demo", *options])


def test_a_refusal_is_short_and_has_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    text = f"{'/very' * 400}/\x1b[31mname\r\n\u202e.yaml: no such file"
    assert run_raising(monkeypatch, UserError(text)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) <= LONGEST_LINE + len("rulka-pipeline: ")
    assert line.startswith("rulka-pipeline: /very/very")
    assert "…" in line
    assert line.endswith(r"\x1b[31mname\r\n\u202e.yaml: no such file")
    assert line.isprintable()


def test_a_short_refusal_stays_as_it_is() -> None:
    assert one_line("…: Straße 12 %, 日本") == "…: Straße 12 %, 日本"
    assert one_line("x" * 700, limit=90) == "x" * 59 + "…" + "x" * 30


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_what_the_system_refuses_is_one_line(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    error = OSError(code, os.strerror(code), "some/file.csv")
    assert run_raising(monkeypatch, error) == 2
    assert capsys.readouterr().err.startswith("rulka-pipeline: some/file.csv: ")


def test_missing_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    for error in (MemoryError(), caught.value):
        assert run_raising(monkeypatch, error) == 2
        assert "not enough memory; see docs/troubleshooting.md" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("place"), OSError("odd"), TimeoutError("late")])
def test_what_no_one_foresaw_is_one_line_with_a_code_of_its_own(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert run_raising(monkeypatch, error) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert f"unexpected {type(error).__name__}: " in line
    assert "--debug" in line


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_before_or_after_the_command(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert run_raising(monkeypatch, UserError("wrong")) == 2
    assert "Traceback" not in capsys.readouterr().err
    command = ["--debug", "demo"] if place == "before" else ["demo", "--debug"]
    assert cli.main(command) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1] == "rulka-pipeline: wrong"


def test_a_wrong_option_is_one_line_too(capsys: Capture) -> None:
    for option, value in (
        ("--max-frames", "-1"),
        ("--max-frames", "0"),
        ("--max-grad-steps", "-1"),
        ("--max-grad-steps", "9" * 5000),
        ("--max-minutes", "nan"),
        ("--max-minutes", "inf"),
        ("--max-minutes", "soon\x07"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["rl", option, value])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"rulka-pipeline: rl: argument {option}: ")
        assert line.endswith("see rulka-pipeline rl --help")
        assert len(line) < 700


def test_log_lines_have_no_control_characters(capsys: Capture) -> None:
    cli._set_up_logging(debug=False)
    logging.getLogger("rl").warning("%s is damaged", "a\x1b[2J\x07b")
    assert r"a\x1b[2J\x07b" in capsys.readouterr().err


@pytest.mark.parametrize("debug", [False, True])
def test_a_logged_exception_shows_its_traceback_with_debug_alone(
    debug: bool, capsys: Capture
) -> None:
    cli._set_up_logging(debug)
    try:
        raise ValueError("bad\x07")
    except ValueError as error:
        logging.getLogger("rl").error("a collector failed", exc_info=error)
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) == debug
    assert r"ValueError: bad\x07" in shown


# -- YAML ---------------------------------------------------------------------------------------


class Example(StrictModel):
    size: int = Field(1, description="units")
    rate: float = Field(1.0, description="1/s")
    points: tuple[tuple[int, float], ...] = Field((), description="[frames, share]")
    seed: Seed = Field(0, description="0 to 2^32 - 1")
    name: str = Field("a", description="any")
    fast: bool = Field(False, description="true | false")


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: 1\nname: b\nsize: 2", "line 3: key `size` is given twice, first in line 1"),
        ("a: {b: {c: 1, c: 2}}", "line 1: key `c` is given twice"),
        (f"size: {'9' * 5000}", "line 1: a number of 5000 characters"),
        ("[" * 300, "more than 50 levels"),
        ("{a: " * 300, "more than 50 levels"),
        ("- " * 20_000, "more than 50 levels"),
        (BOMB, "more than 100,000 values"),
        ("a: &a [*a]", r"alias \*a stands inside what it stands for"),
        ("size: !!timestamp 2026-13-45", "timestamp is not used here"),
        ("size: !!binary aaaa", "binary is not used here"),
        ("size: !!python/object/apply:os.system [ls]", "is not used here"),
        ("size: !!int many", "`many` is no int"),
        ("size: !!bool many", "`many` is no bool"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: \x07", "special characters"),
        ("? [a, b]\n: 1", "unhashable key"),
    ],
)
def test_yaml_beyond_its_bounds_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_usual_yaml_is_read_as_before() -> None:
    text = "base: &base {a: 1, b: [on, 1.5, null, 0x10, 1_000]}\n"
    text += "next: {<<: *base, a: 2}\nlast: *base"
    values = parse_yaml(text)
    assert values["base"] == {"a": 1, "b": [True, 1.5, None, 16, 1000]}
    assert values["next"] == {**values["base"], "a": 2}
    assert values["last"] == values["base"]
    assert parse_yaml("day: 2026-13-45\nother: 2026-01-02") == {
        "day": "2026-13-45",
        "other": "2026-01-02",
    }


def refusal(folder: Path, text: str, *overrides: str) -> str:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(Example, path, overrides, environment={})
    return str(caught.value)


def test_extends_that_leads_nowhere(tmp_path: Path) -> None:
    assert "Not a directory" in refusal(tmp_path, "extends: a.yaml/b.yaml")
    (tmp_path / "left.yaml").symlink_to(tmp_path / "right.yaml")
    (tmp_path / "right.yaml").symlink_to(tmp_path / "left.yaml")
    assert "symbolic links" in refusal(tmp_path, "extends: left.yaml")
    assert "expected the path of a file" in refusal(tmp_path, "extends: [b.yaml]")
    assert "a folder" in refusal(tmp_path, "extends: .")
    assert "not the path of a file" in refusal(tmp_path, 'extends: "a\\0b"')
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    assert "more than 20 files extend each other" in refusal(tmp_path, "extends: 0.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MOST_BYTES + 1))
    assert "larger than 1 MiB" in refusal(tmp_path, "extends: large.yaml")
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: true", "`size`: true is no number"),
        ("rate: false", "`rate`: false is no number"),
        ("points: [[0, true]]", "`points`: true is no number"),
        ("rate: .nan", "`rate`: Input should be a finite number"),
        ("points: [[0, .inf]]", "`points.0.1`: Input should be a finite number"),
        ("size: 99999999999999999999", "`size`: a number of more than 64 bits"),
        ("seed: 18446744073709551616", "`seed`: a number of more than 64 bits"),
        ("seed: 4294967296", "`seed`: Input should be less than or equal to 4294967295"),
        ('name: "a\\0b"', "`name`: text with a NUL"),
        ('name: "\\ud800"', "half a character"),
    ],
)
def test_values_that_no_field_can_hold(text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, text)
    key, _, value = text.partition(": ")
    assert message in refusal(tmp_path, "", f"{key}={value}")


def test_switches_stay_switches(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("fast: on\nsize: 7\nrate: 3\npoints: [[1, 2]]")
    loaded = load_config(Example, tmp_path / "a.yaml", environment={})
    assert (loaded.fast, loaded.size, loaded.rate, loaded.points) == (True, 7, 3.0, ((1, 2.0),))


def test_many_problems_are_cut(tmp_path: Path) -> None:
    message = refusal(tmp_path, "\n".join(f"key_{n}: 1" for n in range(50)))
    assert message.endswith("; and 42 more problems")


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (RLConfig, {"nn": {"floats": {"n_floats": 185}}}, "n_floats must be 184"),
        (RLConfig, {"nn": {"image_size": 0}}, "image_size must be positive"),
        (BCConfig, {"image_size": 0}, "image_size must be positive"),
        (VisConfig, {"image_size": [0, 64]}, "image_size must be positive"),
        (RLConfig, {"memory_size_schedule": [[0, [1, 1]]]}, "holds no transition"),
        (MapCycleEntry, {"short_name": "../a", "map_path": "A01"}, "short_name"),
        (MapCycleEntry, {"short_name": "a\nb", "map_path": "A01"}, "short_name"),
        (RLConfig, {"transfer": {"legacy_input": True}}, "legacy_input"),
        (RLConfig, {"performance": {"learner_threads": 10**6}}, "less than or equal to 1024"),
        (BCConfig, {"bc_time_offsets_ms": [0, 10**15]}, "a whole race"),
    ],
)
def test_values_that_would_crash_later(
    model: type[StrictModel], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.model_validate(values)


# -- memory -------------------------------------------------------------------------------------

NETWORKS = [
    {},
    {"image_size": [41, 57], "vis": {"cnn": {"channels": [2, 3, 4, 5], "maxpool": True}}},
    {
        "image_size": 37,
        "vis": {"cnn": {"arch": "impala", "channels": [3, 5], "layer_norm": True}},
        "decoder": {"noisy": True, "layer_norm": True, "dense_hidden_dimension": 10},
        "floats": {"layer_norm": True, "hidden_dimension": 7},
    },
    {"use_image_head": False, "iqn": {"embedding_dimension": 11}},
    {"floats": {"enabled": False}, "n_stack": 3, "image_size": 40},
]


@pytest.mark.parametrize("values", NETWORKS)
def test_the_size_of_a_network_is_known_before_it_is_built(values: dict[str, object]) -> None:
    config = NetworkConfig.model_validate(values)
    network = IQN(config)
    assert feature_dimension(config) == network.feature_dimension
    assert parameter_count(config) == sum(p.numel() for p in network.parameters())


def test_a_network_that_no_machine_holds_is_not_built() -> None:
    large = {"decoder": {"dense_hidden_dimension": 2 * 10**12}}
    with pytest.raises(UserError, match=r"needs at least [\d,]+\.\d GB of memory"):
        IQN(NetworkConfig.model_validate(large))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 10**12}, "one update (batch_size"),
        ({"memory_size_schedule": [[0, [10**12, 9]]]}, "the replay memory (memory_size_schedule"),
        ({"evaluation": {"starts": 10**12}}, "an evaluation (evaluation.starts"),
        ({"performance": {"collectors_count": 10**9}}, "(performance.collectors_count"),
        ({"performance": {"cars_per_collector": 10**12}}, "performance.cars_per_collector"),
        ({"nn": {"image_size": 10**7}}, "image_size"),
        ({"nn": {"iqn": {"n": 10**12}}}, "nn.iqn.n"),
        ({"transfer": {"calibration_rollouts": 10**12}}, "transfer.calibration_rollouts"),
    ],
)
def test_a_run_that_no_machine_holds_is_refused(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    check_run_memory(tiny_config(tmp_path))
    with pytest.raises(UserError, match=r"needs at least [\d,]+\.\d GB of memory") as caught:
        check_run_memory(tiny_config(tmp_path, **change))
    assert named in str(caught.value)


def test_features_that_a_memory_keeps_count(tmp_path: Path) -> None:
    plain, kept, prior = (
        replay_needs(tiny_config(tmp_path, **changes))[0].bytes
        for changes in (
            {},
            {"nn": changed_nn(vis={"freeze": True})},
            {"prior": {"freeze_encoder": True}},
        )
    )
    config = tiny_config(tmp_path)
    capacity = max(capacity for _, (capacity, _) in config.memory_size_schedule)
    run = build_run(config)
    assert kept - plain == 4 * run.learner.online.image_features * capacity
    assert prior == kept


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (VisConfig, {"batch_size": 10**12, "micro_batch_size": 10**12}),
        (VisConfig, {"task": "vae", "latent_dimension": 10**12}),
        (VisConfig, {"task": "simclr", "simclr": {"projection_hidden": 10**12}}),
        (VisConfig, {"image_size": 10**7}),
        (BCConfig, {"batch_size": 10**12, "micro_batch_size": 10**12}),
        (BCConfig, {"num_taus_val": 10**12}),
        (BCConfig, {"devices": 10**9, "batch_size": 10**9, "accelerator": "cpu"}),
        (BCConfig, {"nn": {"floats": {"hidden_dimension": 10**7}}}),
    ],
)
def test_a_pretraining_that_no_machine_holds_is_refused(
    model: type[VisConfig] | type[BCConfig], change: dict[str, object]
) -> None:
    check_stage_memory(model())
    with pytest.raises(UserError, match=r"needs at least [\d,]+\.\d GB of memory"):
        check_stage_memory(model.model_validate(change))


def test_the_largest_needs_are_named_first() -> None:
    needs = [MemoryNeed(f"part {n}", n * 10**9, f"key_{n}") for n in range(6)]
    check_memory(needs, 15 * 10**9)
    check_memory(needs, None)
    with pytest.raises(UserError) as caught:
        check_memory(needs, 14 * 10**9)
    assert str(caught.value) == (
        "the configuration needs at least 15.0 GB of memory, this machine has 14.0 GB: "
        "5.0 GB for part 5 (key_5), 4.0 GB for part 4 (key_4), 3.0 GB for part 3 (key_3)"
    )
    memory = machine_memory()
    assert memory is None or memory > 10**8


def test_failures_keep_their_codes() -> None:
    assert failure_of(UserError("x")).code == 2
    assert failure_of(ValueError("x")).code == 70

"""Exact resumption with the options of learning that keep a state of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.training.train import train
from tests.rl_samples import changed_nn, tiny_config, tiny_network
from tests.saved_states import differences, saved

STOP, END = 12, 26
"""Updates: where the run is stopped, and where both end."""
State = dict[str, Any]


def cnn(**options: Any) -> dict[str, Any]:
    """The encoder of the tiny network with other options."""
    return {"cnn": {**tiny_network().model_dump()["vis"]["cnn"], **options}}


@dataclass(frozen=True)
class Options:
    """Options to be resumed with.

    Attributes:
        changes: of the tiny configuration.
        before: what must be so where the run stops, to mean anything.
        after: what must be so at the end, given the state at the stop and that of the end.
    """

    changes: dict[str, Any]
    before: Callable[[State], bool]
    after: Callable[[State, State], bool]


def spectral_vectors_moved(stop: State, end: State) -> bool:
    """Whether the estimates of the largest singular value went on after the stop."""
    names = [name for name in stop["learner"]["online"] if name.endswith("._u")]
    pairs = [(stop["learner"]["online"][name], end["learner"]["online"][name]) for name in names]
    return bool(pairs) and all(not torch.equal(*pair) for pair in pairs)


def updates_of(state: State, name: str) -> int:
    """How many updates a parameter has had; 0 while it is frozen."""
    moments = state["learner"]["optimizer"].get(name)
    return 0 if moments is None else int(moments["step"])


OPTIONS = {
    "munchausen and spectral norm": Options(
        {
            "btr": {"use_munchausen": True},
            "nn": changed_nn(vis=cnn(spectral_norm=True)),
            # The target network moves seldom, so that its weights are a state for many updates.
            "number_memories_trained_on_between_target_network_updates": 8 * 8,
        },
        lambda stop: stop["learner"]["counters"]["memories_since_target_update"] > 0,
        spectral_vectors_moved,
    ),
    "noisy nets and resets": Options(
        {
            "btr": {"use_noisy_linear": True},
            "reset_every_n_frames_generated": 110,
            "additional_transition_after_reset": 16,
            "overall_reset_mul_factor": 0.3,
        },
        lambda stop: 110 < stop["state"]["statistics"]["memories_generated"] < 220,
        lambda stop, end: end["state"]["resets"]["next"] > stop["state"]["resets"]["next"],
    ),
    "thaw and a memory that changes its size": Options(
        {
            "nn": changed_nn(vis={"freeze": True, "unfreeze_at_frames": 260}),
            "memory_size_schedule": [[0, [150, 60]], [90, [130, 60]], [260, [170, 60]]],
            "global_schedule_speed": 1.0,
        },
        lambda stop: (
            updates_of(stop, "img_head.0.weight") == 0 < updates_of(stop, "iqn_fc.0.weight")
        ),
        lambda stop, end: (
            updates_of(end, "img_head.0.weight") > 0
            and [s["state"]["memory"]["capacity"] for s in (stop, end)] == [130, 170]
        ),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, name: str) -> None:
    options = OPTIONS[name]
    changes = {
        "evaluation": {"every_s": None, "every_frames": None, "starts": 1, "final_starts": 1},
        **options.changes,
    }
    train(tiny_config(tmp_path, run_name="whole", **changes), max_grad_steps=END)
    parts, run = tiny_config(tmp_path, run_name="parts", **changes), tmp_path / "rl" / "parts"
    train(parts, max_grad_steps=STOP)
    stop = saved(run)
    assert options.before(stop)
    torch.manual_seed(1)  # what another process would have
    train(parts, resume=run, max_grad_steps=END)
    end, whole = saved(run), saved(tmp_path / "rl" / "whole")
    assert options.after(stop, end)
    for state in (whole, end):  # the end of each call evaluates
        del state["champion"], state["state"]["evaluations"]
    assert differences(whole, end) == []

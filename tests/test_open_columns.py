"""A frozen head that was trained without floats: its zero columns learn, and nothing else of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rl.config.learning import LearningConfig
from rl.config.network import NetworkConfig
from rl.learning.learner import Learner
from rl.learning.open_columns import others_kept
from rl.network.iqn import IQN, midpoint_taus
from rl.transfer.injector import inject
from rl.transfer.metadata import ACTIONS_HEAD_FILE
from rl.transfer.sources import find_sources
from tests.learner_samples import make_batch, network
from tests.transfer_helpers import save

WEIGHT = "A_head.0.weight"


def blind_head(folder: Path) -> Path:
    """Artifacts of a head that was trained on pictures alone."""
    torch.manual_seed(7)
    cloned = IQN(network(floats={"enabled": False}))
    save(folder, cloned, ACTIONS_HEAD_FILE)
    return folder


def config(**advantage: Any) -> NetworkConfig:
    return network(decoder={"advantage": {"freeze": True, **advantage}})


def learner_with(folder: Path, nn: NetworkConfig, **learning: Any) -> Learner:
    options = LearningConfig.model_validate({"weight_decay_lr_ratio": 0.1, **learning})
    learner = Learner(nn, options, averaging_decay=0.9, seed=2)
    sources = find_sources(blind_head(folder))
    assert sources is not None
    report = inject(learner.online, learner.followers, sources, base_lr=1e-3)
    (head,) = (part for part in report.parts if part.part == "advantage")
    assert head.zero_padded == (WEIGHT,)
    assert head.padding_trains == (head.frozen and nn.decoder.advantage.freeze)
    assert ("padding trains" in str(list(report.table().columns[5].cells))) == head.padding_trains
    learner.find_padded_columns()
    return learner


def sees_floats(learner: Learner) -> bool:
    """Whether other floats change the advantages."""
    batch, other, net = make_batch(1), make_batch(2), learner.online
    taus = midpoint_taus(1, 5)
    with torch.no_grad():
        features = [net.features(batch.frames, b.floats) for b in (batch, other)]
        first, second = (net.advantages(f, taus) for f in features)
    return not torch.equal(first, second)


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_a_frozen_head_learns_the_columns_that_it_was_not_trained_on(
    tmp_path: Path, optimizer: str
) -> None:
    learner = learner_with(tmp_path, config(), optimizer=optimizer)
    assert not sees_floats(learner)
    before = {name: t.clone() for name, t in learner.online.state_dict().items()}
    for k in range(3):
        learner.step(make_batch(k), learning_rate=1e-2)
    learner.reset()
    after = learner.online.state_dict()
    image = learner.online.image_features
    for name, tensor in after.items():
        if name == WEIGHT:
            assert torch.equal(tensor[:, :image], before[name][:, :image])
            assert tensor[:, image:].abs().min() > 0.0
        elif name.startswith("A_head"):
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(after["V_head.0.weight"], before["V_head.0.weight"])
    assert sees_floats(learner)
    assert learner.averaged is not None
    averaged = learner.averaged.state_dict()[WEIGHT]
    assert torch.equal(averaged[:, :image], before[WEIGHT][:, :image])


def test_columns_between_two_others_learn_alone() -> None:
    """Neither those before nor those behind them change, whatever the optimizer does."""
    learner = Learner(config(freeze=False), LearningConfig(), seed=2)
    weight = learner.online.get_parameter(WEIGHT)
    before = weight.detach().clone()
    with others_kept(learner.online, {WEIGHT: (2, 5)}), torch.no_grad():
        weight.add_(1.0)
    assert torch.equal(weight[:, :2], before[:, :2])
    assert torch.equal(weight[:, 5:], before[:, 5:])
    assert torch.equal(weight[:, 2:5], before[:, 2:5] + 1.0)


def test_a_saved_learner_goes_on_bit_for_bit_with_its_columns_open(tmp_path: Path) -> None:
    first = learner_with(tmp_path, config())
    first.step(make_batch(0), learning_rate=1e-2)
    state = first.state_dict()
    second = Learner(config(), first.learning, averaging_decay=0.9, seed=9)
    second.load_state_dict(state)
    for learner in (first, second):
        learner.step(make_batch(1), learning_rate=1e-2)
    ours, theirs = first.online.state_dict(), second.online.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(ours[WEIGHT], state["online"][WEIGHT])


def test_an_older_state_is_opened_by_its_zeros(tmp_path: Path) -> None:
    first = learner_with(tmp_path, config())
    state = first.state_dict()
    del state["padded"]
    second = Learner(config(), first.learning, averaging_decay=0.9, seed=9)
    second.load_state_dict(state)
    second.step(make_batch(1), learning_rate=1e-2)
    assert sees_floats(second)


@pytest.mark.parametrize("columns", [{WEIGHT: (0, 9999)}, {WEIGHT: (3, 2)}, {"x": (0, 1)}])
def test_columns_that_the_network_lacks_are_refused(
    columns: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    learner = learner_with(tmp_path, config())
    state = {**learner.state_dict(), "padded": columns}
    with pytest.raises(ValueError, match="padded columns"):
        learner.load_state_dict(state)


def test_a_head_that_thaws_trains_whole(tmp_path: Path) -> None:
    learner = learner_with(tmp_path, config(unfreeze_at_frames=100))
    before = learner.online.state_dict()[WEIGHT].clone()
    image = learner.online.image_features
    learner.step(make_batch(0), learning_rate=1e-2, frames=99)
    assert torch.equal(learner.online.state_dict()[WEIGHT][:, :image], before[:, :image])
    learner.step(make_batch(1), learning_rate=1e-2, frames=100)
    assert not torch.equal(learner.online.state_dict()[WEIGHT][:, :image], before[:, :image])


def test_a_frozen_head_without_padding_stays_whole() -> None:
    learner = Learner(config(), LearningConfig(), seed=2)
    learner.find_padded_columns()
    before = learner.online.state_dict()[WEIGHT].clone()
    learner.step(make_batch(0), learning_rate=1e-2)
    assert torch.equal(learner.online.state_dict()[WEIGHT], before)
    assert learner.padded == {}

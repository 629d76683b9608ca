"""One update: against its plain form, which weights move, guards, followers, restored state."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.plain_learner import PlainLearner
from rl.config.learning import BtrConfig, LearningConfig
from rl.learning.followers import average_rate
from rl.learning.learner import Learner
from rl.learning.resets import ResetTrigger
from rl.network.freezing import FrozenEncoder
from rl.network.iqn import PARTS
from rl.network.losses import SelfLossAverages
from tests.learner_samples import B, make_batch, network, weights_of


def test_the_loss_and_its_gradient_equal_the_plain_form() -> None:
    config, learning = network(), LearningConfig()
    learner = Learner(config, learning, seed=1)
    plain = PlainLearner(config, learning, weights_of(learner))
    with torch.no_grad():  # another target than the online network
        for ours, theirs in zip(
            learner.target.parameters(), plain.target.parameters(), strict=True
        ):
            ours.mul_(1.1)
            theirs.copy_(ours)
    batch = make_batch()
    taus = learner.objective.draw_taus(B, learner.generator, learner.device)
    averages = SelfLossAverages.initial()
    terms = learner.objective(learner.online, learner.target, batch, taus, averages)
    terms.loss.backward()  # type: ignore[no-untyped-call]
    expected = plain.loss(batch, taus)
    expected.backward()  # type: ignore[no-untyped-call]
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs_by_name = dict(plain.online.named_parameters())
    for name, parameter in learner.online.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs_by_name[name].grad, rtol=2e-4, atol=1e-5)


def test_steps_lead_where_the_plain_form_leads() -> None:
    config, learning = network(), LearningConfig()
    learner = Learner(config, learning, seed=1)
    plain = PlainLearner(config, learning, weights_of(learner))
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    for k in range(8):
        taus = learner.objective.draw_taus(200, generator, learner.device)
        ours = learner.step(make_batch(k, 200), learning_rate=1e-3)
        theirs = plain.step(make_batch(k, 200), taus, 1e-3)
        assert ours.loss == pytest.approx(theirs, rel=1e-3)
    expected = plain.target.state_dict()
    for name, tensor in weights_of(learner, "target").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_a_step_shrinks_the_weights_by_the_decay_times_the_rate() -> None:
    config, learning = network(), LearningConfig(weight_decay_lr_ratio=2.0)
    learner = Learner(config, learning, seed=1)
    plain = PlainLearner(config, learning, weights_of(learner))
    taus = learner.objective.draw_taus(B, torch.Generator().manual_seed(5), learner.device)
    learner.generator.manual_seed(5)
    learner.step(make_batch(), learning_rate=0.1)
    plain.step(make_batch(), taus, 0.1)  # a fifth of each weight is lost
    expected = plain.online.state_dict()
    for name, tensor in weights_of(learner).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("frozen", [(), ("vis",), ("vis", "advantage"), ("floats", "iqn", "value")])
@pytest.mark.parametrize("arch", ["default", "impala"])
def test_every_trainable_parameter_moves_and_no_frozen_one(
    frozen: tuple[str, ...], arch: str
) -> None:
    freeze = {"freeze": True}
    decoder = {name: freeze for name in ("advantage", "value") if name in frozen}
    cnn = {"channels": [2, 3, 4, 5]} if arch == "default" else {"arch": "impala", "channels": [4]}
    config = network(
        vis={"cnn": {**cnn, "spectral_norm": True}, "freeze": "vis" in frozen},
        floats={"freeze": "floats" in frozen},
        iqn={"freeze": "iqn" in frozen},
        decoder={**decoder, "noisy": True, "layer_norm": True},
    )
    # Weight decay moves everything that is not frozen: leave it out where moving is looked at.
    learning = LearningConfig(weight_decay_lr_ratio=1.0 if frozen else 0.0)
    learner = Learner(config, learning, averaging_decay=0.9)
    assert learner.frozen == set(frozen)
    before = weights_of(learner)
    for k in range(12):
        learner.step(make_batch(k, 16), learning_rate=1e-2)
    frozen_modules = tuple(PARTS[part] for part in frozen)
    trainable = {name for name, _ in learner.online.named_parameters()}
    for name, tensor in weights_of(learner).items():
        if name.startswith(frozen_modules):
            assert torch.equal(tensor, before[name]), name
        elif name in trainable:
            assert (tensor != before[name]).any(), name


def test_a_part_is_trained_once_its_frames_have_come() -> None:
    config = network(vis={"freeze": True, "unfreeze_at_frames": 100})
    learner = Learner(config, LearningConfig())
    first = weights_of(learner)["img_head.0.weight"]
    learner.step(make_batch(), learning_rate=1e-2, frames=99)
    assert torch.equal(weights_of(learner)["img_head.0.weight"], first)
    learner.step(make_batch(), learning_rate=1e-2, frames=100)
    assert not torch.equal(weights_of(learner)["img_head.0.weight"], first)


@pytest.mark.parametrize("freeze", [True, False])
def test_features_of_a_batch_stand_in_for_a_frozen_encoder_alone(freeze: bool) -> None:
    def build() -> Learner:
        return Learner(network(vis={"freeze": freeze}), LearningConfig(), seed=4)

    learner, plain, batch, encoded = build(), build(), make_batch(), []
    encode = FrozenEncoder(learner.online)
    kept = replace(
        batch,
        images=torch.from_numpy(encode(batch.frames[:, 0].numpy())),
        next_images=torch.from_numpy(encode(batch.next_frames[:, 0].numpy())),
    )
    for each in (learner.online, learner.target):
        assert each.img_head is not None
        each.img_head.register_forward_hook(lambda *_: encoded.append(1))
    loss = learner.step(kept, learning_rate=1e-2).loss
    assert len(encoded) == (0 if freeze else 3)
    assert loss == plain.step(batch, learning_rate=1e-2).loss
    assert all(torch.equal(v, weights_of(plain)[k]) for k, v in weights_of(learner).items())


def test_an_encoder_is_settled_if_it_is_frozen_in_the_target_network_too() -> None:
    assert not Learner(network(), LearningConfig()).has_settled_encoder
    learner = Learner(network(vis={"freeze": True}), LearningConfig())
    assert learner.has_settled_encoder
    assert learner.target.img_head is not None
    with torch.no_grad():  # it lags behind, as where the encoder was trained before a resume
        next(learner.target.img_head.parameters()).add_(1.0)
    assert not learner.has_settled_encoder


def test_a_part_learns_at_its_own_rate() -> None:
    learning = LearningConfig(optimizer="adam", weight_decay_lr_ratio=0.0)
    learner = Learner(network(vis={"lr_scale": 0.1}), learning)
    before = weights_of(learner)
    learner.step(make_batch(), learning_rate=1e-3)
    after = weights_of(learner)

    def largest(name: str) -> float:  # Adam's first step is the rate itself
        return float((after[name] - before[name]).abs().max())

    assert largest("A_head.0.weight") == pytest.approx(1e-3, rel=0.02)
    assert largest("img_head.2.weight") == pytest.approx(1e-4, rel=0.02)


def test_double_q_learning_lets_the_online_network_choose() -> None:
    config = network()
    targets = {}
    for use_ddqn in (True, False):
        learner = Learner(config, LearningConfig(use_ddqn=use_ddqn), seed=3)
        with torch.no_grad():
            learner.online.A_head.last.bias[4] += 100.0
        batch = make_batch(5, 50)
        batch.rewards.zero_()
        batch.discounts.fill_(1.0)
        taus = learner.objective.draw_taus(50, learner.generator, learner.device)
        aim, bonus = learner.objective._target(learner.online, learner.target, batch, taus)
        values = learner.target(batch.next_frames, batch.next_floats, taus.target)
        targets[use_ddqn] = aim
        best = values.mean(1).argmax(1)
        chosen = torch.full_like(best, 4) if use_ddqn else best
        torch.testing.assert_close(aim, values[torch.arange(50), :, chosen])
        assert (bonus == 0.0).all()
    assert not torch.equal(targets[True], targets[False])


def test_munchausen_adds_its_bonus_and_reports_its_size() -> None:
    learner = Learner(network(), LearningConfig(), BtrConfig(use_munchausen=True))
    stats = learner.step(make_batch(), learning_rate=1e-3)
    assert 0.0 < stats.mean_abs_munchausen <= 0.9
    assert stats.mean_abs_reward == pytest.approx(float(make_batch().rewards.abs().mean()))


def test_a_useless_batch_changes_nothing_and_is_counted() -> None:
    learner = Learner(network(), LearningConfig(skipped_batches_before_rollback=2))
    learner.step(make_batch(), learning_rate=1e-3)
    before = learner.state_dict()
    broken = make_batch()
    broken.rewards[1] = float("nan")
    stats = learner.step(broken, learning_rate=1e-3)
    assert stats.skipped
    assert not learner.is_lost
    for which in ("online", "target"):
        for name, tensor in weights_of(learner, which).items():
            assert torch.equal(tensor, before[which][name])
    assert torch.equal(learner.state_dict()["self_loss"], before["self_loss"])
    learner.step(broken, learning_rate=1e-3)
    assert learner.is_lost
    assert learner.counters.skipped == 2
    assert not learner.step(make_batch(), learning_rate=1e-3).skipped
    assert not learner.is_lost


def test_an_exploding_gradient_is_skipped() -> None:
    learner = Learner(network(), LearningConfig(exploding_gradient_norm=1e-3))
    assert learner.step(make_batch(), learning_rate=1e-3).skipped


def test_the_norm_is_reported_before_and_after_clipping() -> None:
    free = Learner(network(), LearningConfig(clip_grad_norm=1e5, clip_grad_value=1e5))
    stats = free.step(make_batch(), learning_rate=1e-3)
    assert stats.grad_norm_after_clip == pytest.approx(stats.grad_norm_before_clip)
    limit = stats.grad_norm_before_clip / 4
    for by in ("clip_grad_norm", "clip_grad_value"):
        limits = {"clip_grad_norm": 1e5, "clip_grad_value": 1e5, by: limit / 100}
        clipped = Learner(network(), LearningConfig(**limits)).step(
            make_batch(), learning_rate=1e-3
        )
        assert clipped.grad_norm_before_clip == pytest.approx(stats.grad_norm_before_clip)
        assert 0.0 < clipped.grad_norm_after_clip < limit


def test_the_target_follows_after_its_number_of_memories() -> None:
    learning = LearningConfig(
        number_memories_trained_on_between_target_network_updates=2 * B, soft_update_tau=0.25
    )
    learner = Learner(network(), learning)
    start = weights_of(learner)["A_head.0.weight"]
    for step in range(1, 7):
        before = weights_of(learner, "target")["A_head.0.weight"]
        learner.step(make_batch(step), learning_rate=1e-2)
        after = weights_of(learner, "target")["A_head.0.weight"]
        assert torch.equal(before, after) == bool(step % 2)
        if step == 2:
            online = weights_of(learner)["A_head.0.weight"]
            torch.testing.assert_close(after, 0.75 * start + 0.25 * online)
    assert learner.counters.target_updates == 3
    assert learner.counters.memories_used == 6 * B


def test_averaged_weights_are_the_running_average() -> None:
    learner = Learner(network(), LearningConfig(), averaging_decay=0.5)
    name, average = "V_head.0.weight", weights_of(learner)["V_head.0.weight"]
    for step in range(5):
        learner.step(make_batch(step), learning_rate=1e-2)
        average = average.lerp(weights_of(learner)[name], average_rate(0.5, step))
    torch.testing.assert_close(weights_of(learner, "averaged")[name], average)
    assert average_rate(0.5, 0) == pytest.approx(0.9)
    assert average_rate(0.999, 10**6) == pytest.approx(0.001)


def test_importance_weights_and_the_reduction_scale_the_loss() -> None:
    def loss(reduction: Any, weight: float) -> float:
        batch = make_batch()
        batch.weights.fill_(weight)
        learner = Learner(network(), LearningConfig(loss_reduction=reduction))
        return learner.step(batch, learning_rate=0.0).loss

    assert loss("sum", 1.0) == pytest.approx(B * loss("mean", 1.0))
    assert loss("sum", 0.25) == pytest.approx(0.25 * loss("sum", 1.0))


def test_errors_for_the_priorities_are_those_of_each_sample() -> None:
    learner, batch = Learner(network(), LearningConfig(), seed=3), make_batch(4)
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    stats = learner.evaluate(batch)
    taus = learner.objective.draw_taus(B, generator, learner.device)
    with torch.no_grad():
        quantiles = learner.online(batch.frames, batch.floats, taus.online)
        aim, _ = learner.objective._target(learner.online, learner.target, batch, taus)
    values = quantiles.mean(dim=1)[torch.arange(B), batch.actions]
    expected = [abs(float(values[b] - aim[b].mean())) for b in range(B)]
    assert max(expected) > 2 * min(expected)
    assert stats.td_errors.tolist() == pytest.approx(expected, rel=1e-4)


def test_bfloat16_products_hardly_change_the_loss() -> None:
    losses = [
        Learner(network(), LearningConfig(), dtype=dtype).evaluate(make_batch(0, 50)).loss
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("use_ddqn", [False, True])
def test_bfloat16_products_leave_no_parameter_without_a_gradient(use_ddqn: bool) -> None:
    """Some versions of torch reuse casts of weights from a pass without gradients."""
    learning = LearningConfig(weight_decay_lr_ratio=0.0, use_ddqn=use_ddqn)
    learner = Learner(network(), learning, dtype=torch.bfloat16)
    before = weights_of(learner)
    for k in range(3):
        learner.step(make_batch(k, 16), learning_rate=1e-2)
    trainable = {name for name, _ in learner.online.named_parameters()}
    for name, tensor in weights_of(learner).items():
        assert name not in trainable or (tensor != before[name]).any(), name


def test_measuring_the_loss_changes_no_weight() -> None:
    learner = Learner(network(), LearningConfig())
    before = learner.state_dict()
    assert learner.evaluate(make_batch()).loss > 0.0
    after = learner.state_dict()
    assert all(
        torch.equal(after["online"][name], before["online"][name]) for name in after["online"]
    )
    assert torch.equal(after["self_loss"], before["self_loss"])


def test_a_reset_mixes_fresh_weights_in_and_most_into_the_last_layers() -> None:
    learner = Learner(network(), LearningConfig())
    with torch.no_grad():
        for parameter in learner.online.parameters():
            parameter.fill_(1000.0)
    learner.reset()
    weights = weights_of(learner)
    assert weights["img_head.0.weight"].mean() == pytest.approx(990.0, rel=0.01)
    assert weights["A_head.0.weight"].mean() == pytest.approx(990.0, rel=0.01)
    assert weights["A_head.2.weight"].mean() == pytest.approx(198.0, rel=0.01)
    assert weights["V_head.2.weight"].mean() == pytest.approx(198.0, rel=0.01)


def test_a_reset_leaves_frozen_parts_alone() -> None:
    learner = Learner(network(decoder={"advantage": {"freeze": True}}), LearningConfig())
    before = weights_of(learner)
    learner.reset()
    for name, tensor in weights_of(learner).items():
        unchanged = torch.equal(tensor, before[name])
        is_zero_bias = name.endswith("bias")  # fresh biases are zero, too
        assert unchanged == name.startswith("A_head") or is_zero_bias, name


def test_resets_come_at_their_interval_and_when_the_flag_changes() -> None:
    trigger = ResetTrigger(LearningConfig(reset_every_n_frames_generated=100))
    assert [trigger.is_due(n) for n in (0, 99, 100, 150, 350, 399)] == [0, 0, 1, 0, 1, 0]
    flagged = ResetTrigger(LearningConfig(reset_every_n_frames_generated=100, single_reset_flag=1))
    flagged.load_state_dict(trigger.state_dict())
    assert [flagged.is_due(n) for n in (399, 399, 400)] == [1, 0, 1]

"""A cloned policy as a prior: preferences, scores, cohorts in a collector, columns, selector."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.collecting.collector import Collector
from rl.collecting.guide import GuideDriver
from rl.collecting.plan import CollectorPlan
from rl.collecting.prior_cars import FrozenPrior
from rl.config.learning import BtrConfig, LearningConfig, MemoryConfig
from rl.config.network import NetworkConfig
from rl.config.prior_options import HIGHER, LOWER, PRESENT
from rl.evaluation.greedy import evaluate
from rl.learning.learner import Learner
from rl.network import losses
from rl.network.iqn import IQN, midpoint_taus
from rl.network.policy import Policy
from rl.network.prior import ActionPrior, PriorPolicy, log_preferences
from rl.replay.memory import ReplayMemory
from rl.replay.rollout import PriorRun, Rollout
from rl.replay.segments import SegmentStore
from rl.transfer.heads import logits_to_soft_values
from tests.learner_samples import NETWORK, make_batch
from tests.prior_samples import clone, observations, zero_network
from tests.rl_samples import tiny_config
from tests.test_replay import A, F, H, W, make_rollout, rewards_of

FLOOR = -5.0


class TestPreferences:
    """Log probabilities less the largest, with a floor, in half precision."""

    def test_they_are_log_probabilities_relative_to_the_best(self) -> None:
        logits = torch.tensor([[1.0, 3.0, 2.5, -9.0], [0.0, -0.25, -1.0, -2.0]])
        found = log_preferences(logits, FLOOR)
        assert found.dtype == torch.float16
        assert found.tolist() == [[-2.0, 0.0, -0.5, -5.0], [0.0, -0.25, -1.0, -2.0]]
        softmax = torch.log_softmax(logits, dim=1)
        assert torch.allclose(found[1].float(), softmax[1] - softmax[1].max())

    def test_rounding_makes_no_ties_with_the_best(self) -> None:
        logits = torch.tensor([[0.0, 1e-9, 0.5e-9]])
        found = log_preferences(logits, FLOOR)
        assert (found == 0.0).tolist() == [[False, True, False]]

    def test_true_ties_stay(self) -> None:
        assert log_preferences(torch.zeros(1, 4), FLOOR).tolist() == [[0.0] * 4]

    def test_they_do_not_depend_on_the_batch(self) -> None:
        prior = ActionPrior(clone(), FLOOR)
        frames, floats = observations(9)
        whole = prior.preferences(frames, floats)
        alone = [prior.preferences(frames[i : i + 1], floats[i : i + 1])[0] for i in range(9)]
        assert np.allclose(whole.astype(np.float32), np.stack(alone).astype(np.float32), atol=2e-3)


class TestScores:
    """With values of 0 the scorer is the cloned policy; with a weight of 0 it is the network."""

    def test_values_of_zero_choose_the_cloned_actions(self) -> None:
        prior = clone()
        policy = PriorPolicy(zero_network(), prior, weight=0.003, floor=FLOOR)
        frames, floats = observations(200)
        scores = Policy(policy).values(frames, floats)
        assert np.array_equal(scores.argmax(1), Policy(prior).values(frames, floats).argmax(1))
        assert len(np.unique(scores.argmax(1))) > 2

    def test_weight_zero_is_the_network_alone(self) -> None:
        network = clone(7)
        policy = PriorPolicy(network, clone(), weight=0.0, floor=FLOOR)
        frames, floats = observations(20)
        assert np.array_equal(
            Policy(policy).values(frames, floats), Policy(network).values(frames, floats)
        )

    def test_scores_add_values_and_weighted_preferences(self) -> None:
        network, prior = clone(7), clone()
        policy = PriorPolicy(network, prior, weight=0.3, floor=FLOOR)
        frames, floats = observations(20)
        preferences = ActionPrior(prior, FLOOR).preferences(frames, floats).astype(np.float32)
        expected = Policy(network).values(frames, floats) + np.float32(0.3) * preferences
        assert np.array_equal(Policy(policy).values(frames, floats), expected)

    @pytest.mark.parametrize("same", [True, False])
    def test_frames_are_encoded_once_where_both_encoders_are_the_same(self, same: bool) -> None:
        network, prior = clone(7), clone()
        assert network.img_head is not None
        assert prior.img_head is not None
        if same:
            network.img_head.load_state_dict(prior.img_head.state_dict())
        frames, floats = observations(20)
        preferences = ActionPrior(prior, FLOOR).preferences(frames, floats).astype(np.float32)
        expected = Policy(network).values(frames, floats) + np.float32(0.3) * preferences
        encoded: list[int] = []
        for encoder in (network.img_head, prior.img_head):
            encoder.register_forward_hook(lambda *_: encoded.append(1))
        scores = Policy(PriorPolicy(network, prior, weight=0.3, floor=FLOOR)).values(frames, floats)
        assert len(encoded) == (1 if same else 2)
        assert np.array_equal(scores, expected)

    def test_evaluation_drives_the_cloned_runs(self, tmp_path: Path) -> None:
        track = next(iter(plan(tmp_path).tracks().values()))
        prior = clone(5)
        with torch.no_grad():
            prior.A_head.last.bias[0] += 0.4  # mostly accelerates, and finishes
        policy = PriorPolicy(zero_network(), prior, weight=0.1, floor=FLOOR)
        ours, theirs = (evaluate(each, track, starts=5) for each in (policy, prior))
        assert ours.finish_rate == 1.0
        assert np.array_equal(ours.times_ms, theirs.times_ms)
        assert ours.best_run is not None
        assert theirs.best_run is not None
        assert len(np.unique(ours.best_run.actions)) > 2
        assert np.array_equal(ours.best_run.actions, theirs.best_run.actions)


def plan(folder: Path, **changes: object) -> CollectorPlan:
    cfg = tiny_config(folder, epsilon_schedule=[[0, 0.0]], epsilon_boltzmann_schedule=[[0, 0.0]])
    cfg = cfg.model_copy(update={"prior": cfg.prior.model_copy(update=changes)})
    return CollectorPlan.from_config(cfg)


def collect(collector: Collector, count: int, level: int = 0) -> list[Rollout]:
    rollouts: list[Rollout] = []
    while len(rollouts) < count:
        rollouts += collector.step(70, level)
    return rollouts


def prior_of(rollout: Rollout) -> PriorRun:
    assert rollout.prior is not None
    return rollout.prior


class TestCollector:
    """What cars record and do with a prior."""

    def test_values_of_zero_drive_the_cloned_actions(self, tmp_path: Path) -> None:
        prior = clone()
        collector = Collector(
            plan(tmp_path, sample_share=0.0), zero_network(), prior=ActionPrior(prior, FLOOR)
        )
        rollouts = collect(collector, 4)
        for rollout in rollouts:
            rollout.check_valid()
            expected = Policy(prior).values(rollout.frames, rollout.floats).argmax(axis=1)
            assert np.array_equal(rollout.actions, expected)
            assert rollout.action_was_greedy.all()
            assert rollout.changed_share == 0.0

    def test_preferences_of_every_observation_are_kept_the_last_one_too(
        self, tmp_path: Path
    ) -> None:
        prior = ActionPrior(clone(), FLOOR)
        for rollout in collect(Collector(plan(tmp_path), clone(8), prior=prior), 4):
            found = prior.preferences(rollout.all_frames(), rollout.all_floats())
            kept = prior_of(rollout).preferences
            assert kept.dtype == np.float16
            assert kept.shape == (len(rollout) + 1, 12)
            assert np.allclose(kept.astype(np.float32), found.astype(np.float32), atol=4e-3)

    def test_flag_and_choice_follow_the_scores_as_rounded(self, tmp_path: Path) -> None:
        prior = ActionPrior(clone(), FLOOR)
        rollouts = collect(Collector(plan(tmp_path, sample_share=0.4), clone(8), prior=prior), 6)
        sampled = 0
        for rollout in rollouts:
            run = prior_of(rollout)
            scores = rollout.q_values + np.float32(run.weight) * run.preferences[:-1].astype(
                np.float32
            )
            greedy = scores.argmax(axis=1)
            assert np.array_equal(rollout.action_was_greedy, rollout.actions == greedy)
            sampled += int((rollout.actions != greedy).sum())
            if not rollout.is_exploration:
                assert rollout.action_was_greedy.all()
            chosen = np.take_along_axis(
                run.preferences[:-1], rollout.actions[:, None].astype(np.int64), axis=1
            )[:, 0]
            if run.judged:
                assert (chosen[~rollout.action_was_greedy] > FLOOR).all()
        assert sampled > 5

    def test_some_runs_try_a_smaller_weight_and_are_not_judged(self, tmp_path: Path) -> None:
        prior = ActionPrior(clone(), FLOOR)
        chosen = plan(
            tmp_path,
            sample_share=0.0,
            release_every_runs=2,
            release_share=0.5,
            release_factor=0.0,
            release_actions=4,
        )
        runs = collect(Collector(chosen, clone(8), prior=prior), 14)
        differing = {True: 0, False: 0}
        for rollout in runs:
            run = prior_of(rollout)
            differing[run.judged] += int((~rollout.action_was_greedy).sum())
            if not run.judged:
                off = ~rollout.action_was_greedy
                assert np.array_equal(rollout.actions[off], rollout.q_values.argmax(axis=1)[off])
        assert differing[True] == 0
        assert differing[False] > 2
        explored = sorted((r for r in runs if r.is_exploration), key=lambda r: prior_of(r).number)
        judged = [prior_of(rollout).judged for rollout in explored[:4]]
        assert judged == [True, False, True, False]
        assert not any(prior_of(rollout).judged for rollout in runs if not rollout.is_exploration)

    def test_runs_take_cohorts_in_turn_at_the_level_of_their_start(self, tmp_path: Path) -> None:
        chosen = plan(tmp_path)
        collector = Collector(chosen, zero_network(), prior=ActionPrior(clone(), FLOOR))
        rollouts = collect(collector, 9, level=2)
        runs = sorted((prior_of(each) for each in rollouts), key=lambda run: run.number)
        assert len({run.number for run in runs}) == len(runs)
        for run in runs:
            assert run.weight == pytest.approx(chosen.prior.weight_of(run.level, run.cohort))
            assert run.collector == chosen.seed
        assert {run.level for run in runs} == {0, 2}  # those before the first step started at 0
        greedy = [prior_of(each) for each in rollouts if not each.is_exploration]
        assert greedy
        assert {run.cohort for run in greedy} == {PRESENT}
        assert {run.cohort for run in runs} >= {PRESENT, LOWER}
        assert all(run.cohort in (HIGHER, PRESENT, LOWER) for run in runs)

    def test_state_continues_exactly(self, tmp_path: Path) -> None:
        prior = ActionPrior(clone(), FLOOR)
        chosen = plan(tmp_path, sample_share=0.3)
        first = Collector(chosen, clone(8), prior=prior)
        for _ in range(30):
            first.step(70, 1)
        second = Collector(replace(chosen, seed=99), clone(9), prior=prior)
        second.load_state_dict(first.state_dict())
        for ours, theirs in zip(collect(first, 5, 1), collect(second, 5, 1), strict=True):
            assert np.array_equal(ours.actions, theirs.actions)
            assert prior_of(ours).weight == prior_of(theirs).weight
            assert prior_of(ours).number == prior_of(theirs).number
            assert prior_of(ours).collector == prior_of(theirs).collector
            assert np.array_equal(prior_of(ours).preferences, prior_of(theirs).preferences)

    def test_without_a_prior_nothing_is_kept(self, tmp_path: Path) -> None:
        collector = Collector(plan(tmp_path), zero_network())
        assert all(rollout.prior is None for rollout in collect(collector, 3))
        assert "prior" not in collector.state_dict()


def with_preferences(rollout: Rollout) -> Rollout:
    """The run with preferences that tell the step: -step / 100 for every action but the first."""
    steps = np.arange(len(rollout) + 1, dtype=np.float16)[:, None] / np.float16(128)
    preferences = -np.repeat(steps, A, axis=1)
    preferences[:, 0] = 0.0
    return replace(rollout, prior=PriorRun(preferences, 0.1, 0, 0, True, 0, 0, 0))


def test_prior_and_guide_travel_as_plain_data() -> None:
    """What collectors elsewhere receive scores exactly as what was sent."""
    frames, floats = observations(20)
    sent = FrozenPrior(ActionPrior(clone(), FLOOR))
    got = pickle.loads(pickle.dumps(sent))
    assert got.policy.floor == FLOOR
    assert np.array_equal(
        got.policy.preferences(frames, floats), sent.policy.preferences(frames, floats)
    )
    policy = PriorPolicy(clone(8), clone(), weight=0.2, floor=FLOOR)
    guide = pickle.loads(pickle.dumps(GuideDriver(policy, 1000)))
    assert np.array_equal(
        Policy(guide.network).values(frames, floats), Policy(policy).values(frames, floats)
    )


class TestMemory:
    """A column beside the observations, only with a prior."""

    def test_a_batch_has_the_preferences_of_the_next_observation(self) -> None:
        config = MemoryConfig(n_steps=3, mini_race=False, buffer_test_ratio=0.0)
        memory = ReplayMemory(60, (H, W), F, config, preferences=A)
        rng = np.random.default_rng(0)
        for seed, steps in ((1, 17), (2, 40)):
            rollout = with_preferences(make_rollout(steps, seed))
            memory.add(rollout, rewards_of(rollout), rng)
        batch = memory.sample(50, rng, gamma=0.9)
        assert batch.next_preferences is not None
        step = batch.next_floats[:, 1] % 1000
        assert torch.equal(batch.next_preferences[:, 1].float(), (-step / 128).half().float())
        assert bool((batch.next_preferences[:, 0] == 0).all())
        assert torch.equal(batch.clone().next_preferences, batch.next_preferences)  # type: ignore[arg-type]

    def test_a_run_without_preferences_is_refused(self) -> None:
        memory = ReplayMemory(60, (H, W), F, MemoryConfig(), preferences=A)
        rollout = make_rollout(9, 1)
        with pytest.raises(ValueError, match="preferences"):
            memory.add(rollout, rewards_of(rollout), np.random.default_rng(0))

    def test_without_a_prior_there_is_no_column(self, tmp_path: Path) -> None:
        memory = ReplayMemory(60, (H, W), F, MemoryConfig(mini_race=False))
        rollout = with_preferences(make_rollout(9, 1))
        memory.add(rollout, rewards_of(rollout), np.random.default_rng(0))
        assert memory.sample(5, np.random.default_rng(0), gamma=0.9).next_preferences is None
        assert "preferences" not in memory.rows()
        store = SegmentStore(tmp_path)
        (segment,) = store.append(memory)
        assert "preferences" not in torch.load(store.path(segment))

    def test_segments_keep_the_column(self, tmp_path: Path) -> None:
        def new() -> ReplayMemory:
            return ReplayMemory(60, (H, W), F, MemoryConfig(mini_race=False), preferences=A)

        memory, again, store = new(), new(), SegmentStore(tmp_path)
        rollout = with_preferences(make_rollout(19, 1))
        memory.add(rollout, rewards_of(rollout), np.random.default_rng(0))
        store.append(memory)
        store.restore(again, memory.cursor())
        assert np.array_equal(again.rows()["preferences"], prior_of(rollout).preferences)


class TestTarget:
    """The next action of the target maximises the score, as in driving."""

    @pytest.mark.parametrize("use_ddqn", [True, False])
    def test_target_takes_the_action_of_the_highest_score(self, use_ddqn: bool) -> None:
        from rl.learning.objective import Objective

        config = NetworkConfig.model_validate(NETWORK)
        torch.manual_seed(0)
        online, target = IQN(config).eval(), IQN(config).eval()
        learning = LearningConfig(use_ddqn=use_ddqn, target_self_loss_clamp_ratio=None)
        objective = Objective(learning, BtrConfig(), config.iqn, torch.float32)
        batch = make_batch(size=40)
        rng = np.random.default_rng(1)
        logits = torch.from_numpy(rng.normal(size=(40, 12), scale=3.0))
        batch.next_preferences = log_preferences(logits, FLOOR)
        batch.discounts[:] = 0.9
        taus = objective.draw_taus(40, torch.Generator().manual_seed(2), torch.device("cpu"))
        weight = torch.tensor(0.2)
        aims = []
        for w in (weight, None):
            aims.append(objective._target(online, target, batch, taus, w)[0])
        with torch.no_grad():
            quantiles = target(batch.next_frames, batch.next_floats, taus.target)
            if use_ddqn:
                q_values = online.q_values(batch.next_frames, batch.next_floats, taus.helper)
            else:
                q_values = quantiles.mean(dim=1)
            scores = q_values + 0.2 * batch.next_preferences.float()
            expected = [
                losses.greedy_target(batch.rewards, batch.discounts, quantiles, selector)
                for selector in (scores, q_values)
            ]
        assert (scores.argmax(1) != q_values.argmax(1)).float().mean() > 0.2
        for ours, theirs in zip(aims, expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)

    def test_a_loss_without_a_weight_is_that_at_weight_zero(self) -> None:
        config = NetworkConfig.model_validate(NETWORK)
        batch = make_batch()
        batch.next_preferences = torch.randn(len(batch), 12).half()
        found = []
        for options in ({}, {"prior_weight": 0.0}, {"prior_weight": 1.0}):
            learner = Learner(config, LearningConfig(), seed=3)
            found.append(learner.evaluate(batch, **options).loss)
        assert found[0] == found[1] != found[2]


def test_logits_become_the_soft_values_of_the_same_policy() -> None:
    """The policy softmax(Q / temperature) is the cloned one, whatever the values are."""
    network, temperature = clone(), 0.03
    frames, floats = observations(30)
    images, features = torch.from_numpy(frames).unsqueeze(1), torch.from_numpy(floats)
    taus = midpoint_taus(1, 3)
    with torch.no_grad():
        cloned = torch.softmax(network.q_values(images, features, taus), dim=1)
        logits_to_soft_values(network, temperature)
        network.V_head.last.bias.fill_(4.0)
        values = network.q_values(images, features, taus)
        assert torch.allclose(torch.softmax(values / temperature, dim=1), cloned, atol=1e-4)
    assert float((cloned.max(dim=1).values - 1 / 12).max()) > 0.1
    with pytest.raises(ValueError, match="above 0"):
        logits_to_soft_values(network, 0.0)

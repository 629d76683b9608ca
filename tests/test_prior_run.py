"""Runs with a prior: from the cloned policy to checkpoints, files and other commands."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.contract.actions import TICK_MS
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.reader import ReplayFile
from pipeline.cli import main
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from rl.config.experiment import RLConfig
from rl.envs.factory import SIMULATOR
from rl.evaluation.greedy import evaluate
from rl.network.iqn import IQN
from rl.network.policy import Policy
from rl.network.prior import PriorPolicy, copy_of
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.training.setup import load_pretrained
from rl.training.train import TrainingResult, train
from rl.transfer.artifacts import module_tensors, save_artifacts
from rl.transfer.load_policy import load_policy
from rl.transfer.metadata import ENCODER_FILE, IQN_FILE, META_FILE, PRIOR_FILE, read_meta
from tests.prior_samples import clone, observations, zero_network
from tests.rl_samples import tiny_config, tiny_network
from tests.saved_states import differences, saved
from tests.test_metrics_run import documented, events_of, scalars
from tests.transfer_helpers import pretrained

STEPPING = {
    "runs_per_decision": 2,
    "most_dnfs_to_lower": 2,
    "slower_to_lower": 1.5,
    "frames_between_steps": 100,
    "sample_share": 0.2,
    "epsilon_schedule": [[0, 0.2]],
}
"""A ladder that moves within a few runs."""


def prior_config(folder: Path, **changes: Any) -> RLConfig:
    """`tiny_config` with the prior's own defaults: automatic."""
    return tiny_config(folder, **{"prior": {}, **changes})


def prior_run(folder: Path, **changes: Any) -> tuple[Run, Path]:
    """A fresh run that has loaded the pretrained policy of `tests.transfer_helpers`."""
    path, _ = pretrained(folder)
    run = build_run(prior_config(folder, **changes))
    load_pretrained(run, RunFolder(folder / "run"), SIMULATOR.maps(run.cfg.map_cycle.maps), path)
    return run, path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A short run with a prior, from start to end."""
    folder = tmp_path_factory.mktemp("prior")
    path, _ = pretrained(folder)
    return train(prior_config(folder, prior=STEPPING), pretrain=path, max_grad_steps=40)


class TestStart:
    """A run starts as the policy it was given."""

    def test_first_evaluation_is_that_of_the_cloned_policy(self, tmp_path: Path) -> None:
        path, cloned = pretrained(tmp_path)
        run = build_run(prior_config(tmp_path))
        loaded = load_pretrained(run, RunFolder(tmp_path / "run"), {}, path)
        (track,) = SIMULATOR.maps(run.cfg.map_cycle.maps).values()
        assert loaded.policy is not None
        assert loaded.driven == []  # nothing is calibrated
        assert not run.calibration_due
        ours, theirs = (evaluate(each, track, starts=6) for each in (loaded.policy, cloned))
        assert np.array_equal(ours.times_ms, theirs.times_ms)
        assert ours.finish_rate == 1.0

    def test_trunk_is_the_policys_and_heads_are_zero(self, tmp_path: Path) -> None:
        path, cloned = pretrained(tmp_path)
        run = build_run(prior_config(tmp_path))
        load_pretrained(run, RunFolder(tmp_path / "run"), {}, path)
        for network in (run.learner.online, *run.learner.followers):
            for name, tensor in network.state_dict().items():
                if name.startswith(("img_head", "float_feature_extractor", "iqn_fc")):
                    assert torch.equal(tensor, cloned.state_dict()[name])
            for head in (network.A_head, network.V_head):
                assert not head.last.weight.any()
                assert not head.last.bias.any()
                assert head.first.weight.any()

    def test_report_says_that_the_cloned_actions_are_kept(self, finished: TrainingResult) -> None:
        report = json.loads(finished.folder.injection_report.read_text())
        assert report["greedy_agreement_after"] == 1.0
        first = read_csv(finished.folder.evaluations)[0]
        assert (first["weights"], first["prior_weight"]) == ("pretrained", "0.05")
        assert not finished.folder.calibration_report.exists()

    def test_prior_is_asked_with_as_many_fractions_as_the_run(self, tmp_path: Path) -> None:
        network = tiny_network().model_dump(mode="json")
        network["iqn"]["k"] = 5
        run, _ = prior_run(tmp_path, nn=network)
        assert run.prior is not None
        assert run.prior.policy.taus.shape == (1, 5)

    def test_exploration_is_the_priors(self, tmp_path: Path) -> None:
        run, _ = prior_run(tmp_path, prior={"epsilon_schedule": [[0, 0.07]]})
        assert run.cfg.schedules_at(0).epsilon == 0.07
        assert run.cfg.schedules_at(0).epsilon_boltzmann == 0.0


class TestSwitch:
    """auto, on, off, and what excludes a prior."""

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"guide": {"enabled": True}}, "guide.enabled"),
            ({"btr": {"use_munchausen": True}}, "use_munchausen"),
            ({"transfer": {"parts": ["vis", "advantage", "iqn"]}}, "transfer.parts"),
        ],
    )
    def test_what_excludes_a_prior(
        self,
        changes: dict[str, Any],
        reason: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        changes = {"transfer": {"calibration": False}, **changes}
        with pytest.raises(ValueError, match=reason):
            prior_config(tmp_path, prior={"enabled": "on"}, **changes)
        caplog.set_level(logging.INFO)
        run, _ = prior_run(tmp_path, **changes)
        assert run.prior is None
        lines = [each for each in caplog.messages if "no prior" in each]
        assert len(lines) == 1
        assert reason in lines[0]

    def test_noise_on_the_values_excludes_it(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="use_noisy_linear"):
            prior_config(tmp_path, prior={"enabled": True}, btr={"use_noisy_linear": True})

    @pytest.mark.parametrize("enabled", ["on", "auto", "off"])
    def test_part_of_a_policy(self, enabled: str, tmp_path: Path) -> None:
        network = IQN(tiny_network())
        assert network.img_head is not None
        tensors = module_tensors(network.img_head, "img_head")
        path = tmp_path / "vis"
        files = {ENCODER_FILE: tensors}
        save_artifacts(path, files, stage="vis", run_name="vis", network=tiny_network())
        run = build_run(prior_config(tmp_path, prior={"enabled": enabled}))
        if enabled == "on":
            with pytest.raises(UserError, match="whole cloned policy"):
                load_pretrained(run, RunFolder(tmp_path / "run"), {}, path)
            return
        load_pretrained(run, RunFolder(tmp_path / "run"), {}, path)
        assert run.prior is None

    def test_off_calibrates_as_before(self, tmp_path: Path) -> None:
        run, _ = prior_run(tmp_path, prior={"enabled": False}, transfer={"calibration": False})
        assert run.prior is None
        assert run.learner.online.A_head.last.weight.any()
        assert run.cfg.schedules_at(0).epsilon == 0.5

    def test_refusal_is_one_line_and_exit_code_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "x.yaml"
        config.write_text("prior: {enabled: on}\nguide: {enabled: true}\n")
        assert main(["rl", "--config", str(config)]) == 2
        found = capsys.readouterr()
        assert "prior.enabled: on excludes guide.enabled" in (found.out + found.err).replace(
            "\n", " "
        )


class TestTraining:
    """The weight moves, is logged and saved, and resuming changes nothing."""

    def test_weight_falls_and_is_logged(self, finished: TrainingResult) -> None:
        log = (finished.folder.root / "train.log").read_text()
        assert "weight of the prior: 0.05 to 0.035" in log
        rows = read_csv(finished.folder.metrics)
        assert float(rows[-1]["prior_weight"]) < 0.05
        assert 0.0 <= float(rows[-1]["prior_changed_share"]) <= 1.0

    def test_its_tags_are_documented(self, finished: TrainingResult) -> None:
        folder = finished.folder.root.parents[1] / "tensorboard" / "tiny"
        written = {tag for tag in scalars(events_of(folder)) if tag.startswith("RL/prior")}
        listed = [pattern for pattern in documented() if pattern.startswith("RL/prior")]
        assert len(listed) == 2
        for pattern in listed:
            assert any(re.match(pattern, tag) for tag in written), pattern
        for tag in written:
            assert any(re.match(pattern, tag) for pattern in listed), tag

    @pytest.mark.parametrize("stops", [(9,), (5, 24)])
    def test_resumed_run_equals_an_uninterrupted_one(
        self, stops: tuple[int, ...], tmp_path: Path
    ) -> None:
        path, _ = pretrained(tmp_path)
        whole = prior_config(tmp_path, run_name="whole", prior=STEPPING)
        parts = prior_config(tmp_path, run_name="parts", prior=STEPPING)
        train(whole, pretrain=path, max_grad_steps=40)
        run = tmp_path / "rl" / "parts"
        train(parts, pretrain=path, max_grad_steps=stops[0])
        for stop in (*stops[1:], 40):
            torch.manual_seed(stop)  # what another process would have
            train(parts, resume=run, max_grad_steps=stop)
        ours, theirs = saved(tmp_path / "rl" / "whole"), saved(run)
        # The end of each call evaluates, which the uninterrupted run does once.
        for state in (ours, theirs):
            del state["champion"], state["state"]["evaluations"]
            for name in ("alltime_min_ms", "frames_of_best"):  # best times count evaluations too
                del state["state"]["statistics"][name]
        assert differences(ours, theirs) == []
        assert ours["state"]["prior_ladder"]["level"] > 0
        assert ours["rows"]["preferences"].dtype == torch.float16

    def test_collectors_in_processes_get_the_prior_and_its_weight(self, tmp_path: Path) -> None:
        """Runs without preferences would be refused by the memory."""
        path, _ = pretrained(tmp_path)
        parallel = {"serial": False, "collectors_count": 1, "cars_per_collector": 3}
        cfg = prior_config(
            tmp_path,
            prior={**STEPPING, "runs_per_decision": 1, "slower_to_raise": 100.0},
            performance={**parallel, "device": "cpu"},
        )
        # The weight never rises here, and some ten groups of cars may lower it: one group
        # alone can fail, because the order of driving and learning is not fixed.
        folder = train(cfg, pretrain=path, max_frames=3000).folder
        run = build_run(cfg)
        RunSaver(folder).restore(run)
        assert run.prior is not None
        assert run.memory.rows()["preferences"].any()
        # After the first step, only runs that started at the new weight can lead to a second.
        assert run.prior.ladder.level > 1

    def test_run_without_a_prior_saves_what_it_did_before(self, tmp_path: Path) -> None:
        run = train(prior_config(tmp_path), max_grad_steps=3).folder.root
        found = saved(run)
        assert "prior" not in found
        assert "prior_ladder" not in found["state"]
        assert "preferences" not in found["rows"]
        assert "prior" not in found["collector"]
        meta = json.loads((run / "best" / META_FILE).read_text())
        assert "prior" not in meta

    def test_resume_refuses_another_switch(self, finished: TrainingResult, tmp_path: Path) -> None:
        folder, saver = finished.folder.root.parents[1], RunSaver(finished.folder)
        with pytest.raises(UserError, match="drives with a prior, and prior"):
            saver.restore(build_run(prior_config(folder, prior={"enabled": "off"})))
        without = train(prior_config(tmp_path), max_grad_steps=1).folder
        with pytest.raises(UserError, match="has no prior"):
            RunSaver(without).restore(build_run(prior_config(tmp_path, prior={"enabled": "on"})))


class TestFiles:
    """A policy with a weight above 0 is two networks and a number, everywhere the same."""

    def test_saved_policy_scores_exactly_as_the_run(self, finished: TrainingResult) -> None:
        run = build_run(prior_config(finished.folder.root.parents[1], prior=STEPPING))
        RunSaver(finished.folder).restore(run)
        assert run.champion.weights is not None
        driver = copy_of(run.driver(run.learner.online))
        driver.load_state_dict(run.champion.weights)
        loaded = load_policy(finished.folder.best)
        assert isinstance(loaded, PriorPolicy)
        frames, floats = observations(40)
        assert np.array_equal(
            Policy(loaded).values(frames, floats), Policy(driver).values(frames, floats)
        )
        meta = read_meta(finished.folder.best / META_FILE)
        assert meta.prior is not None
        assert set(meta.sha256) == {IQN_FILE, PRIOR_FILE}
        assert "prior.pt" in (finished.folder.best / "MODEL_CARD.md").read_text()

    def test_a_changed_prior_is_refused(self, finished: TrainingResult, tmp_path: Path) -> None:
        for file in finished.folder.best.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        load_policy(tmp_path)
        (tmp_path / PRIOR_FILE).write_bytes((tmp_path / IQN_FILE).read_bytes())
        with pytest.raises(UserError, match="its hash"):
            load_policy(tmp_path)
        (tmp_path / PRIOR_FILE).unlink()
        with pytest.raises(UserError, match="no such file"):
            load_policy(tmp_path)

    def test_weight_zero_is_one_file(self, tmp_path: Path) -> None:
        run, _ = prior_run(tmp_path)
        assert run.prior is not None
        driver, best = run.driver(run.learner.online), tmp_path / "best"
        from rl.network.prior import describe
        from rl.transfer.policy_files import save_policy

        save_policy(best, describe(driver), driver.state_dict(), run_name="x")
        assert (best / PRIOR_FILE).exists()
        run.prior.ladder.start_at(0.0)
        driver = run.driver(run.learner.online)
        save_policy(best, describe(driver), driver.state_dict(), run_name="x")
        assert not (best / PRIOR_FILE).exists()
        assert isinstance(load_policy(best), IQN)
        assert "prior" not in json.loads((best / META_FILE).read_text())

    def test_eval_drives_the_saved_policy(
        self, finished: TrainingResult, capsys: pytest.CaptureFixture[str]
    ) -> None:
        track = finished.folder.root.parents[1] / "straight.npy"
        arguments = ["--track", str(track), "--episodes", "3", "--json"]
        assert main(["eval", str(finished.folder.root), *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["policy"]["finish_rate"] == 1.0

    def test_datasets_are_driven_by_both(self, finished: TrainingResult, tmp_path: Path) -> None:
        line, best = finished.folder.root.parents[1] / "straight.npy", finished.folder.best
        policy = load_policy(best)
        assert isinstance(policy, PriorPolicy)
        side = policy.config.image_hw
        request = DriveRequest((str(line),), 2, skills=(0.7, 0.7), image_size=side, policy=best)
        drive_dataset(tmp_path / "driven.h5", replace(request, policy_share=1.0))
        with ReplayFile(tmp_path / "driven.h5") as file:
            records = [file.replay(index) for index in range(2)]
        for record in records:  # one frame for each decision, and one at the finish
            assert record.finished
            held = record.actions[record.frame_time_ms[:-1] // TICK_MS]
            driven = Policy(policy).values(record.frames[:-1], record.floats[:-1]).argmax(axis=1)
            assert np.array_equal(held, driven)

    def test_onnx_is_one_graph_of_both(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        from pipeline.exporting.onnx_policy import OnnxPolicy, compare, onnx_bytes

        frames, floats = observations(80)
        cloned = clone()
        at_zero = PriorPolicy(zero_network(), cloned, weight=0.1, floor=-5.0)
        _, actions = OnnxPolicy(onnx_bytes(at_zero, {})).act(frames, floats)
        assert np.array_equal(actions, Policy(cloned).values(frames, floats).argmax(axis=1))
        policy = PriorPolicy(clone(9), cloned, weight=0.4, floor=-5.0)
        parity = compare(policy, onnx_bytes(policy, {}), frames, floats)
        assert parity.holds
        assert parity.agreement == 1.0
        alone = compare(policy, onnx_bytes(clone(9), {}), frames, floats)
        assert not alone.holds

    def test_safetensors_refuse_half_a_policy(
        self, finished: TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("safetensors")
        out = ["--format", "safetensors", "--out", str(tmp_path / "x.safetensors")]
        assert main(["export", str(finished.folder.best), *out]) == 2
        assert "half of a policy" in "".join(capsys.readouterr())

    @pytest.mark.parametrize("suffix", ["", "@best"])
    def test_init_from_takes_the_prior_too(
        self, suffix: str, finished: TrainingResult, tmp_path: Path
    ) -> None:
        init = {"init_from": f"{finished.folder.root}{suffix}"}
        result = train(prior_config(tmp_path, prior=STEPPING, **init), max_grad_steps=2)
        run = build_run(prior_config(tmp_path, prior=STEPPING))
        RunSaver(result.folder).restore(run)
        assert run.prior is not None
        if suffix == "@best":
            first = read_csv(result.folder.evaluations)[0]
            kept = read_meta(finished.folder.best / META_FILE)
            assert kept.prior is not None
            assert float(first["prior_weight"]) == pytest.approx(kept.prior.weight)
        off = {"prior": {"enabled": "off"}, "run_name": "off"}
        with pytest.raises(UserError, match="its values alone are no policy"):
            train(prior_config(tmp_path, **off, **init), max_grad_steps=1)

    def test_heads_of_a_policy_with_a_prior_are_not_loaded_alone(
        self, finished: TrainingResult, tmp_path: Path
    ) -> None:
        run = build_run(prior_config(tmp_path))
        with pytest.raises(UserError, match="its heads alone are none"):
            load_pretrained(run, RunFolder(tmp_path / "run"), {}, finished.folder.best)

    def test_it_can_guide(self, finished: TrainingResult, tmp_path: Path) -> None:
        guide = {"guide": {"enabled": True, "share": 1.0}}
        parts = {"transfer": {"parts": ["vis", "floats", "iqn"]}}
        cfg = prior_config(tmp_path, **guide, **parts)
        folder = train(cfg, pretrain=finished.folder.best, max_grad_steps=2).folder
        run = build_run(cfg)
        RunSaver(folder).restore(run)
        assert run.guide is not None
        frames, floats = observations(20)
        best = Policy(load_policy(finished.folder.best)).values(frames, floats)
        assert np.array_equal(Policy(run.guide.network).values(frames, floats), best)

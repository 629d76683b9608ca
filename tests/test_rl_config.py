"""The configuration of reinforcement learning: defaults, old names, and refusals."""

from pathlib import Path

import pytest

from datasets.contract.config import dump_config
from datasets.contract.errors import UserError
from rl.config.experiment import RLConfig, load_rl_config

FOLDER = Path(__file__).parent.parent / "config_files" / "rl"


def test_the_default_recipe_begins_with_what_it_was_given() -> None:
    """No phase of random actions, no wait for a large memory; a cloned policy stays as a prior."""
    config = load_rl_config(FOLDER / "config_default.yaml")
    assert config.prior.enabled == "auto"
    assert not config.guide.enabled
    assert config.nn.decoder.zero_init_last
    assert config.schedules_at(0).epsilon <= 0.3
    assert config.with_prior(has_cloned_encoder=True).schedules_at(0).epsilon <= 0.05
    assert config.schedules_at(0).memory_start <= 5_000
    network = RLConfig().network  # what `bc` trains by default: its trunk must fit
    assert config.network.model_dump(include={"vis", "floats"}) == network.model_dump(
        include={"vis", "floats"}
    )


def test_a_resolved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = load_rl_config(FOLDER / "config_btr.yaml", ["limits.max_minutes=3", "batch_size=7"])
    dump_config(config, tmp_path / "config_snapshot.yaml")
    assert load_rl_config(tmp_path / "config_snapshot.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("neural_network.w_downsized=64", "nn.image_size"),
        ("neural_network.iqn_n=8", "nn.iqn.n"),
        ("iqn_embedding_dimension=64", "nn.iqn.embedding_dimension"),
        ("training.pretrain_encoder_freeze=true", "nn.vis.freeze"),
        ("training.batch_size=64", "use `batch_size`"),
        ("performance.gpu_collectors_count=4", "performance.collectors_count"),
        ("performance.running_speed=4", "use `running_speed`"),
        ("batch_sise=64", "did you mean `batch_size`"),
        ("use_jit=true", "use `performance.compile`"),
        ("environment.timeout_during_run_ms=10100", "use `game.response_margin_s`"),
        ("game.batch_size=64", "did you mean `batch_size`"),
        ("max_rollout_queue_size=1", "did you mean `performance.max_rollout_queue_size`"),
        ("constant_reward_per_ms=1", "did you mean `rewards.constant_reward_per_ms`"),
        ("lr_schedule=[[0, 0.1], [9, 0.1], [5, 0.1]]", "step 5 comes after step 9"),
        ("lr_schedule=[[0, -0.1]]", "negative value"),
        ("epsilon_schedule=[[0, 2.0]]", "outside 0 to 1"),
        ("memory_size_schedule=[[0, [10, 20]]]", "start <= capacity"),
        (
            "map_cycle.entries=[{short_name: a, map_path: short, is_exploration: false}]",
            "is_exploration: true",
        ),
        (
            "map_cycle.entries=[{short_name: a, map_path: short, is_exploration: true}, "
            "{short_name: a, map_path: A01, is_exploration: true}]",
            "two different maps",
        ),
        ("nn.n_stack=4", "n_stack"),
        ("performance={serial: true, collector_backend: ray}", "must be local"),
        ("performance.ray_address=auto", "needs collector_backend: ray"),
        ("keep_optimizer=true", "keep_optimizer needs init_from"),
        ("plateau_breaker={hold_frames: 0, decay_frames: 0}", "a phase has no length"),
    ],
)
def test_mistakes_are_told_in_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_rl_config(FOLDER / "config_default.yaml", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mini_races_need_their_clock() -> None:
    with pytest.raises(UserError, match="mini_race needs"):
        load_rl_config(None, ["mini_race=true", "nn.floats.enabled=false"])


@pytest.mark.parametrize(("text", "on"), [("off", False), ("on", True), ("false", False)])
def test_calibration_is_switched_by_on_and_off(text: str, on: bool) -> None:
    assert load_rl_config(None, [f"transfer.calibration={text}"]).transfer.calibration is on


@pytest.mark.parametrize("text", ["on", "off", "auto"])
def test_compilation_is_switched_by_on_off_and_auto(text: str) -> None:
    assert load_rl_config(None, [f"performance.compile={text}"]).performance.compile == text


def test_the_cycle_knows_its_maps_and_which_are_learnt_from() -> None:
    entries = (
        "map_cycle.entries=[{short_name: a, map_path: short, is_exploration: true, repeat: 2}, "
        "{short_name: b, map_path: A01, is_exploration: false, fill_buffer: false}]"
    )
    cycle = load_rl_config(None, [entries]).map_cycle
    assert [entry.short_name for entry in cycle.maps] == ["a", "b"]
    assert cycle.is_trained("a")
    assert not cycle.is_trained("b")


def test_the_switches_of_btr_and_of_the_image_head_reach_the_network() -> None:
    config = load_rl_config(
        FOLDER / "config_btr.yaml", ["btr.noisy_sigma0=0.25", "use_iqn_image_head=false"]
    )
    network = config.network
    assert network.decoder.layer_norm
    assert network.floats.layer_norm
    assert network.vis.cnn.layer_norm
    assert network.decoder.noisy
    assert network.decoder.noisy_sigma0 == 0.25
    assert network.image_hw == (1, 1)
    assert not RLConfig().network.decoder.layer_norm


def test_engineered_rewards_follow_their_schedules() -> None:
    config = load_rl_config(
        None,
        [
            "global_schedule_speed=2",
            "engineered_kamikaze_reward_schedule=[[0, 0.0], [100, 1.0]]",
            "rewards.kamikaze=0.5",
        ],
    )
    assert config.rewards_at(0).kamikaze == 0.5
    assert config.rewards_at(100).kamikaze == pytest.approx(1.0)
    assert config.rewards_at(1000).kamikaze == pytest.approx(1.5)
    assert config.rewards_at(1000).final_speed_reward_as_if_duration_s == 2.0


def test_weights_come_from_one_place() -> None:
    overrides = ["init_from=output/rl/a@best", "pretrain_bc_heads_path=output/ptretrain/bc/b"]
    assert load_rl_config(None, overrides[:1]).init_from == "output/rl/a@best"
    with pytest.raises(UserError, match="init_from and pretrain_bc_heads_path exclude each other"):
        load_rl_config(None, overrides)

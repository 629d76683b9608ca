"""Collectors in Ray actors on two nodes: rollouts, weights, losses, and a whole run."""

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from datasets.contract.errors import UserError
from rl.collecting.base_pool import PoolSetup
from rl.collecting.plan import CollectorPlan
from rl.config.sections import PerformanceConfig
from rl.replay.rollout import Rollout
from rl.training.train import train
from tests.rl_samples import make_network, tiny_config

if TYPE_CHECKING:  # needs Ray, which is an extra
    from rl.collecting.ray.pool import RayPool

pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}  # close to the least that Ray accepts
WITHIN_S = 240.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes with room for one collector each; this process is connected to the first."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:  # Ray reads these when it is imported
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "300")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        ray = pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            cluster.add_node(**NODE)
            cluster.wait_for_nodes()
            ray.init(cluster.address, log_to_driver=False, logging_level=logging.WARNING)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def make_pool(
    folder: Path, count: int = 2, change: Callable[[CollectorPlan], CollectorPlan] = lambda p: p
) -> "RayPool":
    from rl.collecting.ray.pool import RayPool
    from rl.collecting.ray.session import RaySession

    performance = PerformanceConfig(
        collector_backend="ray",
        ray_address="auto",
        collectors_count=count,
        cars_per_collector=3,
        max_rollout_queue_size=2,
        update_inference_network_every_n_actions=5,
    )
    cfg = tiny_config(folder, averaging={"decay": 0.0}, epsilon_schedule=[[0, 0.0]])
    cfg = cfg.model_copy(update={"performance": performance})
    plans = [change(CollectorPlan.from_config(cfg, index, count)) for index in range(count)]
    return RayPool(RaySession(performance), PoolSetup(plans, performance, make_network()))


def receive(pool: "RayPool", enough: Callable[[list[Rollout]], bool]) -> list[Rollout]:
    """Rollouts until `enough(rollouts)`."""
    rollouts: list[Rollout] = []
    deadline = time.monotonic() + WITHIN_S
    while not enough(rollouts):
        assert time.monotonic() < deadline, f"{len(rollouts)} rollouts came"
        rollouts += pool.receive(17, 0.5)
    return rollouts


def test_rollouts_come_from_both_nodes_and_weights_travel(cluster: Any, tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    try:
        rollouts = receive(pool, lambda _: sorted(pool.rollouts_by_node.values())[-2:-1] >= [2])
        assert len(rollouts) == pool.rollouts_by_node.total()
        for rollout in rollouts:
            rollout.check_valid()
            assert rollout.weights_version == 0
            assert rollout.frames.flags.writeable
        assert len({rollout.seed for rollout in rollouts}) == len(rollouts)
        pool.publish(make_network(action=3), None, version=7)
        newer = receive(pool, lambda found: any(r.weights_version == 7 for r in found))
        assert {int(r.actions[0]) for r in newer if r.weights_version == 7} == {3}
        assert pool.replaced == 0
    finally:
        pool.close()
    import ray

    assert ray.is_initialized()  # a connection of others is theirs to close


def test_no_more_is_driven_than_is_asked_for(cluster: Any, tmp_path: Path) -> None:
    pool = make_pool(tmp_path, 1)
    try:
        receive(pool, lambda found: len(found) == 1)
        time.sleep(5.0)
        pool.publish(make_network(action=3), None, version=7)
        waiting = receive(pool, lambda found: len(found) == 2)
        assert [rollout.weights_version for rollout in waiting] == [0, 0]
        assert all(rollout.started_at < time.time() - 4.0 for rollout in waiting)
    finally:
        pool.close()


def test_killed_actor_is_replaced(cluster: Any, tmp_path: Path) -> None:
    pool = make_pool(tmp_path, 1)
    try:
        seeds = {r.seed for r in receive(pool, lambda found: len(found) == 3)}
        import ray

        ray.kill(pool._workers[0].actor)
        later = receive(pool, lambda found: pool.replaced == 1 and len(found) >= 3)
        assert seeds.isdisjoint(rollout.seed for rollout in later)
    finally:
        pool.close()


def test_unusable_plan_is_one_clear_error(cluster: Any, tmp_path: Path) -> None:
    def with_wrong_map(plan: CollectorPlan) -> CollectorPlan:
        entry = plan.cycle[0].model_copy(update={"map_path": "no_such_map"})
        return replace(plan, cycle=(entry,))

    with pytest.raises(UserError, match="no_such_map"):
        make_pool(tmp_path, 1, with_wrong_map)


def test_run_goes_on_when_a_node_goes_away(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    pool = make_pool(tmp_path, 3)
    try:
        receive(pool, lambda _: len(pool.rollouts_by_node) == 3)
        cluster.remove_node(node, allow_graceful=False)
        lost = node.node_id
        # Its processes may live on for some seconds: what they send until then is sound.
        receive(pool, lambda _: pool.replaced == 1)
        before = pool.rollouts_by_node[lost]
        receive(pool, lambda found: len(found) >= 4)
        assert pool.rollouts_by_node[lost] == before
    finally:
        pool.close()


def test_whole_run(cluster: Any, tmp_path: Path) -> None:
    performance = {
        "collector_backend": "ray",
        "ray_address": "auto",
        "collectors_count": 2,
        "cars_per_collector": 3,
        "send_shared_network_every_n_batches": 2,
        "update_inference_network_every_n_actions": 4,
        "device": "cpu",
    }
    cfg = tiny_config(tmp_path, performance=performance)
    result = train(cfg, max_grad_steps=10, max_minutes=4.0)
    assert result.grad_steps == 10
    assert result.frames > 60
    assert any((result.folder.root / "checkpoints").iterdir())

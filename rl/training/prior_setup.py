"""Whether a run has a prior on its choice of actions, and how the run is set up for it."""

import logging

from datasets.contract.errors import UserError
from rl.config.experiment import RLConfig
from rl.network.iqn import IQN
from rl.network.prior import Driver
from rl.run.build import install_prior
from rl.run.state import Run
from rl.transfer.heads import zero_last_layers
from rl.transfer.sources import Sources

logger = logging.getLogger(__name__)

TRUNK = ("vis", "floats", "iqn")
"""Parts that a run with a prior takes from the cloned policy; its heads start at zero."""


def cloned_policy(cfg: RLConfig, sources: Sources, teacher: Driver | None) -> IQN | None:
    """Return the policy that is to be the run's prior; None for a run without one.

    Which it is, and why, goes into the log in one line.

    Args:
        cfg: of the run.
        sources: the artifacts.
        teacher: the whole policy that they hold, None if they hold none.

    Raises:
        UserError: a prior is asked for, and these artifacts cannot be one.
    """
    asked = cfg.prior.enabled
    if asked == "off":
        return None
    problem = cfg.prior_conflict or _unfit(cfg, sources, teacher)
    if problem is not None:
        if asked == "on":
            raise UserError(f"prior.enabled: {problem}")
        logger.info("no prior on the choice of actions: %s", problem)
        return None
    assert isinstance(teacher, IQN)
    logger.info(
        "prior on the choice of actions: the cloned policy, at weight %.3g; values start at 0",
        cfg.prior.weight,
    )
    return teacher


def _unfit(cfg: RLConfig, sources: Sources, teacher: Driver | None) -> str | None:
    """Why artifacts cannot be a prior, None if they can."""
    if teacher is None:
        held = ", ".join(sources.parts)
        return f"it needs a whole cloned policy, and the artifacts hold only {held}"
    metas = [artifact.meta for artifact in sources.parts.values()]
    if not isinstance(teacher, IQN) or any(meta and meta.stage == "rl" for meta in metas):
        return (
            "a policy of stage rl has values, not log probabilities; start from it with init_from"
        )
    if teacher.config.image_hw != cfg.network.image_hw:
        return f"the cloned policy sees {teacher.config.image_hw} pixels, the run other ones"
    if teacher.config.floats.enabled and not cfg.network.floats.enabled:
        return "the cloned policy reads floats, and the run has nn.floats.enabled: false"
    return None


def start_with_prior(run: Run, policy: IQN) -> None:
    """Give a fresh run, which has the trunk of `policy` already, its prior and values of 0.

    What drives then chooses the actions of `policy`.
    """
    zero_last_layers(run.learner.online)
    run.learner.synchronise()
    install_prior(run, policy, floor=run.cfg.prior.floor)

"""Periodic evaluation: greedy runs of the current weights, and the choice of the champion."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rl.config.sections import EnvironmentConfig, EvaluationConfig
from rl.envs.cars import RaceMap
from rl.envs.factory import RaceFactory
from rl.evaluation.champion import Champion
from rl.evaluation.greedy import EvaluationResult, evaluate_policy
from rl.network.policy import Policy
from rl.network.prior import Driver, copy_of

logger = logging.getLogger(__name__)

_SCREENING, _FRESH, _FINAL = 1, 2, 3
"""Purposes of evaluations; each has start seeds of its own."""
Purpose = Literal["screening", "final"]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on all maps.

    Attributes:
        results: one per map.
        purpose: `screening` of a candidate, or the `final` measurement of the champion.
        weights: which weights drove: `pretrained`, `raw`, `averaged`, `champion`, or
            `collector` in the game.
        is_champion: whether the evaluated policy is the champion afterwards.
    """

    results: list[EvaluationResult]
    purpose: Purpose
    weights: str
    is_champion: bool


class Evaluator:
    """Drives policies greedily on all maps of a run and keeps its champion up to date.

    It changes the champion and nothing else of the run. The results follow from the weights, the
    seed and the number of the evaluation alone.
    """

    def __init__(
        self,
        champion: Champion,
        tracks: Mapping[str, RaceMap],
        driver: Driver,
        evaluation: EvaluationConfig,
        environment: EnvironmentConfig,
        races: RaceFactory,
        *,
        seed: int,
    ) -> None:
        """Prepare; nothing is driven yet.

        Args:
            champion: of the run.
            tracks: maps by short name; each is driven.
            driver: of the form of all policies that are evaluated; it stays as it is.
            evaluation: number of starts, and how the champion is chosen.
            environment: cut-offs and variation of the starts.
            races: builds the cars.
            seed: of the run.
        """
        self._champion = champion
        self._tracks = tracks
        self._config, self._environment = evaluation, environment
        self._races, self._seed = races, seed
        self._latest: dict[str, EvaluationResult] = {}
        # Copies are evaluated, so that the modes and noise of the learner's networks stay as they
        # are.
        self._candidate, self._defender = copy_of(driver), copy_of(driver)

    def challenge(
        self, network: Driver, weights: str, *, number: int, notes: Mapping[str, Any]
    ) -> Evaluation:
        """Evaluate a policy and make it the champion if it is better.

        Args:
            network: the candidate; it stays as it is.
            weights: its name in logs.
            number: of this evaluation within the run, which selects the starts.
            notes: plain values to keep with a new champion.
        """
        config = self._config
        self._candidate.load_state_dict(network.state_dict())
        results = self._drive(self._candidate, _SCREENING, number, config.starts)

        def on_fresh_starts(network: Driver) -> list[EvaluationResult]:
            if not config.champion:
                return results
            return self._drive(network, _FRESH, number, config.final_starts)

        is_champion = self._champion.consider(
            self._candidate,
            results,
            on_fresh_starts,
            self._defender if config.champion else None,
            {"weights": weights, **notes},
        )
        return Evaluation(results, "screening", weights, is_champion)

    def consider_run(
        self, network: Driver, result: EvaluationResult, weights: str, *, notes: Mapping[str, Any]
    ) -> Evaluation:
        """Make a policy the champion if the greedy run that it has driven is better.

        With several maps the latest run of each counts, whichever policy drove it.

        Args:
            network: drove the run; it stays as it is.
            result: of the one run.
            weights: its name in logs.
            notes: plain values to keep with a new champion.
        """
        self._latest[result.track] = result
        is_champion = False
        if self._latest.keys() == self._tracks.keys():
            results = list(self._latest.values())
            is_champion = self._champion.consider(
                network, results, lambda _: results, None, {"weights": weights, **notes}
            )
        return Evaluation([result], "screening", weights, is_champion)

    def measure_champion(self, *, number: int) -> Evaluation:
        """Evaluate the champion on starts that have chosen nothing.

        Args:
            number: of this evaluation within the run, which selects the starts.

        Raises:
            ValueError: there is no champion yet.
        """
        if self._champion.weights is None:
            raise ValueError("no policy has become champion yet")
        starts = self._config.final_starts
        logger.info("measuring the best policy on %d fresh starts", starts)
        self._defender.load_state_dict(self._champion.weights)
        results = self._drive(self._defender, _FINAL, number, starts)
        return Evaluation(results, "final", "champion", is_champion=True)

    def _drive(
        self, network: Driver, purpose: int, number: int, starts: int
    ) -> list[EvaluationResult]:
        environment = self._environment
        sequence = np.random.SeedSequence([self._seed, purpose, number])
        seed = int(sequence.generate_state(1)[0])
        policy = Policy(network)
        return [
            evaluate_policy(
                policy,
                track,
                starts=starts,
                seed=seed,
                start_noise=environment.start_noise,
                races=self._races,
                **environment.cut_offs,
            )
            for track in self._tracks.values()
        ]

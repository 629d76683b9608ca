"""The champion: the best policy of a run, which only a better, freshly evaluated one replaces."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from rl.evaluation.greedy import EvaluationResult, score
from rl.network.prior import Driver
from rl.transfer.policy_files import save_policy

logger = logging.getLogger(__name__)

DESCRIBED: Final = frozenset({"track", "finish_rate", "mean_ms"})
"""Entries of a result that are shown."""
FreshEvaluation = Callable[[Driver], list[EvaluationResult]]
"""Evaluates a network on starts that no earlier choice has seen, the same within one call round."""


def _is_finite(network: Driver) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


class Champion:
    """Holds the weights of the best policy so far and the results that it was chosen by.

    The maximum over many noisy evaluations is biased. So a candidate that looks better is evaluated
    again on fresh starts, beside the champion on the same ones, and takes over only if it is better
    there too.

    Attributes:
        weights: state dict, None before the first candidate.
        summary: where and when it was found, and its latest results, as plain types.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] | None = None
        self.summary: dict[str, Any] = {}
        self._score = (float("inf"), float("inf"))

    def consider(
        self,
        network: Driver,
        results: Sequence[EvaluationResult],
        fresh: FreshEvaluation,
        scratch: Driver | None,
        notes: dict[str, Any],
    ) -> bool:
        """Let a candidate challenge the champion.

        Args:
            network: the candidate.
            results: of its screening.
            fresh: evaluates on fresh starts; called again, it uses the same ones.
            scratch: network of the same architecture, overwritten with the champion's weights to
                evaluate it again; None leaves it its old results.
            notes: plain values to keep with a new champion.

        Returns:
            Whether the candidate is the new champion.
        """
        if score(results) >= self._score or not _is_finite(network):
            return False
        candidate = fresh(network)
        if self.weights is not None and scratch is not None:
            scratch.load_state_dict(self.weights)
            defended = fresh(scratch)
            self._take_results(defended)
            if score(candidate) >= self._score:
                return False
        self.weights = {
            name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()
        }
        self.summary = dict(notes)
        self._take_results(candidate)
        return True

    def _take_results(self, results: Sequence[EvaluationResult]) -> None:
        self._score = score(results)
        self.summary["results"] = [result.to_json() for result in results]

    def describe(self) -> str:
        """Finish rate and mean time on each map, for people."""
        return ", ".join(
            f"{found['track']} {found['finish_rate']:.0%}"
            + (f" in {found['mean_ms'] / 1000:.2f} s" if found["mean_ms"] is not None else "")
            for found in self.summary.get("results", [])
        )

    def save(
        self, folder: Path, run_name: str, description: Mapping[str, Any], seconds: float
    ) -> None:
        """Write the champion as an artifact that any stage can load.

        Args:
            folder: of the artifact.
            run_name: of the run.
            description: of the policy that the weights belong to (`rl.network.prior.describe`).
            seconds: of training so far.

        Raises:
            UserError: the disk is full; the earlier champion's files stay.
        """
        if self.weights is None:
            return
        save_policy(
            folder,
            description,
            self.weights,
            run_name=run_name,
            metrics=self.summary,
            seconds=seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Weights, results and score."""
        return {"weights": self.weights, "summary": self.summary, "score": list(self._score)}

    def load_state_dict(
        self, state: Mapping[str, Any], like: Mapping[str, Tensor] | None = None
    ) -> None:
        """Continue from `state_dict()`.

        Args:
            state: what was saved.
            like: state dict of a policy of the run, whose shapes the weights must have.

        Raises:
            ValueError, TypeError: it holds something else than weights and results.
        """
        weights, summary = state["weights"], state["summary"]
        if weights is not None and like is not None:
            found, expected = (
                {name: (tensor.shape, tensor.dtype) for name, tensor in part.items()}
                for part in (weights, like)
            )
            if found != expected:
                raise ValueError("the champion has other weights than the run's network")
        json.dumps(summary)
        if not all(result.keys() >= DESCRIBED for result in summary.get("results", [])):
            raise ValueError(f"results of the champion without {', '.join(sorted(DESCRIBED))}")
        self.weights, self.summary = weights, summary
        self._score = (float(state["score"][0]), float(state["score"][1]))

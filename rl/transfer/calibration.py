"""Brings an imitated policy to the scale of returns before temporal-difference learning.

Cross-entropy leaves the advantage output as logits, with gaps far larger than those of returns, and
the value output untrained. Here a gain on the advantages and the value head are fitted to
returns that the policy got, everything else untouched. A positive gain keeps every greedy action.
It is folded into the last layer of `A_head`, so nothing is left in the network's structure, and it
is rounded to a power of two, so that the scaled outputs are the same numbers up to the exponent and
no rounding can turn a near-tie.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from datasets.contract.floats import CLOCK
from rl.network.iqn import IQN, midpoint_taus, stratified_taus
from rl.network.losses import quantile_huber_loss, select_actions
from rl.transfer.heads import scale_head

MIN_SAMPLES: Final = 20
SIGNIFICANT_T: Final = 2.0
GAP_BOUNDS: Final = (0.01, 3.0)
"""Allowed greedy gap (greedy less mean action value), in standard deviations of the returns."""
FALLBACK_GAP: Final = 0.1
"""The same gap if the fit is not significant: one action of 50 ms changes 7 s little."""
RIDGE: Final = 1e-4
"""Penalty of the ridge regressions, relative to the mean square of an input."""
Watch = Callable[[float], None]
"""Called with the share of a long step that is done, in [0, 1]; an exception ends the step."""
_VALIDATION_SHARE: Final = 0.1
_CHUNK: Final = 1024
_PASSES: Final = 5
"""Times that a fit passes over all samples."""
_CHUNK_WORK: Final = 4
"""Approximate cost of a chunk of a pass, in updates of the value head, for the progress bar."""


def unwatched(share: float) -> None:
    """Do nothing: the watch of a step that nobody watches."""
    del share


@dataclass(frozen=True)
class CalibrationData:
    """What a policy did and got, run after run.

    Attributes:
        frames: (n, n_stack, H, W) uint8.
        floats: (n, n_floats) float32 raw, with the mini-race clock that the returns are for.
        actions: (n,) int64 actions taken; some of them explored, or the gain cannot be seen.
        greedy: (n,) int64 actions that the policy preferred as it drove, when its clock was 0.
        returns: (n,) float32 rewards to the end of each sample's horizon, in reward units.
        epsilon: 0 to 1, share of the actions that were drawn uniformly from all.
    """

    frames: Tensor
    floats: Tensor
    actions: Tensor
    greedy: Tensor
    returns: Tensor
    epsilon: float

    def check(self) -> None:
        """Raise ValueError if the lengths differ, a return is not finite or there are too few."""
        arrays = (self.frames, self.floats, self.actions, self.greedy, self.returns)
        lengths = {len(array) for array in arrays}
        if len(lengths) != 1 or min(lengths) < MIN_SAMPLES:
            raise ValueError(
                f"calibration needs {MIN_SAMPLES} samples or more in arrays of one length, "
                f"got {sorted(lengths)}"
            )
        if not bool(torch.isfinite(self.returns).all()):
            raise ValueError("calibration got returns that are NaN or infinite")


@dataclass(frozen=True)
class CalibrationReport:
    """What the fit found.

    Attributes:
        samples: n.
        gain: power of two that the advantages were multiplied with.
        gain_estimate: least-squares gain, in reward units per unit of logit; None if there were no
            explored actions.
        gain_standard_error: of the estimate (heteroscedasticity-consistent).
        gain_source: `fitted`, `bounded` (moved into `GAP_BOUNDS`) or `fallback` (not significant).
        greedy_gap: mean greedy advantage after the fit, in reward units.
        return_std: spread of the returns about the fitted values, in reward units.
        value_loss_before: quantile Huber loss on held-out samples as injected.
        value_loss_after: the same after the fit.
        greedy_agreement: share of samples whose greedy action is the same before and after.
        seconds: duration.
    """

    samples: int
    gain: float
    gain_estimate: float | None
    gain_standard_error: float | None
    gain_source: str
    greedy_gap: float
    return_std: float
    value_loss_before: float
    value_loss_after: float
    greedy_agreement: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def fit_calibration(
    online: IQN,
    copies: Sequence[IQN],
    data: CalibrationData,
    *,
    grad_steps: int = 400,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    watch: Watch = unwatched,
) -> CalibrationReport:
    """Fit the gain on the advantage output and the value head to returns; the rest is untouched.

    The gain is the slope of the returns on the advantages of the actions taken less their
    expectation under the policy that drove, which is known: (1 - epsilon) A(greedy), since A has
    mean 0 over the actions. So the part of the returns that depends on the state alone cannot be
    attributed to the actions. A ridge regression on the state's features is subtracted from both,
    which only reduces noise. The value head then learns
    the returns less the scaled advantages: its last layer by ridge regression, then all of it by
    quantile regression. The spread of the scaled advantages over taus is left out there.

    A head that the configuration freezes is calibrated too: it is frozen as calibrated.

    Args:
        online: network with an injected whole policy; changed in place, its modes are kept.
        copies: networks that get the same heads.
        data: ordered by run; the last tenth is held out.
        grad_steps: updates of the value head.
        learning_rate: of those updates at the start.
        batch_size: samples per update.
        generator: CPU generator of batches and taus.
        watch: called with the share of the work that is done; if it raises, `online` is half
            fitted.

    Raises:
        ValueError: see `CalibrationData.check`.
    """
    data.check()
    with _only_value_head_trains(online):
        work = _PASSES * _CHUNK_WORK * -(-len(data.returns) // _CHUNK) + grad_steps
        fit = _Fit(online, data, batch_size, generator, _Work(watch, work))
        report = fit.run(grad_steps, learning_rate)
    for copy in copies:
        copy.A_head.load_state_dict(online.A_head.state_dict())
        copy.V_head.load_state_dict(online.V_head.state_dict())
    return report


class FittedGain(NamedTuple):
    """Result of fitting the gain; the fields mean what they mean in `CalibrationReport`."""

    gain: float
    estimate: float | None
    standard_error: float | None
    source: str
    return_std: float


class _Work:
    """Counts the work of a fit, in updates."""

    def __init__(self, watch: Watch, total: int) -> None:
        self._watch, self._total, self._done = watch, total, 0

    def advance(self, amount: int) -> None:
        self._done += amount
        self._watch(min(self._done / self._total, 1.0))


class _Fit:
    """The data as features of the fixed trunk, and the steps of the fit."""

    def __init__(
        self,
        online: IQN,
        data: CalibrationData,
        batch_size: int,
        generator: torch.Generator | None,
        work: "_Work",
    ) -> None:
        self._started = time.perf_counter()
        self.online, self.work = online, work
        self.device = next(online.parameters()).device
        self.batch_size, self.generator = batch_size, generator
        self.kappa = online.config.iqn.kappa
        self.taus = midpoint_taus(1, online.config.iqn.k, device=self.device)
        self.features = self._features(data)
        self.known = self._known(data)
        self.actions = data.actions.to(self.device).long()
        self.returns = data.returns.to(self.device, torch.float32)
        self.num_train = len(self.returns) - max(1, int(len(self.returns) * _VALIDATION_SHARE))
        self.advantage = self._chunked(online.advantages)
        """(n, A) centred logits as injected."""
        self.taken_advantage = self._advantage_of(self.actions)
        self.preferred = data.greedy.to(self.device).long()
        self.epsilon = data.epsilon

    def run(self, grad_steps: int, learning_rate: float) -> CalibrationReport:
        """Fit gain and value head, in place."""
        loss_before = self.held_out_loss()
        greedy_before = self.greedy_actions()
        found = self.find_gain()
        scale_head(self.online.A_head, found.gain)
        self.fit_value(found.gain, grad_steps, learning_rate)
        return CalibrationReport(
            samples=len(self.returns),
            gain=found.gain,
            gain_estimate=found.estimate,
            gain_standard_error=found.standard_error,
            gain_source=found.source,
            greedy_gap=found.gain * float(self.advantage.amax(dim=1).mean()),
            return_std=found.return_std,
            value_loss_before=loss_before,
            value_loss_after=self.held_out_loss(),
            greedy_agreement=float((self.greedy_actions() == greedy_before).float().mean()),
            seconds=time.perf_counter() - self._started,
        )

    def _advantage_of(self, actions: Tensor) -> Tensor:
        """(n,) centred logit of one action of each sample."""
        return self.advantage.gather(1, actions.unsqueeze(1)).squeeze(1)

    @torch.no_grad()
    def _features(self, data: CalibrationData) -> Tensor:
        parts = []
        for frames, floats in zip(
            torch.split(data.frames, _CHUNK), torch.split(data.floats, _CHUNK), strict=True
        ):
            parts.append(self.online.features(frames.to(self.device), floats.to(self.device)))
            self.work.advance(_CHUNK_WORK)
        return torch.cat(parts)

    @torch.no_grad()
    def _known(self, data: CalibrationData) -> Tensor:
        """Return inputs (n, *) that explain returns: features, floats, floats times the time left.

        Imitation has no use for the clock, so the features alone may not tell the horizon.
        """
        encoder = self.online.float_feature_extractor
        if encoder is None:
            return self.features
        floats = (data.floats.to(self.device) - encoder.float_mean) / encoder.float_std
        return torch.cat([self.features, floats, floats * floats[:, CLOCK : CLOCK + 1]], dim=1)

    @torch.no_grad()
    def _chunked(self, function: Any) -> Tensor:
        parts = []
        for part in torch.split(self.features, _CHUNK):
            parts.append(function(part, self.taus))
            self.work.advance(_CHUNK_WORK)
        return torch.cat(parts)

    def greedy_actions(self) -> Tensor:
        """(n,) argmax of the action values."""
        return self._chunked(self.online.q_from_features).argmax(dim=1)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss of the held-out samples' action quantiles under the network as it is."""
        losses = []
        held_out = torch.arange(self.num_train, len(self.returns), device=self.device)
        for rows in torch.split(held_out, _CHUNK):
            taus = self.taus.expand(len(rows), -1)
            quantiles = self.online.quantiles(self.features[rows], taus)
            predicted = select_actions(quantiles, self.actions[rows])
            target = self.returns[rows].unsqueeze(1)
            losses.append(quantile_huber_loss(predicted, taus, target, self.kappa))
        return float(torch.cat(losses).mean())

    def find_gain(self) -> FittedGain:
        """Fit the gain: the slope of the returns on the surprise of the actions taken.

        The surprise is an action's advantage less its expectation under the policy that drove.
        Both are residuals of a ridge regression on the state's features: with the returns alone,
        the regression would take a part of the gain's effect off them with the noise.
        """
        surprise = self.taken_advantage - (1.0 - self.epsilon) * self._advantage_of(self.preferred)
        pair = torch.stack([self.returns.double(), surprise.double()], dim=1)
        left, freedom = _ridge_residuals(self.known, pair)
        returns, advantage = left.unbind(dim=1)
        spread = max(float(returns.std()), 1e-6)
        gap = max(float(self.advantage.double().amax(dim=1).mean()), 1e-12)
        fallback = _power_of_two(FALLBACK_GAP * spread / gap)
        power = float(advantage.square().sum())
        if bool((self.actions == self.preferred).all()) or power == 0.0:
            return FittedGain(fallback, None, None, "fallback", spread)
        estimate = float((advantage * returns).sum()) / power
        noise = returns - estimate * advantage
        error = math.sqrt(float((advantage * noise).square().sum()) / freedom) / power
        if estimate < SIGNIFICANT_T * error or estimate <= 0.0:
            return FittedGain(fallback, estimate, error, "fallback", spread)
        low, high = (bound * spread / gap for bound in GAP_BOUNDS)
        bounded = min(max(estimate, low), high)
        source = "fitted" if bounded == estimate else "bounded"
        return FittedGain(_power_of_two(bounded), estimate, error, source, spread)

    def fit_value(self, gain: float, steps: int, learning_rate: float) -> None:
        """Fit the value head to the returns less the scaled advantages of the actions taken."""
        target = self.returns - gain * self.taken_advantage
        self._solve_last_layer(target)
        optimizer = torch.optim.Adam(self.online.V_head.parameters(), lr=learning_rate)
        num_taus = self.online.config.iqn.n
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * 0.1 ** (step / steps)
            drawn = torch.randint(self.num_train, (self.batch_size,), generator=self.generator)
            rows = drawn.to(self.device)
            taus = stratified_taus(
                self.batch_size, num_taus, generator=self.generator, device=self.device
            )
            predicted = self.online.values(self.features[rows], taus)
            loss = quantile_huber_loss(predicted, taus, target[rows].unsqueeze(1), self.kappa)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss.mean())
            optimizer.step()
            self.work.advance(1)

    @torch.no_grad()
    def _solve_last_layer(self, target: Tensor) -> None:
        """Set the value head's last layer to the ridge regression of `target` on its inputs."""
        head, train = self.online.V_head, slice(0, self.num_train)
        hidden = self._chunked(
            lambda part, taus: head.hidden(self.online.mixed(part, taus)).mean(dim=1)
        )
        weight, offset, _ = _ridge(hidden[train], target[train].unsqueeze(1))
        head.last.weight.copy_(weight.T)
        head.last.bias.copy_(offset)


def _ridge(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, float]:
    """Solve for weights (D, K) and offsets (K,), float64, from (n, D) inputs, (n, K) outputs.

    The third value is the effective number of weights of one output, 0 to D.
    """
    inputs, outputs = inputs.double(), outputs.double()
    input_mean, output_mean = inputs.mean(dim=0), outputs.mean(dim=0)
    centred = inputs - input_mean
    gram = centred.T @ centred
    penalty = RIDGE * float(gram.diagonal().mean()) + 1e-12
    gram.diagonal().add_(penalty)
    inverse = torch.linalg.inv(gram)
    weight = inverse @ (centred.T @ (outputs - output_mean))
    used = len(gram) - penalty * float(inverse.diagonal().sum())
    return weight, output_mean - input_mean @ weight, used


def _ridge_residuals(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, float]:
    """Return what ridge regression leaves of the outputs, and the share of freedom that is left.

    Args:
        inputs: (n, D).
        outputs: (n, K).

    Returns:
        (n, K) residuals in float64, and 1 - p / n in (0, 1], with p the effective number of
        parameters, the trace of the hat matrix: residuals are smaller than the noise by this share
        of its variance.
    """
    weight, offset, used = _ridge(inputs, outputs)
    residuals = outputs.double() - (inputs.double() @ weight + offset)
    return residuals, max(1.0 - (used + 1.0) / len(inputs), 1e-3)


def _power_of_two(value: float) -> float:
    """Nearest power of two on the logarithmic scale."""
    return 2.0 ** round(math.log2(value))


@contextlib.contextmanager
def _only_value_head_trains(online: IQN) -> Iterator[None]:
    """Set evaluation mode and gradients for `V_head` alone; restore all of it afterwards."""
    modes = {module: module.training for module in online.modules()}
    flags = {parameter: parameter.requires_grad for parameter in online.parameters()}
    online.eval()
    online.requires_grad_(False)
    online.V_head.requires_grad_(True)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None

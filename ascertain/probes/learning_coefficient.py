"""Local learning coefficient: how fast the volume of weights with nearly the same loss shrinks around a trained network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log, prod
from typing import Any

import numpy as np
import torch
from scipy import stats

from ascertain.errors import DataError, InputError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph.torch_model import number_type
from ascertain.probes.capture import one_device
from ascertain.probes.differentiable import Values, call, differentiable, finite, finite_output, submodule
from ascertain.probes.mixing import effective_samples, split_r_hat

__all__ = ["LearningCoefficient", "Sampler", "learning_coefficient"]

Array = np.ndarray[Any, np.dtype[Any]]
Loss = Callable[..., torch.Tensor]
Evaluated = tuple[torch.Tensor, torch.Tensor]
"""Losses (C,) and gradients (C, P)."""


@dataclass(frozen=True)
class Sampler:
    """How to sample weights from exp(-n_beta L(w) - localization/2 |w - w*|^2) by Langevin steps.

    ``n_beta`` None is n / log n for n samples. ``step_size`` None is tuned during the burn-in, which is never averaged over.
    ``batch_size`` None uses all data in every step. ``adjusted`` accepts or rejects each step (Metropolis), so that the step size
    leaves no bias; it needs all data. Without it this is stochastic gradient Langevin dynamics.
    """

    chains: int = 4
    draws: int = 1000
    burn_in: int = 500
    step_size: float | None = None
    localization: float = 1.0
    n_beta: float | None = None
    batch_size: int | None = None
    adjusted: bool = False


@dataclass(frozen=True)
class LearningCoefficient:
    """n_beta (mean sampled loss - loss at the trained weights), with a 95 % interval from chains and autocorrelation.

    The interval covers the sampling error, not the bias of an unadjusted step: ``acceptance``, the mean probability with which a
    Metropolis test would accept the steps, is 1 where there is none, and 0.5 at worst (with mini-batches: of the batch's own loss).
    ``trace`` (chains, draws) is n_beta (loss - loss at start) on the batch of each step. ``cautions`` says what speaks against the
    number. Reference: Lau et al. (2024), The local learning coefficient.
    """

    value: float
    lower: float
    upper: float
    trace: Array
    start_loss: float
    parameters: int
    n_beta: float
    step_size: float
    acceptance: float
    r_hat: float
    effective_samples: float
    cautions: tuple[str, ...]
    evidence: Evidence = Evidence.ESTIMATED

    def __str__(self) -> str:
        chains, draws = self.trace.shape
        text = (
            f"local learning coefficient {self.value:.4g}, 95 % interval [{self.lower:.4g}, {self.upper:.4g}], evidence "
            f"{self.evidence} from {chains} chains of {draws} draws ({self.effective_samples:.0f} independent, R-hat "
            f"{self.r_hat:.3f}), {self.parameters} parameters"
        )
        return "\n".join([text, *(f"  caution: {caution}" for caution in self.cautions)])


def learning_coefficient(
    module: torch.nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any = None,
    *,
    sampler: Sampler | None = None,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> LearningCoefficient:
    """The local learning coefficient of any torch module at its present weights.

    ``loss(outputs, targets)`` (``loss(outputs)`` without targets) is the mean over the samples it gets; ``outputs`` is the first
    tensor of what the module returns. ``layers`` restricts the weights that move. The module runs in evaluation mode and is left
    as it was; the numbers depend on ``seed`` alone. Raises DataError where the loss or a chain is not finite.
    """
    sampler = sampler or Sampler()
    one_device(module)
    dtype, device = number_type(module)
    x = torch.as_tensor(inputs, device=device)
    x = finite(x.to(dtype), "the data") if x.is_floating_point() else x
    y = None if targets is None else torch.as_tensor(targets, device=device)
    sampler = _checked(sampler, len(x), None if y is None else len(y))
    with differentiable(module):
        energy = _Energy(module, loss, x, y, _moving(module, layers), sampler)
        generator = torch.Generator(device=device).manual_seed(seed)
        chains = _Chains(energy, sampler, generator)
        for step in range(sampler.burn_in):
            chains.burn(step)
        trace = torch.stack([chains.draw(step) for step in range(sampler.draws)], 1)
    return _result(trace.double().cpu().numpy(), chains, energy, sampler)


def _checked(sampler: Sampler, samples: int, targets: int | None) -> Sampler:
    if samples < 3 and sampler.n_beta is None:
        raise DataError(f"{samples} samples define no temperature; give more, or n_beta.")
    if targets not in (None, samples):
        raise InputError(f"{samples} inputs come with {targets} targets; give one for each input.")
    batch = sampler.batch_size
    if batch is not None and batch >= samples:
        batch = None
    if sampler.adjusted and batch is not None:
        raise InputError("adjusted=True needs the loss of all data in every step; leave batch_size out.")
    n_beta = samples / log(samples) if sampler.n_beta is None else sampler.n_beta
    positive = (sampler.chains, sampler.draws, n_beta, sampler.localization, 1.0 if batch is None else batch)
    if min(positive) <= 0 or sampler.burn_in < 0 or (sampler.step_size is not None and not sampler.step_size > 0):
        raise InputError(f"{sampler} has counts or sizes that are not positive; give positive ones.")
    if sampler.step_size is None and sampler.burn_in < 100:
        raise InputError(f"a burn-in of {sampler.burn_in} steps is too short to tune the step size; give 100 or a step_size.")
    return replace(sampler, n_beta=float(n_beta), batch_size=batch)


def _moving(module: torch.nn.Module, layers: Sequence[str] | None) -> list[str]:
    names = [name for name, parameter in module.named_parameters() if parameter.is_floating_point()]
    if layers is not None:
        chosen = {id(p) for layer in layers for p in submodule(module, layer).parameters()}
        names = [name for name, parameter in module.named_parameters() if id(parameter) in chosen]
    if not names:
        raise InputError(f"no parameters of {type(module).__name__} would move; choose layers that have some.")
    return names


class _Energy:
    """The loss of many weight vectors at once, and its gradient."""

    def __init__(
        self, module: torch.nn.Module, loss: Loss, x: torch.Tensor, y: torch.Tensor | None, names: list[str], sampler: Sampler
    ) -> None:
        self.module, self.loss, self.x, self.y, self.names = module, loss, x, y, names
        every = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.values: Values = {name: value.detach() for name, value in every.items()}
        self.start = torch.cat([self.values[name].reshape(-1) for name in names])
        finite_output(module, self.values, x)
        self.start_loss = float(finite(self._single(self.start, x, y), "the loss").detach())
        self.batched = self._batching(sampler)

    def _single(self, flat: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        shapes = [self.values[name].shape for name in self.names]
        parts = flat.split([prod(shape) for shape in shapes])
        moved = {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, shapes, strict=True)}
        out = call(self.module, {**self.values, **moved}, x)
        result = self.loss(out) if y is None else self.loss(out, y)
        if result.ndim:
            raise InputError(f"the loss has shape {tuple(result.shape)}; return one number, the mean over the samples.")
        return result

    def _batching(self, sampler: Sampler) -> bool:
        """Whether torch can treat the chains as one batch, with the gradients that a plain backward pass gives."""
        generator = torch.Generator(device=self.start.device).manual_seed(0)
        shift = torch.randn(2, len(self.start), generator=generator, dtype=self.start.dtype, device=self.start.device)
        spread = (sampler.localization + (sampler.n_beta or 1.0)) ** -0.5
        probe = self.start + spread * shift
        batch = (self.x[:4], None if self.y is None else self.y[:4])
        self.batched = False
        values, gradients = self(probe, *batch)
        self.batched = True
        try:
            again, others = self(probe, *batch)
        except (RuntimeError, NotImplementedError, ValueError):
            return False
        close = 1e-6 if self.start.dtype == torch.float64 else 1e-3
        return bool((values - again).norm() <= close * values.norm() and (gradients - others).norm() <= close * gradients.norm())

    def __call__(self, flat: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None) -> Evaluated:
        """Losses (C,) and gradients (C, P) at weights (C, P); x and y shared by the chains."""
        if self.batched:
            gradient, value = torch.func.vmap(torch.func.grad_and_value(lambda w: self._single(w, x, y)))(flat)
            return value.detach(), gradient.detach()
        values, gradients = [], []
        for row in flat:
            leaf = row.detach().requires_grad_()
            value = self._single(leaf, x, y)
            if not value.requires_grad:
                raise UnsupportedError("the loss does not depend on the weights differentiably; remove detach() and no_grad().")
            values.append(value.detach())
            gradients.append(torch.autograd.grad(value, leaf)[0])
        return torch.stack(values), torch.stack(gradients)

    def at_start(self, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return self._single(self.start, x, y)


class _Chains:
    """Langevin chains that start at the trained weights."""

    def __init__(self, energy: _Energy, sampler: Sampler, generator: torch.Generator) -> None:
        self.energy, self.sampler, self.generator = energy, sampler, generator
        self.n_beta = float(sampler.n_beta or 1.0)
        self.weights = energy.start.repeat(sampler.chains, 1)
        self.step_size = sampler.step_size or 1.0 / (self.n_beta + sampler.localization)
        self.tuned = sampler.step_size is None
        self.target = 0.6 if sampler.adjusted else 0.9
        self.accepted: list[float] = []
        self._known: Evaluated | None = None

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        size = self.sampler.batch_size
        if size is None:
            return self.energy.x, self.energy.y
        index = torch.randperm(len(self.energy.x), generator=self.generator, device=self.generator.device)[:size]
        return self.energy.x[index], None if self.energy.y is None else self.energy.y[index]

    def _drift(self, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return self.n_beta * gradient + self.sampler.localization * (weights - self.energy.start)

    def _potential(self, weights: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        distance = (weights - self.energy.start).square().sum(1)
        return self.n_beta * losses + self.sampler.localization / 2 * distance

    def _steps(self) -> torch.Tensor:
        """Step size of each chain (C, 1). Steps of adjusted chains vary over two decades: none sticks where it is steep."""
        shape, dtype, device = (len(self.weights), 1), self.weights.dtype, self.weights.device
        if not self.sampler.adjusted:
            return torch.full(shape, self.step_size, dtype=dtype, device=device)
        draw = torch.rand(shape, generator=self.generator, dtype=dtype, device=device)
        return self.step_size * torch.pow(10.0, -2 * draw)

    def _propose(self, gradient: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        shape, dtype, device = self.weights.shape, self.weights.dtype, self.weights.device
        noise = torch.randn(shape, generator=self.generator, dtype=dtype, device=device)
        return self.weights - step / 2 * self._drift(self.weights, gradient) + step**0.5 * noise

    def _acceptance(self, before: Evaluated, after: torch.Tensor, then: Evaluated, step: torch.Tensor) -> torch.Tensor:
        """Metropolis acceptance probability of each chain's step; 0 where the step leaves the finite numbers."""
        there = (after - self.weights + step / 2 * self._drift(self.weights, before[1])).square().sum(1)
        back = (self.weights - after + step / 2 * self._drift(after, then[1])).square().sum(1)
        change = self._potential(self.weights, before[0]) - self._potential(after, then[0]) + (there - back) / (2 * step[:, 0])
        chance: torch.Tensor = change.clamp(max=0).exp().nan_to_num(0.0)
        return chance

    def _advance(self, adjusted: bool, measured: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One step; (loss of each chain before it minus that at the start, acceptance probabilities where they were measured)."""
        x, y = self._batch()
        full = self.sampler.batch_size is None
        before = self._known if full and self._known is not None else self.energy(self.weights, x, y)
        base = self.energy.start_loss if full else self.energy.at_start(x, y)
        steps = self._steps()
        after = self._propose(before[1], steps)
        chance = None
        self._known = None
        if adjusted or measured or full:
            then = self.energy(after, x, y)
            chance = self._acceptance(before, after, then, steps)
            if adjusted:
                kept = torch.rand(len(chance), generator=self.generator, dtype=chance.dtype, device=chance.device) >= chance
                after = torch.where(kept[:, None], self.weights, after)
                then = torch.where(kept, before[0], then[0]), torch.where(kept[:, None], before[1], then[1])
            self._known = then if full else None
        self.weights = after
        return before[0] - base, chance

    def burn(self, step: int) -> None:
        """A step that is not averaged over; a step size to be tuned moves, with every step tested so that no chain is lost."""
        _, chance = self._advance(self.tuned or self.sampler.adjusted, False)
        if self.tuned and chance is not None and step < 0.8 * self.sampler.burn_in:
            self.step_size *= exp(2 * (float(chance.mean()) - self.target) / (1 + step / 10) ** 0.6)

    def draw(self, step: int) -> torch.Tensor:
        """n_beta (loss - loss at the start) of each chain, and a step on."""
        excess, chance = self._advance(self.sampler.adjusted, step % 10 == 0)
        if chance is not None:
            self.accepted.append(float(chance.mean()))
        if not bool(excess.isfinite().all()):
            raise DataError(f"a chain diverged at draw {step} with step size {self.step_size:.1e}; give a smaller step_size.")
        return self.n_beta * excess


def _result(trace: Array, chains: _Chains, energy: _Energy, sampler: Sampler) -> LearningCoefficient:
    value = float(trace.mean())
    effective = effective_samples(trace)
    r_hat = split_r_hat(trace)
    error = float(trace.std()) / max(effective, 1.0) ** 0.5
    quantile = float(stats.norm.ppf(0.975))
    if len(trace) > 1:
        error = max(error, float(trace.mean(1).std(ddof=1)) / len(trace) ** 0.5)
        quantile = float(stats.t.ppf(0.975, len(trace) - 1))
    acceptance = float(np.mean(chains.accepted)) if chains.accepted else inf
    cautions = []
    if not r_hat < 1.05:
        cautions.append(f"chains disagree (R-hat {r_hat:.2f}): take more draws and a longer burn-in")
    if effective < 100:
        cautions.append(f"only {effective:.0f} independent draws: take more")
    if acceptance < 0.8 and not sampler.adjusted:
        cautions.append(f"steps are too long (acceptance {acceptance:.2f}): give a smaller step_size, or adjusted=True")
    if value < 0:
        cautions.append("sampled losses lie below that of the given weights, which are no minimum: train longer")
    return LearningCoefficient(
        value,
        value - quantile * error,
        value + quantile * error,
        trace,
        energy.start_loss,
        len(energy.start),
        chains.n_beta,
        chains.step_size,
        acceptance,
        r_hat,
        effective,
        tuple(cautions),
    )

"""Stitching: can one network go on from the layer of another, after one affine map that is trained?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ascertain.errors import DataError, ShapeError
from ascertain.evidence import Evidence
from ascertain.graph.torch_model import number_type
from ascertain.probes.capture import answers, channel_axis, forward, one_device, unknown, untouched
from ascertain.probes.linear_probes import wilson

__all__ = ["Stitching", "stitch"]


@dataclass(frozen=True, eq=False)
class Stitching:
    """Held-out accuracy of a front of one network and a back of another, joined by an affine map over channels."""

    accuracy: float
    """With the map trained on the task."""
    low: float
    """95 % interval (Wilson)."""
    high: float
    least_squares: float
    """With the map that matches activations best, before any training."""
    shuffled: float
    """With the map that matches activations of re-paired samples: what an arbitrary map from this front gives."""
    front: float
    """Accuracy of the network whose front is used."""
    back: float
    """Accuracy of the network whose back is used."""
    samples: int
    evidence: Evidence = Evidence.ESTIMATED

    @property
    def penalty(self) -> float:
        """Accuracy lost against the worse of the two parents; negative where stitching gains."""
        return min(self.front, self.back) - self.accuracy

    def __str__(self) -> str:
        return (
            f"stitched accuracy {self.accuracy:.4f}, 95 % interval [{self.low:.4f}, {self.high:.4f}] (least squares "
            f"{self.least_squares:.4f}, shuffled {self.shuffled:.4f}), parents {self.front:.4f} and {self.back:.4f}, evidence "
            f"{self.evidence} from {self.samples} samples"
        )


def stitch(
    front: tuple[nn.Module, str],
    back: tuple[nn.Module, str],
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    *,
    epochs: int = 5,
    rate: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
) -> Stitching:
    """Replaces a layer of ``back`` by an affine map (a 1 x 1 convolution on maps) of a layer of ``front`` (Bansal et al., 2021).

    Both are (module, layer name) and stay frozen and as they were, batch statistics too; the map starts at least squares on the
    training data and follows the cross-entropy of (inputs, labels) by Adam. Maps of other sizes are resized. Raises ModelError,
    ShapeError, DataError.
    """
    (x, y), (held, wanted) = _pairs(train), _pairs(test)
    source, target = _Reader(*front), _Reader(*back)
    with untouched(front[0]), untouched(back[0]):
        first, second = source.read(x, batch_size), target.read(x, batch_size)
        weight, offset = _match(first, second, source.axis, target.axis)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        apart = _match(first[order], second, source.axis, target.axis)
        join = _Join(weight, offset, source, target, tuple(second.shape[1:]))
        score = _score(join, held, wanted, batch_size)
        chance = _score(_Join(*apart, source, target, tuple(second.shape[1:])), held, wanted, batch_size)
        _fit(join, first, (x, y), epochs, rate, batch_size, seed)
        final = _score(join, held, wanted, batch_size)
        begun, ended = (_rate(partial(answers, net), held, wanted, batch_size) for net, _ in (front, back))
    return Stitching(final, *wilson(final, len(wanted)), score, chance, begun, ended, len(wanted))


def _pairs(data: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.as_tensor(data[0]), torch.as_tensor(data[1])
    if len(x) != len(y) or len(x) < 4 or y.ndim != 1 or y.is_floating_point():
        raise DataError(f"inputs {tuple(x.shape)} and labels {tuple(y.shape)} do not fit; give n >= 4 of both, labels integer.")
    return x, y.long()


class _Reader:
    """A layer of a network, read or replaced."""

    def __init__(self, net: nn.Module, layer: str) -> None:
        one_device(net)
        parts = dict(net.named_modules())
        if layer not in parts:
            raise unknown(layer, [name for name in parts if name], type(net).__name__)
        self.net, self.part, self.layer, self.axis = net, parts[layer], layer, 1
        self.dtype, self.device = number_type(net)

    @contextmanager
    def hooked(self, hook: Callable[[Any], Any]) -> Iterator[None]:
        def one(module: nn.Module, inputs: Any, result: Any) -> Any:
            if not isinstance(result, torch.Tensor):
                raise ShapeError(f"layer {self.layer!r} returns {type(result).__name__}, not one tensor; choose a layer that does.")
            return hook(result)

        handle = self.part.register_forward_hook(one)
        try:
            yield
        finally:
            handle.remove()

    def read(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """The layer's values, all samples."""
        kept: list[torch.Tensor] = []
        with self.hooked(lambda result: kept.append(result.detach().clone())), torch.no_grad():
            for start in range(0, len(x), size):
                forward(self.net, x[start : start + size])
        found = torch.cat(kept)
        if len(found) != len(x) or found.ndim < 2:
            raise ShapeError(f"layer {self.layer!r} does not answer one value for each sample on axis 0; choose another.")
        if not found.isfinite().all():
            raise DataError(f"layer {self.layer!r} answers NaN or infinite numbers; look at the data and the weights.")
        self.axis = channel_axis(self.part, found.ndim)
        return found


def _resized(value: torch.Tensor, axis: int, like: tuple[int, ...], like_axis: int) -> torch.Tensor:
    """Channels on the last axis, positions as many as in ``like`` (a shape without samples)."""
    places = (*like[: like_axis - 1], *like[like_axis:])
    first = value.movedim(axis, 1)
    if tuple(first.shape[2:]) != places:
        if len(places) != first.ndim - 2 or not places:
            raise ShapeError(f"layers of shapes {tuple(value.shape[1:])} and {like} do not fit; choose layers with equal axes.")
        first = nn.functional.interpolate(first, size=places, mode="area")
    return first.movedim(1, -1)


def _match(first: torch.Tensor, second: torch.Tensor, axis: int, other: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (d, d') and offset (d',) of least squares."""
    x = _resized(first, axis, tuple(second.shape[1:]), other).reshape(-1, first.shape[axis]).double()
    y = second.movedim(other, -1).reshape(-1, second.shape[other]).double()
    weight = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=1e-7, driver="gelsd").solution
    return weight, y.mean(0) - x.mean(0) @ weight


class _Join(nn.Module):
    """The stitched network, from values of the front's layer to the answer of the back."""

    def __init__(
        self, weight: torch.Tensor, offset: torch.Tensor, source: _Reader, target: _Reader, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.weight, self.offset = (nn.Parameter(t.to(target.device, target.dtype)) for t in (weight, offset))
        self.ends, self.shape = (source, target), shape

    def forward(self, value: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        source, target = self.ends
        moved = _resized(value.to(target.device, target.dtype), source.axis, self.shape, target.axis) @ self.weight + self.offset
        with target.hooked(lambda result: moved.movedim(-1, target.axis)):
            return answers(target.net, batch)


def _score(join: _Join, x: torch.Tensor, y: torch.Tensor, size: int) -> float:
    return _rate(lambda batch: join(join.ends[0].read(batch, size), batch), x, y, size)


def _rate(answer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor, size: int) -> float:
    right = 0
    with torch.no_grad():
        for start in range(0, len(x), size):
            right += int((answer(x[start : start + size]).argmax(1).cpu() == y[start : start + size]).sum())
    return right / len(y)


def _fit(
    join: _Join, values: torch.Tensor, data: tuple[torch.Tensor, torch.Tensor], epochs: int, rate: float, size: int, seed: int
) -> None:
    """Trains the map alone; gradients of the frozen networks are never asked for."""
    (x, y), device = data, join.weight.device
    chosen, random = [join.weight, join.offset], torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(chosen, rate)
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=random)
        for start in range(0, len(y), size):
            at = order[start : start + size]
            with torch.enable_grad():
                loss = nn.functional.cross_entropy(join(values[at], x[at]), y[at].to(device))
                gradients = torch.autograd.grad(loss, chosen)
            for parameter, gradient in zip(chosen, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()

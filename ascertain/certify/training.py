"""Losses that make networks easy to certify, on differentiable bounds in plain torch.

The bounds are computed in the network's own floats without regard to rounding: they steer training and prove nothing. What a
trained network is worth, `ascertain.verify` says. They are interval bounds (Gowal et al. 2018; the box domain of Mirman et al.
2018), also of residual networks, and linear bounds on top of them for plain chains (CROWN-IBP, Zhang et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.grad import conv2d_input

from ascertain.errors import UnsupportedError

__all__ = ["Interval", "crown_margins", "interval_bounds", "interval_margins", "margin_loss", "small_box", "start_small"]

_KEEPS_ORDER = (
    "relu relu_ leaky_relu elu selu celu softplus sigmoid tanh hardtanh hardsigmoid atan exp sign softsign clamp "
    "clamp_min clamp_max max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool2d mean sum amax amin flatten "
    "reshape view unflatten squeeze unsqueeze transpose permute contiguous movedim expand"
)
"""Functions that never fall when an entry of their first argument rises, so that they act on each bound alone."""


class Interval:
    """A value with bounds below and above it, which goes through the code of a module as a tensor would.

    ``clean`` is the value at the middle input; batch norm takes its statistics from there (Shi et al. 2021). Raises
    UnsupportedError for functions that have no rule.
    """

    def __init__(self, clean: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.clean, self.lower, self.upper = clean, lower, upper

    def map(self, function: Callable[[Tensor], Tensor]) -> Interval:
        """All three parts through a function that keeps order."""
        return Interval(function(self.clean), function(self.lower), function(self.upper))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None) -> Any:
        name, options = function.__name__, options or {}
        if name in _KEEPS_ORDER.split() and not any(isinstance(a, Interval) for a in (*arguments[1:], *options.values())):
            return arguments[0].map(lambda part: function(part, *arguments[1:], **options))
        if name not in _RULES:
            raise UnsupportedError(f"{name} has no interval rule for training; use another layer or loss.", ((name, name),))
        return _RULES[name](*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.clean, name)
        if not callable(found) or name in ("dim", "size", "numel"):
            return found
        return lambda *arguments, **options: Interval.__torch_function__(
            getattr(torch.Tensor, name), (), (self, *arguments), options
        )

    def __getitem__(self, index: Any) -> Interval:
        return self.map(lambda part: part[index])

    def __add__(self, other: Any) -> Interval:
        return _add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Interval:
        return Interval(-self.clean, -self.upper, -self.lower)

    def __sub__(self, other: Any) -> Interval:
        return _add(self, -other)

    def __rsub__(self, other: Any) -> Interval:
        return _add(-self, other)

    def __mul__(self, other: Any) -> Interval:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Interval:
        return _multiply(self, 1 / other)


def _parts(x: Any) -> tuple[Any, Any, Any]:
    return (x.clean, x.lower, x.upper) if isinstance(x, Interval) else (x, x, x)


def _add(x: Any, y: Any) -> Interval:
    return Interval(*(a + b for a, b in zip(_parts(x), _parts(y), strict=True)))


def _multiply(x: Any, y: Any) -> Interval:
    if not isinstance(x, Interval):
        x, y = y, x
    ends = (y.lower, y.upper) if isinstance(y, Interval) else (y,)
    low, high = x.lower * ends[0], x.upper * ends[0]
    lower, upper = torch.minimum(low, high), torch.maximum(low, high)
    for end in ends[1:]:
        low, high = x.lower * end, x.upper * end
        lower, upper = torch.minimum(lower, torch.minimum(low, high)), torch.maximum(upper, torch.maximum(low, high))
    return Interval(x.clean * _parts(y)[0], lower, upper)


def _linear(function: Callable[..., Tensor]) -> Callable[..., Interval]:
    """The rule of a function that is linear in input and weight: the middle goes through it, the radius through its size."""

    def rule(x: Any, weight: Tensor, bias: Tensor | None = None, *arguments: Any, **options: Any) -> Interval:
        if not isinstance(x, Interval) or isinstance(weight, Interval):
            raise UnsupportedError("a product of two intervals has no rule for training; use another layer or loss.")
        middle = function((x.lower + x.upper) / 2, weight, bias, *arguments, **options)
        radius = function((x.upper - x.lower) / 2, weight.abs(), None, *arguments, **options)
        return Interval(function(x.clean, weight, bias, *arguments, **options), middle - radius, middle + radius)

    return rule


def _batch_norm(
    x: Interval,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Interval:
    axes = [i for i in range(x.clean.ndim) if i != 1]
    shape = [-1 if i == 1 else 1 for i in range(x.clean.ndim)]
    clean = torch.batch_norm(x.clean, weight, bias, mean, variance, training, momentum, eps, False)
    if training or mean is None or variance is None:
        mean, variance = x.clean.mean(axes), x.clean.var(axes, unbiased=False)
    slope = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
    offset = -mean * slope + (0.0 if bias is None else bias)
    scaled = _multiply(x, slope.view(shape))
    return Interval(clean, scaled.lower + offset.view(shape), scaled.upper + offset.view(shape))


_RULES: dict[str, Callable[..., Interval]] = {
    "add": _add,
    "batch_norm": _batch_norm,
    "conv1d": _linear(torch.conv1d),
    "conv2d": _linear(torch.conv2d),
    "linear": _linear(nn.functional.linear),
    "mul": _multiply,
    "sub": lambda x, y: _add(x, -y),
}


def interval_bounds(model: nn.Module, x: Tensor, lower: Tensor, upper: Tensor) -> Interval:
    """Interval bounds (N, ...) of the outputs of a module over boxes lower <= input <= upper, and its outputs at x."""
    found = model(Interval(x, lower, upper))
    if not isinstance(found, Interval):
        raise UnsupportedError(f"{type(model).__name__} returns no tensor that depends on its input; use another loss.")
    return found


def interval_margins(bounds: Interval, y: Tensor) -> Tensor:
    """Lower bounds (N, classes) of the score of class y minus every score; zero at y."""
    margins = bounds.lower.gather(1, y[:, None]) - bounds.upper
    return margins.scatter(1, y[:, None], 0.0)


def margin_loss(margins: Tensor, y: Tensor) -> Tensor:
    """Mean cross entropy if every margin were as small as its bound."""
    return cross_entropy(-margins, y)


def crown_margins(model: nn.Sequential, lower: Tensor, upper: Tensor, y: Tensor, classes: int) -> Tensor:
    """The margins of `interval_margins` by linear bounds back to the input; intervals bound the neurons.

    For chains of Linear, Conv2d, Flatten and ReLU layers; raises UnsupportedError for others. Lower lines of undecided ReLUs have
    slope 0 or 1, whichever loses less area.
    """
    boxes = []
    bounds = Interval(lower, lower, upper)
    for layer in model:
        boxes.append(bounds)
        bounds = layer(bounds)
    spec = torch.eye(classes, dtype=lower.dtype, device=lower.device)
    rows = spec[y][:, None, :] - spec  # (N, classes, outputs)
    offset = rows.new_zeros(rows.shape[:2])
    for layer, box in zip(reversed(model), reversed(boxes), strict=True):
        rows, offset = _back(layer, box, rows, offset)
    middle, radius = (lower + upper).flatten(1) / 2, (upper - lower).flatten(1) / 2
    flat = rows.flatten(2)
    margins = (flat @ middle[:, :, None] - flat.abs() @ radius[:, :, None])[:, :, 0] + offset
    return margins.scatter(1, y[:, None], 0.0)


def _back(layer: nn.Module, box: Interval, rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Lower bounds rows @ layer(x) + offset as rows' @ x + offset' over the layer's input box."""
    match layer:
        case nn.Flatten(start_dim=1):
            return rows.reshape(*rows.shape[:2], *box.lower.shape[1:]), offset
        case nn.Linear():
            return rows @ layer.weight, offset if layer.bias is None else offset + rows @ layer.bias
        case nn.Conv2d(padding_mode="zeros", padding=(int(), int())):
            added = offset if layer.bias is None else offset + torch.einsum("nkchw,c->nk", rows, layer.bias)
            shape = (rows.shape[0] * rows.shape[1], *box.lower.shape[1:])
            geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
            moved = conv2d_input(shape, layer.weight, rows.flatten(0, 1), *geometry)
            return moved.reshape(*rows.shape[:2], *box.lower.shape[1:]), added
        case nn.ReLU():
            low, high = box.lower.clamp_max(0)[:, None], box.upper.clamp_min(0)[:, None]
            slope = high / (high - low).clamp_min(1e-12)
            below = (high > -low).to(rows.dtype)
            falls = rows.clamp_max(0)
            lost = (falls * (-low * slope)).flatten(2).sum(2)
            return rows.clamp_min(0) * torch.where(low < 0, below, 1.0) + falls * torch.where(low < 0, slope, 1.0), offset + lost
    name = type(layer).__name__
    raise UnsupportedError(
        f"{name} has no rule for CROWN-IBP; use Linear, Conv2d, Flatten and ReLU, or loss 'ibp'.", ((name, name),)
    )


def small_box(x: Tensor, attacked: Tensor, eps: float, share: float) -> tuple[Tensor, Tensor]:
    """The box of radius share * eps nearest to an attack, inside the box of radius eps around x (SABR, Mueller et al. 2023)."""
    room = (1 - share) * eps
    middle = torch.minimum(torch.maximum(attacked, x - room), x + room)
    return middle - share * eps, middle + share * eps


def start_small(model: nn.Module) -> None:
    """Draws weights anew so that the width of intervals neither grows nor shrinks from layer to layer (Shi et al. 2021)."""
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(layer.weight, std=(2 * torch.pi) ** 0.5 / layer.weight[0].numel())

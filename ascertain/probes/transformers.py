"""How a transformer uses its depth: writing to the residual stream, skipped blocks, isotropy, oversmoothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import nn

from ascertain.errors import DataError, ModelError, ShapeError
from ascertain.evidence import Evidence
from ascertain.graph.torch_model import outputs
from ascertain.probes.activations import Activations
from ascertain.probes.capture import forward, one_device, unknown, untouched
from ascertain.probes.measure import checked

__all__ = ["Isotropy", "Oversmoothing", "ResidualUse", "isotropy", "oversmoothing", "residual_use"]


@dataclass(frozen=True, eq=False)
class ResidualUse:
    """What each block writes to the residual stream and what is lost without it; means over samples, with 95 % half-widths."""

    blocks: tuple[str, ...]
    share: np.ndarray
    """(L,) norm of a block's contribution over the norm of the stream that it reads."""
    share_error: np.ndarray
    cosine: np.ndarray
    """(L,) between contribution and stream: negative where a block erases."""
    cosine_error: np.ndarray
    later: np.ndarray
    """(L, L) relative change of the contribution of block j where block i is skipped; 0 for j <= i."""
    output: np.ndarray
    """(L,) relative change of the network's output where block i is skipped."""
    output_error: np.ndarray
    samples: int
    evidence: Evidence = Evidence.ESTIMATED

    def __str__(self) -> str:
        rows = [
            f"  {name}: writes {s:.3f} ± {e:.3f} of the stream, cosine {c:+.3f}, output changes by {o:.3f} ± {w:.3f} without it"
            for name, s, e, c, o, w in zip(
                self.blocks, self.share, self.share_error, self.cosine, self.output, self.output_error, strict=True
            )
        ]
        return "\n".join([f"residual stream, evidence {self.evidence} from {self.samples} samples", *rows])


def residual_use(net: nn.Module, blocks: Sequence[str], data: Any, *, batch_size: int = 64) -> ResidualUse:
    """Use of depth (Csordas et al., 2025): blocks h -> h + f(h), in the order of their calls, are read and skipped one by one.

    A block's first argument and (first) result must have one shape. Changes are relative to the norm in the whole network, per
    sample. The network is left as it was. Raises ModelError, ShapeError, DataError.
    """
    one_device(net)
    parts = dict(net.named_modules())
    for name in blocks:
        if name not in parts or not name:
            raise unknown(name, [n for n in parts if n], type(net).__name__)
    if not blocks or not getattr(data, "shape", ()) or len(data) < 4:
        raise DataError("residual use needs at least one block and data of shape (n, ...) with n >= 4; give both.")
    found = []
    with untouched(net):
        for start in range(0, len(data), batch_size):
            found.append(_use(net, [parts[name] for name in blocks], blocks, data[start : start + batch_size]))
    share, cosine, later, output = (np.concatenate(values) for values in zip(*found, strict=True))
    for name, values in zip(("contributions", "outputs"), (share, output), strict=True):
        if not np.isfinite(values).all():
            raise DataError(f"{name} are NaN, infinite or relative to 0; look at the data and at the weights.")
    return ResidualUse(
        tuple(blocks),
        share=share.mean(0),
        share_error=_half(share),
        cosine=cosine.mean(0),
        cosine_error=_half(cosine),
        later=later.mean(0),
        output=output.mean(0),
        output_error=_half(output),
        samples=len(share),
    )


def _half(values: np.ndarray) -> np.ndarray:
    """Half the width of Student's 95 % interval of means over samples."""
    n = len(values)
    return np.asarray(student.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n))


def _use(net: nn.Module, parts: list[nn.Module], names: Sequence[str], batch: Any) -> tuple[np.ndarray, ...]:
    """Share and cosine (B, L), later changes (B, L, L) and output changes (B, L) of one batch."""
    whole, streams, writes = _run(net, parts, names, batch, None)
    share = torch.stack([_norm(w) / _norm(s) for s, w in zip(streams, writes, strict=True)], 1)
    dots = [(s * w).flatten(1).sum(1) / (_norm(s) * _norm(w)).clamp_min(1e-300) for s, w in zip(streams, writes, strict=True)]
    later = torch.zeros(len(batch), len(parts), len(parts), dtype=torch.float64)
    output = torch.zeros(len(batch), len(parts), dtype=torch.float64)
    for i in range(len(parts)):
        without, _, changed = _run(net, parts, names, batch, i)
        output[:, i] = _norm(without - whole) / _norm(whole)
        for j in range(i + 1, len(parts)):
            base = _norm(writes[j])
            later[:, i, j] = torch.where(base > 0, _norm(changed[j] - writes[j]) / base.clamp_min(1e-300), 0.0)
    return share.numpy(), torch.stack(dots, 1).numpy(), later.numpy(), output.numpy()


def _norm(x: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = x.flatten(1).norm(dim=1)
    return norms


def _run(
    net: nn.Module, parts: list[nn.Module], names: Sequence[str], batch: Any, skipped: int | None
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Output, streams before the blocks and what the blocks add, in float64; one block may return its input instead."""
    streams: dict[int, torch.Tensor] = {}
    writes: dict[int, torch.Tensor] = {}

    def hook(i: int) -> Callable[[nn.Module, Any, Any], Any]:
        def keep(module: nn.Module, inputs: Any, result: Any) -> Any:
            after = result[0] if isinstance(result, tuple) else result
            if not inputs or not isinstance(after, torch.Tensor) or inputs[0].shape != after.shape:
                raise ShapeError(f"block {names[i]!r} does not map a stream to one of its shape; choose whole residual blocks.")
            streams[i], writes[i] = inputs[0].double().cpu(), (after.double() - inputs[0].double()).cpu()
            if i != skipped:
                return None
            return (inputs[0], *result[1:]) if isinstance(result, tuple) else inputs[0]

        return keep

    with ExitStack() as hooks:
        for i, part in enumerate(parts):
            hooks.callback(part.register_forward_hook(hook(i)).remove)
        found = outputs(forward(net, batch), None)
    missing = [name for i, name in enumerate(names) if i not in streams]
    if missing or not isinstance(found, torch.Tensor) or list(streams) != sorted(streams):
        called = [names[i] for i in streams]
        raise ModelError(f"of the blocks {list(names)}, {called} are called, in this order; name them so.")
    if any(len(tensor) != len(batch) for tensor in (found, *streams.values())):
        raise ShapeError("samples are not on axis 0 of the stream or of the output; use a batch-first network.")
    order = range(len(parts))
    return found.double().cpu(), [streams[i] for i in order], [writes[i] for i in order]


@dataclass(frozen=True, eq=False)
class Isotropy:
    """How evenly vectors point in all directions."""

    mean_cosine: float
    """Between two different rows: 0 for isotropic, 1 for parallel vectors."""
    low: float
    """95 % interval (jackknife over rows)."""
    high: float
    partition: float
    """Smallest over largest partition function among principal axes (Mu and Viswanath, 2018): 1 for isotropic vectors."""
    samples: int
    evidence: Evidence = Evidence.ESTIMATED


def isotropy(rows: np.ndarray) -> Isotropy:
    """Mean cosine of pairs of rows (n, d), and the partition ratio of rows of root-mean-square norm 1; nothing is centred."""
    x = checked(rows).astype(np.float64)
    x /= np.abs(x).max()
    norms = np.linalg.norm(x, axis=1)
    if (norms == 0).any():
        raise DataError(f"row {int(np.argmin(norms))} is zero and has no direction; leave such rows out.")
    units, n = x / norms[:, None], len(x)
    total = units.sum(0)
    dots = units @ total  # each with all, itself included
    value = float((dots.sum() - n) / (n * (n - 1)))
    without = (dots.sum() - 2 * dots + 1 - (n - 1)) / ((n - 1) * (n - 2))
    half = float(student.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    scaled = x / np.sqrt((norms**2).mean())
    _, _, axes = np.linalg.svd(scaled, full_matrices=False)
    sums = np.exp(np.concatenate([scaled @ axes.T, -scaled @ axes.T], axis=1)).sum(0)
    return Isotropy(value, max(-1.0, value - half), min(1.0, value + half), float(sums.min() / sums.max()), n)


@dataclass(frozen=True, eq=False)
class Oversmoothing:
    """How alike the tokens of one sequence are in each layer."""

    layers: tuple[str, ...]
    cosine: np.ndarray
    """(L,) mean cosine of two different tokens of a sequence."""
    cosine_error: np.ndarray
    """Half the width of the 95 % interval over sequences."""
    residual: np.ndarray
    """(L,) norm of the tokens less their mean over the norm of the tokens: 0 where all tokens are one."""
    residual_error: np.ndarray
    samples: int
    evidence: Evidence = Evidence.ESTIMATED


def oversmoothing(layers: Activations) -> Oversmoothing:
    """Oversmoothing of captured layers with at least 2 places per sample (`activations`, ``maps="positions"``)."""
    names = [name for name in layers if layers.places[name] > 1]
    if not names:
        raise DataError("no layer has two tokens per sample; capture layers of a sequence with maps='positions'.")
    cosines, residuals = zip(*(_alike(layers[name], layers.places[name], name) for name in names), strict=True)
    cosine, residual = np.stack(cosines, 1), np.stack(residuals, 1)
    return Oversmoothing(tuple(names), cosine.mean(0), _half(cosine), residual.mean(0), _half(residual), layers.samples)


def _alike(rows: np.ndarray, places: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    x = rows.astype(np.float64).reshape(-1, places, rows.shape[1])
    norms = np.linalg.norm(x, axis=2)
    if (norms.max(1) == 0).any():
        raise DataError(f"layer {name!r} is zero on all tokens of a sample; choose another layer.")
    units = x / np.where(norms > 0, norms, 1.0)[:, :, None]
    cosine = ((units.sum(1) ** 2).sum(1) - (units**2).sum((1, 2))) / (places * (places - 1))
    residual = np.linalg.norm(x - x.mean(1, keepdims=True), axis=(1, 2)) / np.linalg.norm(x, axis=(1, 2))
    return cosine, residual

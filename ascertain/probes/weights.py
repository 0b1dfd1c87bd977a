"""Spectra of weights: singular values and condition numbers of dense and convolution tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ascertain.errors import DataError, ModelError
from ascertain.evidence import Evidence
from ascertain.graph import Graph
from ascertain.probes.capture import unknown, untouched

__all__ = ["WeightSpectrum", "weight_spectra"]


@dataclass(frozen=True, eq=False)
class WeightSpectrum:
    """Singular values of one weight tensor, or of the convolution that it defines."""

    name: str
    shape: tuple[int, ...]
    singular_values: np.ndarray
    """Largest first; of all groups and, for an operator, of all frequencies together."""
    operator: bool
    """Whether they are those of the convolution on a torus of the size that was given, not of its reshaped kernel."""
    edge: float
    """95 % quantile of the largest, were the entries independent Gaussians (Johnstone, 2001); NaN for an operator."""
    evidence: Evidence = Evidence.BOUNDED

    @property
    def norm(self) -> float:
        """The largest singular value."""
        return float(self.singular_values[0])

    @property
    def condition(self) -> float:
        """Largest over smallest singular value; infinite where the smallest is rounding of zero."""
        s = self.singular_values
        return float(s[0] / s[-1]) if s[-1] > s[0] * max(self.shape) * np.finfo(np.float64).eps else float("inf")

    @property
    def stable_rank(self) -> float:
        """Squared Frobenius norm over the squared spectral norm; 0 for weights that are all 0."""
        s = self.singular_values
        return float(((s / s[0]) ** 2).sum()) if s[0] > 0 else 0.0

    @property
    def outliers(self) -> int:
        """Singular values beyond what independent entries would give."""
        return int((self.singular_values > self.edge).sum())

    def __str__(self) -> str:
        return (
            f"{self.name} {self.shape}: norm {self.norm:.4g}, condition {self.condition:.4g}, stable rank {self.stable_rank:.4g}, "
            f"{self.outliers} beyond the random edge {self.edge:.4g}, evidence {self.evidence}"
        )


def weight_spectra(
    net: nn.Module | Graph, layers: Sequence[str] | None = None, *, sizes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[WeightSpectrum, ...]:
    """Spectra of all weights with at least two axes, or of the named tensors (a layer's name takes all of its own).

    A parametrised weight is read as it is computed, a kernel (out, in / groups, ...) as a matrix (out, in k) in each group. With
    ``sizes`` (map height and width by name) the singular values are those of the convolution itself with circular padding and
    stride 1, from its Fourier transform (Sedghi et al., 2019). Raises ModelError for unknown layers and DataError for NaN.
    """
    found = list(_tensors(net))
    names = [name for name, _, _ in found]
    for name in (*(layers or ()), *(sizes or ())):
        if not any(_belongs(tensor, name) for tensor in names):
            raise unknown(name, [*names, *dict.fromkeys(n.rpartition(".")[0] for n in names)], "the network's weights")
    if not found:
        raise ModelError("the network has no weights with two axes; give one with dense or convolution layers.")
    chosen = [item for item in found if layers is None or any(_belongs(item[0], name) for name in layers)]
    return tuple(_spectrum(*item, next((s for n, s in (sizes or {}).items() if _belongs(item[0], n)), None)) for item in chosen)


def _belongs(tensor: str, name: str) -> bool:
    return tensor == name or tensor.rpartition(".")[0] == name


def _tensors(net: nn.Module | Graph) -> Iterator[tuple[str, np.ndarray, int]]:
    """(name, weight (out, in / groups, ...), groups)."""
    if isinstance(net, Graph):
        for node in net.nodes:
            for field, value in node.operator.arrays().items():
                if node.inputs and value.ndim >= 2 and value.dtype.kind == "f":
                    yield f"{node.name}.{field}", np.asarray(value, np.float64), int(getattr(node.operator, "groups", 1))
        return
    if not isinstance(net, nn.Module):
        raise ModelError(f"weights of {type(net).__name__} cannot be read; give a torch module or a loaded graph.")
    with untouched(net):  # computing a parametrised weight may change statistics
        for path, part in net.named_modules():
            if "parametrizations" in path.split("."):
                continue
            computed = getattr(part, "parametrizations", {})
            fields = {**dict(part.named_parameters(recurse=False)), **{field: getattr(part, field) for field in computed}}
            for field, parameter in fields.items():
                if parameter.ndim < 2 or not parameter.is_floating_point():
                    continue
                weight, groups = parameter.detach().double().cpu().numpy(), int(getattr(part, "groups", 1))
                yield f"{path}.{field}" if path else field, weight, groups


def _spectrum(name: str, weight: np.ndarray, groups: int, size: tuple[int, ...] | None) -> WeightSpectrum:
    if not np.isfinite(weight).all():
        raise DataError(f"{name} holds NaN or infinite numbers; look at how the network was trained or saved.")
    kernel = weight.shape[2:]
    if size is not None and len(size) == len(kernel) > 0:
        if any(n < k for n, k in zip(size, kernel, strict=True)):
            raise DataError(f"{name}: maps of size {tuple(size)} are smaller than the kernel {kernel}; give the size of its input.")
        axes = tuple(range(2, weight.ndim))
        frequencies = np.fft.fftn(weight, size, axes)
        blocks = np.moveaxis(frequencies, axes, range(len(kernel))).reshape(-1, *weight.shape[:2])
    elif size is not None:
        raise DataError(f"{name} of shape {weight.shape} does not act on maps of size {tuple(size)}; give a number for each axis.")
    else:
        blocks = weight.reshape(1, len(weight), -1)
    parts = np.concatenate(np.split(blocks, groups, axis=1))
    values = np.sort(np.linalg.svd(parts, compute_uv=False).reshape(-1))[::-1]
    rows, columns = parts.shape[1:]
    reach = np.sqrt(rows) + np.sqrt(columns)
    spread = reach * (1 / np.sqrt(rows) + 1 / np.sqrt(columns)) ** (1 / 3)
    edge = float("nan") if size is not None else float(weight.std() * np.sqrt(reach**2 + 0.98 * spread))
    return WeightSpectrum(name, tuple(weight.shape), np.ascontiguousarray(values), size is not None, edge)

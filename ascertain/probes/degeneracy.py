"""Degeneracy of a parametrisation: directions of weight space in which no output moves to first order, counted by cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ascertain.errors import DataError, InputError, ResourceError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.probes.differentiable import Values, call, called, differentiable, double, finite, finite_output, parameters64

__all__ = ["Coupling", "Degeneracy", "LayerDegeneracy", "causes", "degeneracy"]

Array = np.ndarray[Any, np.dtype[Any]]
_MEMORY = 2**30
"""Bytes that the triangle of the Jacobian and one block of its rows may take."""


@dataclass(frozen=True)
class LayerDegeneracy:
    """Free directions of one block of parameters while all others are fixed.

    ``inputs`` and ``outputs`` count features (a bias is one more input that is always 1); both are 0 for parameters outside dense
    layers, whose free directions are not split by cause.
    """

    name: str
    parameters: int
    rank: int
    inputs: int = 0
    outputs: int = 0
    activation_rank: int = 0
    gradient_rank: int = 0

    @property
    def free(self) -> int:
        return self.parameters - self.rank

    @property
    def from_activations(self) -> int:
        """Directions that act on combinations of inputs that are always 0: outputs x (inputs - activation rank)."""
        return self.outputs * (self.inputs - self.activation_rank)

    @property
    def from_gradients(self) -> int:
        """Directions that move combinations of outputs that nothing reads: activation rank x (outputs - gradient rank)."""
        return self.activation_rank * (self.outputs - self.gradient_rank)

    @property
    def joint(self) -> int:
        """What the two ranks alone do not explain: inputs and gradients that never meet on one sample."""
        return self.free - self.from_activations - self.from_gradients if self.inputs else 0


@dataclass(frozen=True)
class Coupling:
    """Free directions that two adjacent dense layers share: units that always fire together act as one linear map.

    A group of synchronised units whose activations have rank p and whose gradients have rank q adds p q directions: 1 for a single
    rectifier (its positive rescaling), s^2 for s generic ones, fewer where fewer outputs read them. Units that always fire do so
    together with the constant 1 of biases, which counts in p where both layers have one.
    """

    producer: str
    consumers: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    free: tuple[int, ...]

    @property
    def rescaling(self) -> int:
        """Positive rescalings of units that fire on a set of their own."""
        return sum(min(f, 1) for f, group in zip(self.free, self.groups, strict=True) if len(group) == 1)

    @property
    def synchronised(self) -> int:
        """Mixing of units that fire together, and exchange of their constants for the biases that follow."""
        return sum(self.free) - self.rescaling


@dataclass(frozen=True)
class Degeneracy:
    """Parameters minus the rank of the Jacobian of all outputs on the data, and the causes that were recognised.

    The sum of ``layers`` (each alone), ``couplings`` (between layers) and ``unexplained`` is ``free`` exactly. More data can only
    raise the rank. BOUNDED where the singular values leave a clear gap at the rank; ESTIMATED where the rank is a matter of the
    tolerance, or where samples times outputs are fewer than the parameters.
    Reference: Bushnaq et al. (2024), Using degeneracy in the loss landscape.
    """

    parameters: int
    rank: int
    layers: tuple[LayerDegeneracy, ...]
    couplings: tuple[Coupling, ...]
    singular_values: Array
    gap: float
    """Smallest singular value that counts over the largest that does not (infinite where none is left out)."""
    evidence: Evidence

    @property
    def free(self) -> int:
        return self.parameters - self.rank

    @property
    def kinds(self) -> dict[str, int]:
        """Free directions by cause; they sum up to ``free``."""
        found = {
            "activations": sum(layer.from_activations for layer in self.layers),
            "gradients": sum(layer.from_gradients for layer in self.layers),
            "joint": sum(layer.joint for layer in self.layers),
            "other parameters": sum(layer.free for layer in self.layers if not layer.inputs),
            "rescaling": sum(c.rescaling for c in self.couplings),
            "synchronised": sum(c.synchronised for c in self.couplings),
        }
        return {**found, "unexplained": self.free - sum(found.values())}

    def __str__(self) -> str:
        listed = ", ".join(f"{kind} {count}" for kind, count in self.kinds.items() if count) or "none"
        return (
            f"{self.free} free directions of {self.parameters} parameters, evidence {self.evidence}: {listed}; gap {self.gap:.1e}"
        )


class _Triangle:
    """The triangular factor of rows that arrive in blocks: any set of its columns has the singular values of theirs."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = 0
        self._blocks: list[Array] = [np.zeros((0, width))]

    def add(self, rows: Array) -> None:
        self.rows += len(rows)
        self._blocks.append(rows)
        if sum(map(len, self._blocks)) > 3 * self.width:
            self._blocks = [self.factor]

    @property
    def factor(self) -> Array:
        if len(self._blocks) > 1:
            self._blocks = [np.asarray(np.linalg.qr(np.concatenate(self._blocks), mode="r"))]
        return self._blocks[0]

    def singular_values(self, columns: slice | Array = slice(None)) -> Array:
        """Of the chosen columns brought to unit length, which leaves the rank and removes the units of the parameters."""
        part = self.factor[:, columns]
        length = np.linalg.norm(part, axis=0)
        values: Array = np.linalg.svd(part[:, length > 0] / length[length > 0], compute_uv=False)
        return values

    def rank(self, tolerance: float, columns: slice | Array = slice(None)) -> int:
        values = self.singular_values(columns)
        return int((values > tolerance * values[:1].sum()).sum())


@dataclass
class _Record:
    """What the data showed of one dense layer."""

    name: str
    bias: bool
    activations: _Triangle
    gradients: _Triangle
    fired: list[Array]


def degeneracy(module: torch.nn.Module, inputs: Any, *, tolerance: float = 1e-10, batch_size: int = 64) -> Degeneracy:
    """Counts the free directions of a module's parameters on data, and says where they come from.

    The module runs in evaluation mode and in float64, and is left as it was. Raises DataError on NaN, ResourceError where the
    Jacobian has too many columns for its factorisation.
    """
    data = double(inputs, module)
    values = parameters64(module)
    names = [name for name, _ in module.named_parameters()]
    size = sum(values[name].numel() for name in names)
    if not size or not len(data):
        raise InputError(f"{type(module).__name__} has {size} parameters and {len(data)} inputs; there is nothing to count.")
    if 6 * 8 * size * size > _MEMORY:
        raise ResourceError(f"the Jacobian has {size} columns and its factor needs {8 * size**2 / 2**30:.1f} GiB; probe a part.")
    dense = _dense(module, values)
    records = [_record(name, part) for name, part in dense.items()]
    jacobian = _Triangle(size)
    reads: dict[str, set[str]] = {}
    linear: dict[str, bool] = {}
    with differentiable(module):
        for batch in data.split(batch_size):
            jacobian.add(_jacobian(module, values, names, batch))
            _observe(module, values, batch, records, reads, linear)
    records = [record for record in records if record.activations.rows]  # attention uses some dense layers without calling them
    spans = _spans(values, names)
    layers = tuple(_layer(record, dense[record.name], jacobian, spans, tolerance) for record in records)
    owned = {f"{record.name}.{p}".lstrip(".") for record in records for p in ("weight", "bias")}
    rest = tuple(
        LayerDegeneracy(name, spans[name].stop - spans[name].start, jacobian.rank(tolerance, spans[name]))
        for name in names
        if name not in owned
    )
    singular = jacobian.singular_values()
    rank = jacobian.rank(tolerance)
    gap = float(singular[rank - 1] / singular[rank]) if 0 < rank < len(singular) and singular[rank] > 0 else float("inf")
    return Degeneracy(
        size,
        rank,
        layers + rest,
        tuple(_couplings(records, reads, linear, tolerance)),
        singular,
        gap,
        Evidence.BOUNDED if gap > 1e3 and jacobian.rows >= size else Evidence.ESTIMATED,
    )


def causes(
    module: torch.nn.Module, inputs: Any, *, tolerance: float = 1e-10, batch_size: int = 64
) -> tuple[tuple[LayerDegeneracy, ...], tuple[Coupling, ...]]:
    """The causes that `degeneracy` recognises, without the Jacobian: for networks of which it is too large.

    ``rank`` of each dense layer is the most that it can be, activation rank x gradient rank, and ``joint`` is 0 for it.
    """
    data = double(inputs, module)
    values = parameters64(module)
    dense = _dense(module, values)
    records = [_record(name, part) for name, part in dense.items()]
    reads: dict[str, set[str]] = {}
    linear: dict[str, bool] = {}
    with differentiable(module):
        for batch in data.split(batch_size):
            _observe(module, values, batch, records, reads, linear)
    records = [record for record in records if record.activations.rows]
    layers = []
    for record in records:
        part = dense[record.name]
        inner, outer = record.activations.rank(tolerance), record.gradients.rank(tolerance)
        shape = part.in_features + record.bias, part.out_features
        layers.append(LayerDegeneracy(record.name, shape[0] * shape[1], inner * outer, *shape, inner, outer))
    return tuple(layers), tuple(_couplings(records, reads, linear, tolerance))


def _dense(module: torch.nn.Module, values: Values) -> dict[str, torch.nn.Linear]:
    """Dense layers whose parameters are all the module's own, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and all(f"{name}.{p}".lstrip(".") in values for p, _ in part.named_parameters())
    }


def _record(name: str, part: torch.nn.Linear) -> _Record:
    bias = part.bias is not None
    return _Record(name, bias, _Triangle(part.in_features + bias), _Triangle(part.out_features), [])


def _spans(values: Values, names: list[str]) -> dict[str, slice]:
    ends = np.cumsum([0, *(values[name].numel() for name in names)])
    return {name: slice(int(a), int(b)) for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)}


def _jacobian(module: torch.nn.Module, values: Values, names: list[str], batch: torch.Tensor) -> Array:
    """Rows: outputs of every sample; columns: parameters in the order of ``names``."""
    fixed = {name: value for name, value in values.items() if name not in names}
    chosen = {name: values[name] for name in names}

    def single(parameters: Values, x: torch.Tensor) -> torch.Tensor:
        return call(module, {**parameters, **fixed}, x[None]).reshape(-1)

    try:
        parts = torch.func.vmap(torch.func.jacrev(single), in_dims=(None, 0))(chosen, batch)
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(
            f"{type(module).__name__} cannot be differentiated sample by sample ({str(error).splitlines()[0]}); probe a submodule."
        ) from error
    rows = torch.cat([parts[name].flatten(2) for name in names], 2)
    _confirm(module, {**chosen, **fixed}, names, batch, rows)
    found: Array = rows.flatten(0, 1).cpu().numpy()
    return found


def _confirm(module: torch.nn.Module, values: Values, names: list[str], batch: torch.Tensor, rows: torch.Tensor) -> None:
    """One plain backward pass against the batched ones, which have been wrong in torch for some layers."""
    leaves = {name: values[name].clone().requires_grad_() for name in names}
    result = finite_output(module, {**values, **leaves}, batch).reshape(len(batch), -1)
    what = type(module).__name__
    if result.shape != rows.shape[:2]:
        raise ShapeError(
            f"{what} returns {result.shape[1]} numbers per input in a batch, {rows.shape[1]} alone; probe a submodule."
        )
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(result.shape, generator=generator, dtype=result.dtype).to(result.device)
    plain = torch.cat([g.reshape(-1) for g in torch.autograd.grad(result, list(leaves.values()), weight, materialize_grads=True)])
    off = (torch.einsum("nk,nkp->p", weight, rows) - plain).norm()
    if not off <= 1e-8 * plain.norm() + 1e-300:
        raise DataError(f"two ways to differentiate {what} differ by {float(off):.1e}; its samples interact, so probe a submodule.")


def _observe(
    module: torch.nn.Module,
    values: Values,
    batch: torch.Tensor,
    records: list[_Record],
    reads: dict[str, set[str]],
    linear: dict[str, bool],
) -> None:
    """Adds inputs and output gradients of the dense layers on one batch, and which of them read which through what."""
    names = [record.name for record in records]
    trained = {name for name, _ in module.named_parameters()}
    live = {name: value.clone().requires_grad_() if name in trained else value for name, value in values.items()}
    with called(module, names) as calls:
        result = call(module, live, batch).reshape(len(batch), -1)
    pairs = [(record, a, z) for record in records for a, z in calls[record.name]]
    gradients = (
        [
            torch.autograd.grad(result[:, k].sum(), [z for _, _, z in pairs], retain_graph=True, materialize_grads=True)
            for k in range(result.shape[1])
        ]
        if pairs
        else []
    )
    for i, (record, a, z) in enumerate(pairs):
        rows = finite(a.detach(), f"the input of {record.name!r}").reshape(-1, a.shape[-1])
        extended = torch.cat([rows, torch.ones_like(rows[:, :1])], 1) if record.bias else rows
        record.activations.add(extended.cpu().numpy())
        record.gradients.add(torch.cat([g[i].reshape(-1, z.shape[-1]) for g in gradients]).cpu().numpy())
        record.fired.append((z > 0).reshape(-1, z.shape[-1]).cpu().numpy())
        for other, b, _ in pairs:
            if b.shape == z.shape and torch.equal(b, z):
                link = True
            elif b.shape == z.shape and torch.equal(b, z.clamp(min=0)):
                link = False
            else:
                continue
            reads.setdefault(record.name, set()).add(other.name)
            linear[record.name] = linear.get(record.name, True) and link


def _layer(
    record: _Record, part: torch.nn.Linear, jacobian: _Triangle, spans: dict[str, slice], tolerance: float
) -> LayerDegeneracy:
    own = [spans[key] for p, _ in part.named_parameters() if (key := f"{record.name}.{p}".lstrip(".")) in spans]
    columns = np.concatenate([np.arange(s.start, s.stop) for s in own])
    return LayerDegeneracy(
        record.name,
        len(columns),
        jacobian.rank(tolerance, columns),
        part.in_features + record.bias,
        part.out_features,
        record.activations.rank(tolerance),
        record.gradients.rank(tolerance),
    )


def _couplings(records: list[_Record], reads: dict[str, set[str]], linear: dict[str, bool], tolerance: float) -> list[Coupling]:
    """Groups of units with one firing set, for every dense layer that others read through a rectifier or directly."""
    named = {record.name: record for record in records}
    found = []
    for name, readers in reads.items():
        record = named[name]
        width = record.gradients.width
        after = named[min(readers)].activations
        fired = np.concatenate(record.fired)
        label = np.zeros(width, int) if linear[name] else np.unique(fired, axis=1, return_inverse=True)[1].reshape(-1)
        groups = [np.flatnonzero(label == k) for k in range(label.max() + 1)]
        biased = record.bias and all(named[reader].bias for reader in readers)
        always = [linear[name] or bool(fired[:, g].all()) for g in groups]
        columns = [np.append(g, width) if biased and steady else g for g, steady in zip(groups, always, strict=True)]
        free = [after.rank(tolerance, c) * record.gradients.rank(tolerance, g) for c, g in zip(columns, groups, strict=True)]
        found.append(Coupling(name, tuple(sorted(readers)), tuple(tuple(map(int, g)) for g in groups), tuple(free)))
    return found

"""Certified norms of affine maps of any size, and the product of them over a network.

Evidence: PROVED. Small maps are written out and their largest singular value is bounded by a verified factorisation. Convolutions
are parts of a circular one on a torus of n + k - 1 places, whose norm is the largest over frequencies (Sedghi, Gupta, Long 2019);
each is bounded from above by Gram iteration (Delattre, Barthelemy, Araujo, Allauzen 2023) with its rounding counted. Whatever
else: Schur's test |A|_2 <= sqrt(|A|_1 |A|_inf), the bound that is exact for movements.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ascertain.certify.dense import gamma
from ascertain.certify.lipschitz.enclosure import ROOM, Enclosure
from ascertain.certify.lipschitz.plant import slopes
from ascertain.certify.lipschitz.program import Norms
from ascertain.certify.lipschitz.rigorous import NotVerified, largest_eigenvalue, root, square
from ascertain.errors import UnsupportedError
from ascertain.graph.graph import Builder, Graph, Node, fingerprint
from ascertain.graph.passes import lower
from ascertain.operators.base import Affine, Composite, Shape, Univariate

__all__ = ["affine_norms", "matrix_norm", "product_bound", "torus_norm"]

MOST = 4_000_000
"""Entries of a matrix that is written out where there is another way; five times as many where there is none."""


def matrix_norm(matrix: Enclosure) -> float:
    """A proved upper bound, tight to about 1e-12 relative, of the largest singular value of every matrix enclosed."""
    small = matrix if matrix.shape[1] <= matrix.shape[0] else matrix.T
    if not small.size().any():
        return 0.0
    try:
        return root(largest_eigenvalue(square(small)))
    except NotVerified:
        size = small.size()
        return root(float(size.sum(0).max()) * float(size.sum(1).max()) * ROOM)


def torus_norm(kernel: np.ndarray, size: Shape, iterations: int = 12) -> float:
    """A proved upper bound of the norm of a circular convolution with ``kernel`` (O, C, *K) on a torus of ``size`` places."""
    out, channels, *taps = kernel.shape
    largest = 0.0
    for responses, doubt in _responses(kernel.reshape(out, channels, -1), tuple(taps), size):
        largest = max(largest, _gram(responses, doubt, iterations))
    return largest


def _responses(kernel: np.ndarray, taps: Shape, size: Shape) -> list[tuple[np.ndarray, float]]:
    """Frequency responses (F, O, C), in chunks, each with a bound on the Frobenius norm of its error."""
    places = np.stack(np.meshgrid(*[np.arange(k) for k in taps], indexing="ij"), -1).reshape(-1, len(taps))
    half = [*size[:-1], size[-1] // 2 + 1]  # a real kernel: the rest are conjugates
    found = []
    total = np.sqrt(float((abs(kernel).sum(2) ** 2).sum()))
    angle_error = 2e-15 * sum(taps)
    doubt = (gamma(2 * kernel.shape[2]) + angle_error) * 4 * total
    frequencies = np.stack(np.meshgrid(*[np.arange(n) / n for n in size], indexing="ij"), -1)
    frequencies = frequencies[..., : half[-1], :].reshape(-1, len(taps))
    for part in np.array_split(frequencies, max(1, len(frequencies) // 256)):
        angle = -2 * np.pi * (part @ places.T)
        found.append((np.einsum("fk,ock->foc", np.exp(1j * angle), kernel, optimize=True), doubt))
    return found


def _gram(matrices: np.ndarray, doubt: float, iterations: int) -> float:
    """The largest norm of complex matrices (F, O, C), each known up to ``doubt`` in Frobenius norm."""
    if matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.conj().swapaxes(1, 2)
    n = max(matrices.shape[1:])
    size = np.sqrt((abs(matrices) ** 2).sum((1, 2)))
    scale = np.where(size > 0, size, 1.0)
    current, error = matrices / scale[:, None, None], doubt / scale + 1e-15
    logarithm = np.log(scale)
    for i in range(1, iterations + 1):
        current = current.conj().swapaxes(1, 2) @ current
        error = (2 * error + error**2 + 4 * gamma(n)) * ROOM
        size = np.sqrt((abs(current) ** 2).sum((1, 2)))
        scale = np.where(size > 0, size, 1.0)
        current = current / scale[:, None, None]
        error = error / scale + 1e-15
        logarithm = logarithm + np.log(scale) / 2.0**i
        if float(error.max()) > 0.01:
            break
    bound = logarithm + np.log(1 + error) / 2.0**i
    highest = float(bound.max())
    return float(np.exp(highest)) * (1 + 1e-13 * (10 + abs(highest)))


def affine_norms(operator: Affine, shapes: tuple[Shape, ...], norm: float) -> list[float]:
    """Proved upper bounds of the operator norm, in the norm 1, 2 or inf, of the linear part of each input."""
    operator = operator.convert(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a)
    magnitude = operator.magnitude()
    room = 1 + gamma(operator.terms(*shapes) + 1)
    columns = [float(np.max(a)) * room for a in magnitude.adjoint(np.ones((1, *operator.infer(*shapes))), *shapes)]
    if norm == 1:
        return columns
    found = []
    for i, column in enumerate(columns):
        ones = [np.ones((1, *s)) if i == j else np.zeros((1, *s)) for j, s in enumerate(shapes)]
        row = float(np.max(magnitude.linear(*ones))) * room
        found.append(row if norm == np.inf else _euclidean(operator, shapes, i, root(row * column * ROOM)))
    return found


def _euclidean(operator: Affine, shapes: tuple[Shape, ...], i: int, schur: float) -> float:
    """The l2 norm of one input's part, at most the value of Schur's test."""
    terms = operator.terms(*shapes)
    if terms == 0:
        return schur
    n, m = prod(shapes[i]), prod(operator.infer(*shapes))
    torus = operator.torus(*shapes)
    if n * m <= (5 * MOST if torus is None else MOST):
        unit = np.eye(n).reshape(n, *shapes[i])
        units = [unit if i == j else np.zeros((n, *s)) for j, s in enumerate(shapes)]
        columns, sizes = operator.linear(*units).reshape(n, m), operator.magnitude().linear(*units).reshape(n, m)
        return min(schur, matrix_norm(Enclosure(columns, gamma(terms) * sizes * ROOM)))
    if torus is None:
        return schur
    kernel, size = torus
    return min(schur, torus_norm(np.asarray(kernel, np.float64), size) * (1 + gamma(terms)))


def product_bound(graph: Graph, norms: Norms, directions: np.ndarray | None = None) -> float:
    """The product of layer norms, sums where paths meet: a proved constant for any network size; infinite where it is not known."""
    graph = lower(graph, keep=(Univariate, Composite))
    constants: dict[int, float] = {graph.input: 1.0}
    alone: dict[tuple[bytes, Shape], float] = {}
    for i, node in enumerate(graph.nodes):
        moving = [j for j in node.inputs if j in constants]
        if i == graph.input or not moving:
            continue
        if isinstance(node.operator, Affine):
            parts = affine_norms(node.operator, graph.shapes(node), norms.input)
            constants[i] = sum(p * constants[j] for p, j in zip(parts, node.inputs, strict=True) if j in constants) * ROOM
        elif isinstance(node.operator, Univariate):
            low, high = slopes(node)
            constants[i] = max(float(abs(low).max()), float(abs(high).max())) * constants[moving[0]] * ROOM
        else:
            key = fingerprint(node.operator), node.shape
            if key not in alone:
                alone[key] = _alone(node, graph.shapes(node), norms.input)
            constants[i] = alone[key] * constants[moving[0]] * ROOM
    value = constants[graph.output]
    size = graph.output_size
    if directions is not None:
        size = len(directions)
        value *= _small_norm(directions, norms.input)
    if norms.output < norms.input:
        value *= float(size) if norms.input == np.inf and norms.output == 1 else float(np.sqrt(size))
    return value * ROOM if np.isfinite(value) else np.inf


def _small_norm(matrix: np.ndarray, norm: float) -> float:
    return matrix_norm(Enclosure(matrix)) if norm == 2 else float(abs(matrix).sum(1 if norm == np.inf else 0).max()) * ROOM


def _alone(node: Node, shapes: tuple[Shape, ...], norm: float) -> float:
    """The constant of one composite operator, by its own plant; infinite where that is too large."""
    from ascertain.certify.lipschitz.constant import plant_constant
    from ascertain.certify.lipschitz.plant import plant

    if len(shapes) > 1 or prod(shapes[0]) > 512 or norm != 2:
        return np.inf
    builder = Builder()
    x = builder.input(shapes[0])
    try:
        return plant_constant(plant(builder.graph(x, builder(node.operator, x)))).value
    except UnsupportedError:
        return np.inf

"""Certified norms of affine maps of any size, and the product of them over a network.

Evidence: PROVED. Small maps are written out and their largest singular value is bounded by a verified factorisation. Convolutions
are parts of a circular one on a torus of n + k - 1 places, whose norm is the largest over frequencies (Sedghi, Gupta, Long 2019);
each is bounded from above by Gram iteration (Delattre, Barthelemy, Araujo, Allauzen 2023) with its rounding counted. Whatever
else: Schur's test |A|_2 <= sqrt(|A|_1 |A|_inf), the bound that is exact for movements.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from ascertain.certify.dense import gamma
from ascertain.certify.lipschitz.enclosure import ROOM, Enclosure
from ascertain.certify.lipschitz.plant import slopes
from ascertain.certify.lipschitz.pointwise import Ends, attention_norms, matrix_norm, product_norms, softmax_norm
from ascertain.certify.lipschitz.program import Norms
from ascertain.certify.lipschitz.rigorous import root
from ascertain.errors import UnsupportedError
from ascertain.graph.graph import Builder, Graph, Node, fingerprint
from ascertain.graph.passes import lower
from ascertain.operators.base import Affine, Bilinear, Composite, Planar, Shape, Univariate
from ascertain.operators.maximum import GroupSort
from ascertain.operators.softmax import LogSumExp, Softmax

__all__ = ["affine_norms", "local_product", "product_bound", "torus_norm"]

MOST = 4_000_000
"""Entries of a matrix that is written out where there is another way; five times as many where there is none."""


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
    value = np.inf
    if norms.input == 2:
        value = _product(lower(graph, keep=(Univariate, Composite)), norms.input)
    if not np.isfinite(value):
        value = _product(lower(graph, keep=(Univariate, GroupSort)), norms.input)
    size = graph.output_size
    if directions is not None:
        size = len(directions)
        value *= _small_norm(directions, norms.input)
    if norms.output < norms.input:
        value *= float(size) if norms.input == np.inf and norms.output == 1 else float(np.sqrt(size))
    return value * ROOM if np.isfinite(value) else np.inf


def local_product(graph: Graph, norm: float, directions: np.ndarray, boxes: Mapping[int, Ends]) -> float:
    """The same of a lowered graph on a set where every node's values lie in its box, for one norm: products and attention, too."""
    value = _product(graph, norm, boxes) * _small_norm(directions, norm)
    return value * ROOM if np.isfinite(value) else np.inf


def _product(graph: Graph, norm: float, boxes: Mapping[int, Ends] | None = None) -> float:
    """The product of norms over a lowered graph, in one norm of all values."""
    constants: dict[int, float] = {graph.input: 1.0}
    alone: dict[tuple[bytes, Shape], float] = {}
    for i, node in enumerate(graph.nodes):
        moving = [j for j in node.inputs if j in constants]
        if i == graph.input or not moving:
            continue
        if isinstance(node.operator, Affine):
            parts = affine_norms(node.operator, graph.shapes(node), norm)
            constants[i] = sum(p * constants[j] for p, j in zip(parts, node.inputs, strict=True) if j in constants) * ROOM
        elif isinstance(node.operator, Bilinear):
            constants[i] = _bilinear(graph, i, norm, constants, boxes)
        elif isinstance(node.operator, (Univariate, Planar)):
            constants[i] = _largest_slope(i, node, boxes) * constants[moving[0]] * ROOM
        else:
            key = fingerprint(node.operator), node.shape
            if key not in alone:
                alone[key] = _alone(node, graph.shapes(node))
            constants[i] = alone[key] * constants[moving[0]] * ROOM
    return constants[graph.output]


def _largest_slope(i: int, node: Node, boxes: Mapping[int, Ends] | None) -> float:
    """The norm of a function of one variable, or of groups of entries, in every norm."""
    if isinstance(node.operator, Univariate):
        box = None if boxes is None else tuple(e.reshape(1, *node.shape) for e in boxes[node.inputs[0]])
        low, high = slopes(node, box)  # type: ignore[arg-type]
        return max(float(abs(low).max()), float(abs(high).max()))
    if isinstance(node.operator, LogSumExp):
        return 1.0  # its gradient is a softmax: positive entries with sum 1
    if isinstance(node.operator, Softmax):
        return 0.5 if boxes is None else softmax_norm(boxes[i], node.shape, node.operator.axis)
    return np.inf


def _bilinear(graph: Graph, i: int, norm: float, constants: Mapping[int, float], boxes: Mapping[int, Ends] | None) -> float:
    """The constant of a product of two values that both stay in their boxes; infinite without boxes."""
    node = graph.nodes[i]
    if boxes is None or not isinstance(node.operator, Bilinear):
        return np.inf
    x, y = node.inputs
    parts = product_norms(node.operator.terms, graph.shapes(node), (boxes[x], boxes[y]), norm)
    value = sum(p * constants[j] for p, j in zip(parts, node.inputs, strict=True) if constants.get(j)) * ROOM
    return min(value, _attention(graph, i, constants, boxes)) if norm == 2 else value


def _attention(graph: Graph, i: int, constants: Mapping[int, float], boxes: Mapping[int, Ends]) -> float:
    """The constant where a product is softmax(query key') value, found by its form; infinite elsewhere."""
    node = graph.nodes[i]
    weights = graph.nodes[node.inputs[0]]
    scores = graph.nodes[weights.inputs[0]] if isinstance(weights.operator, Softmax) else weights
    rank = len(node.shape)
    if rank < 2 or not isinstance(weights.operator, Softmax) or weights.operator.axis != rank - 1:
        return np.inf
    if not all(isinstance(n.operator, Bilinear) and _is_matrix_product(n.operator.terms) for n in (node, scores)):
        return np.inf
    places = node.inputs[0], scores.inputs[0], scores.inputs[1], node.inputs[1]
    p, q, k, v = (tuple(e.reshape(-1, *graph.nodes[j].shape[-2:]) for e in boxes[j]) for j in places)
    k = tuple(e.swapaxes(1, 2) for e in k)
    found = attention_norms(p, q, k, v)  # type: ignore[arg-type]
    if found is None:
        return np.inf
    return sum(n * constants[j] for n, j in zip(found, places[1:], strict=True) if constants.get(j)) * ROOM


def _is_matrix_product(terms: tuple[str, str, str]) -> bool:
    """Whether an einsum is a stack of products of two matrices, such as hik,hkj->hij."""
    x, y, out = terms
    same = len(x) == len(y) == len(out) >= 2 and x[:-2] == y[:-2] == out[:-2]
    return same and x[-1] == y[-2] and out[-2:] == x[-2] + y[-1]


def _small_norm(matrix: np.ndarray, norm: float) -> float:
    return matrix_norm(Enclosure(matrix)) if norm == 2 else float(abs(matrix).sum(1 if norm == np.inf else 0).max()) * ROOM


def _alone(node: Node, shapes: tuple[Shape, ...]) -> float:
    """The l2 constant of one composite operator, by its own plant; infinite where that is too large."""
    from ascertain.certify.lipschitz.constant import plant_constant
    from ascertain.certify.lipschitz.plant import plant

    if isinstance(node.operator, GroupSort):
        return 1.0  # equal entries meet when both are sorted: no norm of the difference grows
    if len(shapes) > 1 or prod(shapes[0]) > 512:
        return np.inf
    builder = Builder()
    x = builder.input(shapes[0])
    try:
        return plant_constant(plant(builder.graph(x, builder(node.operator, x)))).value
    except UnsupportedError:
        return np.inf

"""The call people make: a proved Lipschitz constant, in any pair of norms, of any outputs, between any two layers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from ascertain.certify.lipschitz.certificate import Certificate
from ascertain.certify.lipschitz.generic import SOLVERS
from ascertain.certify.lipschitz.plant import Plant, plant
from ascertain.certify.lipschitz.program import EUCLIDEAN, Norms
from ascertain.certify.lipschitz.rigorous import NotVerified, Proof, prove
from ascertain.certify.lipschitz.section import section
from ascertain.certify.lipschitz.solve import Multipliers, Variables, multipliers
from ascertain.certify.lipschitz.spectral import product_bound
from ascertain.errors import DataError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph

__all__ = ["Lipschitz", "lipschitz", "lipschitz_pairs", "plant_constant"]

NORMS = (1.0, 2.0, np.inf)
PATIENCE = 4
"""Points that may prove less than the best before the search for a better one ends."""
METHODS = ("auto", "interior", "first-order", "layer", "product", *SOLVERS)


@dataclass(frozen=True, eq=False)
class Lipschitz:
    """|f(x) - f(y)| <= value |x - y| for all x and y, in exact arithmetic on the network's weights."""

    value: float
    input_norm: float
    output_norm: float
    evidence: Evidence
    method: str
    product: float
    """The product of the layers' norms, proved too; infinite where it is not known."""
    estimate: float
    """What the solver's multipliers give in floats: the proof added the rest."""
    gap: float
    """How far the value is above the optimum of the semidefinite program, relative and in floats; infinite where not known."""
    neurons: int
    """Scalar nonlinearities in the program."""
    seconds: float
    certificate: Certificate | None = None
    """What proves the value again without solving; None for products and for maxima over several programs."""

    def __str__(self) -> str:
        words = f"{self.method}, {self.neurons} nonlinearities, {self.seconds:.2f} s"
        product = f", product of norms {self.product:.6g}" if np.isfinite(self.product) else ""
        what = f"Lipschitz constant (l{self.input_norm:g} to l{self.output_norm:g})"
        return f"{what} <= {self.value:.9g}, evidence {self.evidence}: {words}{product}"


def lipschitz(
    network: Graph,
    norm: float = 2,
    *,
    output_norm: float | None = None,
    pair: tuple[int, int] | None = None,
    directions: np.ndarray | None = None,
    layers: tuple[str | int, str | int] | None = None,
    method: str = "auto",
    tolerance: float = 1e-8,
    timeout: float = 600.0,
) -> Lipschitz:
    """A proved global Lipschitz constant, by semidefinite programming over slope-restricted nonlinearities.

    ``norm`` of input differences and ``output_norm`` (the same if None) are 1, 2 or inf. ``pair`` (a, b): of output a minus output
    b; ``directions`` (k, n_out): of these combinations of outputs. ``layers`` (from, to): of the part of the network between two
    nodes, by name or position. ``method``: ``interior``, ``first-order`` (l2 only), ``layer`` (one multiplier for each layer),
    ``product`` of norms, ``clarabel``, ``scs`` or ``mosek`` through cvxpy, or ``auto``. After ``timeout`` seconds the best so far
    is proved. Evidence: PROVED. Raises UnsupportedError for operators with unbounded slope, ShapeError and DataError for unusable
    options.
    """
    norms = Norms(norm_of(norm), norm_of(norm if output_norm is None else output_norm))
    if method not in METHODS or not 0 < tolerance < 1 or not timeout > 0:
        raise DataError(
            f"method {method!r} with tolerance {tolerance} and {timeout} s is not possible; "
            f"give one of {', '.join(METHODS)}, a tolerance in (0, 1) and a positive time."
        )
    started = time.monotonic()
    graph = network if layers is None else section(network, *layers)
    chosen = directions_of(graph.output_size, pair, directions)
    product = product_bound(graph, norms, chosen)
    if method == "product":
        return _product(product, norms, started)
    try:
        form = plant(graph)
        form = form if chosen is None else form.toward(chosen)
        found = plant_constant(form, norms, method=method, tolerance=tolerance, timeout=timeout, hash=graph.hash)
    except UnsupportedError:
        if not np.isfinite(product):
            raise
        return _product(product, norms, started)
    if found.certificate is not None and chosen is not None:
        found = replace(found, certificate=replace(found.certificate, directions=chosen))
    found = replace(found, product=product, seconds=time.monotonic() - started)
    return found if found.value <= product else replace(_product(product, norms, started), neurons=found.neurons)


def _product(value: float, norms: Norms, started: float) -> Lipschitz:
    if not np.isfinite(value):
        raise UnsupportedError("The product of norms is not known for this network. Use method='auto'.")
    seconds = time.monotonic() - started
    return Lipschitz(value, norms.input, norms.output, Evidence.PROVED, "product of norms", value, value, np.inf, 0, seconds)


def norm_of(value: float) -> float:
    if value not in NORMS:
        raise DataError(f"the norm {value} is not known; give 1, 2 or inf.")
    return float(value)


def directions_of(outputs: int, pair: tuple[int, int] | None, directions: np.ndarray | None) -> np.ndarray | None:
    if pair is not None and directions is not None:
        raise DataError("pair and directions are both given; give one of them.")
    if pair is not None:
        if len(pair) != 2 or not all(0 <= i < outputs for i in pair) or pair[0] == pair[1]:
            raise ShapeError(f"pair {pair} names no two of the {outputs} outputs; give two different positions from 0.")
        found = np.zeros((1, outputs))
        found[0, pair[0]], found[0, pair[1]] = 1.0, -1.0
        return found
    if directions is None:
        return None
    found = np.atleast_2d(np.asarray(directions, np.float64))
    if found.shape[1] != outputs:
        raise ShapeError(f"directions have shape {found.shape}, the network has {outputs} outputs; give one column for each.")
    if not np.isfinite(found).all():
        raise DataError("directions hold NaN or infinite numbers; give finite ones.")
    return found


def plant_constant(
    form: Plant,
    norms: Norms = EUCLIDEAN,
    *,
    method: str = "auto",
    tolerance: float = 1e-8,
    timeout: float = 600.0,
    hash: str = "",
) -> Lipschitz:
    """A proved Lipschitz constant of a plant, such as an equilibrium model's; without the product of norms."""
    from threadpoolctl import threadpool_limits

    started = time.monotonic()
    form = form.reduced()
    threads = 1 if form.inputs + form.size < 1000 else None  # more threads only fight over small matrices
    with threadpool_limits(threads):
        parts = [_one(part, inner, method, tolerance, started + timeout, hash) for part, inner in _parts(form, norms)]
    worst = max(parts, key=lambda p: p.value)
    certificate = worst.certificate if len(parts) == 1 else None
    gap = max((p.gap for p in parts if p.value * (1 + p.gap) >= worst.value), default=worst.gap)
    return replace(
        worst,
        input_norm=norms.input,
        output_norm=norms.output,
        gap=gap,
        certificate=certificate,
        seconds=time.monotonic() - started,
    )


def _parts(form: Plant, norms: Norms) -> list[tuple[Plant, Norms]]:
    """Plants whose largest constant is the one asked for: one for each output in the maximum norm, for each input in l1."""
    outputs = [form]
    inner = norms.output
    if norms.output == np.inf:
        outputs = [form.toward(row) for row in np.eye(form.output.shape[0])]
        inner = 2.0
    if norms.input == 1:
        return [(part.along(j).reduced(), Norms(2.0, inner)) for part in outputs for j in range(form.inputs)]
    return [(part, Norms(norms.input, inner)) for part in outputs]


def _one(form: Plant, norms: Norms, method: str, tolerance: float, deadline: float, hash: str) -> Lipschitz:
    """The constant of one plant for input norm 2 or inf, output norm 2 or 1."""
    started = time.monotonic()
    if not form.output.size().any():
        return Lipschitz(0.0, norms.input, norms.output, Evidence.PROVED, "constant output", np.inf, 0.0, 0.0, 0, 0.0)
    if form.size or norms != EUCLIDEAN:
        solver = "interior" if method == "layer" else method
        found = multipliers(
            form,
            norms,
            layers=method == "layer",
            method=solver,
            tolerance=tolerance,
            check=lambda: time.monotonic() < deadline,
        )
    else:
        found = Multipliers((Variables(np.zeros(form.size), output=np.ones(len(form.output.middle))),), 0.0, 0.0, "linear", 0)
    if found is None:
        raise UnsupportedError("No multipliers make this equilibrium model well-posed. Train it with a monotone parametrisation.")
    value, certificate = _proved(form, norms, found, hash)
    seconds = time.monotonic() - started
    return Lipschitz(
        value,
        norms.input,
        norms.output,
        Evidence.PROVED,
        found.method,
        np.inf,
        found.value,
        found.gap,
        form.size,
        seconds,
        certificate,
    )


def _proved(form: Plant, norms: Norms, found: Multipliers, hash: str) -> tuple[float, Certificate]:
    """The best proof: points further inside are worse in floats but need less room for rounding, up to where they only lose."""
    best: Proof | None = None
    enough, losses = found.value * (1 + 1e-9), 0
    for i, point in enumerate(found.found):
        proof = _attempt(form, norms, point)
        if proof is not None and (best is None or proof.value < best.value):
            best = proof
            if i and proof.value > enough and (closer := _between(form, norms, found.found[i - 1], point, proof, enough)):
                best = closer
        elif best is not None:
            losses += 1
        if best is not None and (best.value <= enough or losses > PATIENCE):
            break
    if best is None:
        raise UnsupportedError("The solver's multipliers could not be verified. Use method='product', or scale the weights.")
    every = np.eye(form.output.shape[0])
    return best.value, Certificate(
        hash, norms.input, norms.output, best.value, best.factors, best.weights, best.tau, best.storage, every
    )


def _attempt(form: Plant, norms: Norms, point: Variables) -> Proof | None:
    try:
        return prove(form, norms, point.factors, point.input, point.output)
    except NotVerified:
        return None


def _between(form: Plant, norms: Norms, outer: Variables, inner: Variables, least: Proof, enough: float) -> Proof | None:
    """A better proof from points between one that proved less, or nothing, and one that proved ``least``: the set is convex."""
    best: Proof | None = None
    for share in (0.5, *(0.25**k for k in range(1, 11))):
        pairs = ((outer.factors, inner.factors), (outer.input, inner.input), (outer.output, inner.output))
        proof = _attempt(form, norms, Variables(*((1 - share) * a + share * b for a, b in pairs)))
        if proof is None or proof.value >= (best or least).value:
            break
        best = proof
        if proof.value <= enough:
            break
    return best


def lipschitz_pairs(network: Graph, norm: float = 2, *, tolerance: float = 1e-8, timeout: float = 600.0) -> np.ndarray:
    """Proved constants (n_out, n_out) of all differences of two outputs, from one program: certified margins. Evidence: PROVED."""
    from ascertain.certify.lipschitz.pairs import pairs

    return pairs(plant(network).reduced(), norm_of(norm), tolerance, timeout)

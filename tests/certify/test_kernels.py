"""Bounds of the compiled kernels never exceed values in exact rational arithmetic, and are tight where the network is linear."""

from fractions import Fraction

import numpy as np
import pytest

from ascertain.certify.dense import DenseForm, DenseLayer
from ascertain.certify.kernels.batch import Batch, Settings, attack_boxes, batch, bound_boxes
from ascertain.certify.kernels.domain import scratch
from ascertain.certify.kernels.pack import Packed, pack
from ascertain.errors import DataError, ShapeError
from ascertain.properties.property import Atoms

Exact = list[Fraction]


def random_form(rng: np.random.Generator, inputs: int = 2, width: int = 6, scale: float = 1.0, drop: float = 0.0) -> DenseForm:
    """Two ReLU layers, the second of which and the output also read the input."""

    def layer(size: int, **sources: int) -> DenseLayer:
        blocks = [rng.normal(size=(size, n)) * scale * (rng.random((size, n)) >= drop) for n in sources.values()]
        bias = rng.normal(size=size) * scale
        return DenseLayer(tuple(int(k[1:]) for k in sources), tuple(blocks), (None,) * len(blocks), bias, np.zeros(size))

    layers = (layer(width, v0=inputs), layer(width, v0=inputs, v1=width), layer(2, v0=inputs, v2=width))
    return DenseForm(inputs, layers, ((1, width), (3, width)))


def exact_values(form: DenseForm, x: np.ndarray) -> list[Exact]:
    """All pre-activations, layer by layer, in rational arithmetic."""
    values = [[Fraction(float(v)) for v in x]]
    before = []
    for layer in form.layers:
        z = [Fraction(float(b)) for b in layer.bias]
        for s, block in zip(layer.sources, layer.blocks, strict=True):
            for i, row in enumerate(block):
                z[i] += sum((Fraction(float(w)) * v for w, v in zip(row, values[s], strict=True)), Fraction(0))
        before.append(z)
        values.append([max(v, Fraction(0)) for v in z])
    return before


def exact_rows(atoms: Atoms, y: Exact) -> Exact:
    rows = [sum((Fraction(float(c)) * v for c, v in zip(row, y, strict=True)), Fraction(0)) for row in atoms.matrix]
    return [r - Fraction(float(b)) for r, b in zip(rows, atoms.bound, strict=True)]


def bound(net: Packed, lower: np.ndarray, upper: np.ndarray, settings: Settings, columns: int = 64, cancel: bool = False) -> Batch:
    neurons, groups = net.hidden[1] - net.hidden[0], len(net.groups) - 1
    boxes = {
        "lower": lower[None].copy(),
        "upper": upper[None].copy(),
        "neuron_lower": np.full((1, neurons), -np.inf, np.float32),
        "neuron_upper": np.full((1, neurons), np.inf, np.float32),
        "open": np.ones((1, groups), np.bool_),
    }
    found = batch(net, boxes, True)
    bound_boxes(net, scratch(net, columns), found, 0, 1, settings, np.array([cancel]))
    return found


def random_case(seed: int, width: float, scale: float = 1.0, drop: float = 0.0) -> tuple[DenseForm, Atoms, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    form = random_form(rng, scale=scale, drop=drop)
    atoms = Atoms(rng.normal(size=(3, 2)), rng.normal(size=3))
    lower = rng.normal(size=2)
    return form, atoms, lower, lower + width * rng.random(2)


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e9])
@pytest.mark.parametrize("width", [0.0, 1e-12, 0.1, 3.0])
def test_bounds_are_below_exact_values(width: float, scale: float) -> None:
    for seed in range(15):
        form, atoms, lower, upper = random_case(seed, width, scale, drop=0.9 * (seed % 2))
        rng = np.random.default_rng(seed)
        for single in (Atoms(atoms.matrix[:1], atoms.bound[:1]), atoms):
            net = pack(form, (single,), lower, upper)
            for columns in (1, 64):
                found = bound(net, lower, upper, Settings(5, False), columns)
                points = [lower, upper, *(np.clip(lower + rng.random(2) * (upper - lower), lower, upper) for _ in range(6))]
                for x in points:
                    z = exact_values(form, x)
                    # Any combination of rows with weights that sum to 1 is at most their largest value.
                    assert Fraction(float(found.worst[0])) <= max(exact_rows(single, z[-1]))
                    for at, v in enumerate([v for layer in z[:-1] for v in layer]):
                        if not net.unused[net.hidden[0] + at]:
                            assert Fraction(float(found.neuron_lower[0, at])) <= v <= Fraction(float(found.neuron_upper[0, at]))


def test_points_are_bounded_to_rounding() -> None:
    for seed in range(20):
        form, atoms, lower, _ = random_case(seed, 0.0)
        single = Atoms(atoms.matrix[:1], atoms.bound[:1])
        found = bound(pack(form, (single,), lower, lower), lower, lower, Settings(1, False))
        (exact,) = exact_rows(single, exact_values(form, lower)[-1])
        assert 0 <= float(exact - Fraction(float(found.worst[0]))) < 1e-11


def test_cancellation_is_charged() -> None:
    """A difference of large equal terms is rounding noise; a bare float comparison would call it positive half of the time."""
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        weight = rng.normal(size=(8, 3)) * 1e8
        first = DenseLayer((0,), (weight,), (None,), np.abs(rng.normal(size=8)) * 1e9, np.zeros(8))
        last = DenseLayer((1,), (rng.normal(size=(1, 8)) * 1e8,), (None,), np.zeros(1), np.zeros(1))
        form = DenseForm(3, (first, last), ((1, 8),))
        x = rng.normal(size=3)
        value = exact_values(form, x)[-1][0]
        atoms = Atoms(np.ones((1, 1)), np.array([float(value)]))
        exact = value - Fraction(float(value))
        found = bound(pack(form, (atoms,), x, x), x, x, Settings(1, False))
        assert Fraction(float(found.worst[0])) <= exact
        wrong += bool(form(x[None])[0, 0] > atoms.bound[0] >= value)
    assert wrong > 0  # the trap is real


def test_cancellation_inside_a_product_is_charged() -> None:
    """Coefficients that cancel leave rounding noise as the coefficient of x, so only the charge of the product itself can help."""
    above = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        w, a, ratio = rng.uniform(1, 2, 3), rng.uniform(1, 2), rng.uniform(1, 2)
        first = DenseLayer((0,), (np.stack([w, w / ratio]),), (None,), np.zeros(2), np.zeros(2))
        last = DenseLayer((1,), (np.array([[a, -a * ratio]]),), (None,), np.zeros(1), np.zeros(1))
        form = DenseForm(3, (first, last), ((1, 2),))
        x = rng.uniform(1, 2, 3)
        atoms = Atoms(np.ones((1, 1)), np.zeros(1))
        exact = exact_values(form, x)[-1][0]
        found = bound(pack(form, (atoms,), x, x), x, x, Settings(1, False))
        assert Fraction(float(found.worst[0])) <= exact
        coefficients = [
            Fraction(float(v)) * Fraction(float(t)) for v, t in zip((last.blocks[0] @ first.blocks[0])[0], x, strict=True)
        ]
        above += sum(coefficients) > exact
    assert above > 5  # composed in floats without a charge, the value would be called larger than it is


def test_the_upper_line_is_above_the_corner() -> None:
    """-relu(x) on [l, u] is -u at u, where a slope rounded down would put the bound above it."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        lower, upper = -rng.uniform(1e-3, 10, 1), rng.uniform(1e-3, 10, 1)
        one = np.ones((1, 1))
        layers = (
            DenseLayer((0,), (one,), (None,), np.zeros(1), np.zeros(1)),
            DenseLayer((1,), (-one,), (None,), np.zeros(1), np.zeros(1)),
        )
        net = pack(DenseForm(1, layers, ((1, 1),)), (Atoms(one, np.zeros(1)),), lower, upper)
        found = bound(net, lower, upper, Settings(1, False))
        assert -upper[0] * (1 + 1e-9) - 1e-9 <= found.worst[0] <= -upper[0]


def test_block_errors_are_charged_in_the_worst_direction() -> None:
    for seed in range(10):
        form, atoms, x, _ = random_case(seed, 0.0)
        single = Atoms(atoms.matrix[:1], atoms.bound[:1])
        *before, last = form.layers
        size = 1e-6
        errors = tuple(np.full_like(b, size) for b in last.blocks)
        doubtful = DenseLayer(last.sources, last.blocks, errors, last.bias, np.full_like(last.bias, size))
        net = pack(DenseForm(2, (*before, doubtful), form.neurons), (single,), x, x)
        worst = bound(net, x, x, Settings(1, False)).worst[0]
        values = [x, *([max(v, Fraction(0)) for v in z] for z in exact_values(form, x))]
        down = -size * np.sign(single.matrix[0])
        blocks = tuple(
            b + np.outer(down, np.sign([float(v) for v in values[s]])) for s, b in zip(last.sources, last.blocks, strict=True)
        )
        moved = DenseForm(
            2, (*before, DenseLayer(last.sources, blocks, last.errors, last.bias + down, last.bias_error)), form.neurons
        )
        assert float(worst) <= float(exact_rows(single, exact_values(moved, x)[-1])[0]) + 1e-13


def test_linear_pieces_are_bounded_exactly() -> None:
    for seed in range(20):
        form, atoms, lower, _ = random_case(seed, 0.0)
        upper = lower + 1e-9
        single = Atoms(atoms.matrix[:1], atoms.bound[:1])
        found = bound(pack(form, (single,), lower, upper), lower, upper, Settings(1, False))
        corners = [np.array([a, b]) for a in (lower[0], upper[0]) for b in (lower[1], upper[1])]
        least = min(exact_rows(single, exact_values(form, x)[-1])[0] for x in corners)
        assert float(least - Fraction(float(found.worst[0]))) < 1e-11


def test_block_errors_are_charged() -> None:
    form, atoms, lower, upper = random_case(0, 0.2)
    single = Atoms(atoms.matrix[:1], atoms.bound[:1])
    loose = tuple(
        DenseLayer(
            layer.sources,
            layer.blocks,
            tuple(np.full_like(b, 1e-6) for b in layer.blocks),
            layer.bias,
            np.full_like(layer.bias, 1e-6),
        )
        for layer in form.layers
    )
    other = DenseForm(form.input_size, loose, form.neurons)
    worst = bound(pack(other, (single,), lower, upper), lower, upper, Settings(1, False)).worst[0]
    rng = np.random.default_rng(1)
    for _ in range(50):
        moved = tuple(
            DenseLayer(
                layer.sources,
                tuple(b + 1e-6 * rng.choice([-1, 1], b.shape) for b in layer.blocks),
                layer.errors,
                layer.bias + 1e-6 * rng.choice([-1, 1], layer.bias.shape),
                layer.bias_error,
            )
            for layer in form.layers
        )
        x = rng.uniform(lower, upper)
        assert (DenseForm(2, moved, form.neurons)(x[None])[0] @ single.matrix.T - single.bound)[0] >= worst


def test_clipping_keeps_every_unsafe_point() -> None:
    kept = 0
    for seed in range(60):
        form, atoms, lower, upper = random_case(seed, 2.0)
        found = bound(pack(form, (atoms,), lower, upper), lower, upper, Settings(5, True))
        points = np.random.default_rng(seed).uniform(lower, upper, (400, 2))
        unsafe = points[(form(points) @ atoms.matrix.T <= atoms.bound).all(axis=1)]
        assert not (len(unsafe) and not found.open[0, 0])
        assert ((unsafe >= found.lower[0]) & (unsafe <= found.upper[0])).all()
        kept += bool(found.open[0, 0] and (found.upper[0] - found.lower[0] < upper - lower).any())
    assert kept > 5


def test_atoms_on_inputs_are_rows() -> None:
    form, _, lower, upper = random_case(1, 1.0)
    atoms = Atoms(np.zeros((1, 2)), np.array([0.0]), input_matrix=np.array([[1.0, -2.0]]))
    found = bound(pack(form, (atoms,), lower, upper), lower, upper, Settings(1, False))
    assert found.worst[0] == pytest.approx(lower[0] - 2 * upper[1], abs=1e-12)


def test_cancelled_boxes_are_untouched() -> None:
    form, atoms, lower, upper = random_case(1, 1.0)
    found = bound(pack(form, (atoms,), lower, upper), lower, upper, Settings(5, True), cancel=True)
    assert not found.done[0] and found.open.all()
    np.testing.assert_array_equal(found.lower[0], lower)


def test_attack_finds_a_reachable_violation_inside_the_box() -> None:
    form, _, lower, upper = random_case(2, 1.0)
    rng = np.random.default_rng(0)
    points = rng.uniform(lower, upper, (500, 2))
    atoms = Atoms(np.array([[1.0, 0.0]]), np.quantile(form(points)[:, :1], 0.05, axis=0))
    net = pack(form, (atoms,), lower, upper)
    found = bound(net, lower, upper, Settings(1, False))
    found.value[:], found.open[:] = np.inf, True
    found.lower[:], found.upper[:] = lower, upper
    found.point[:] = lower
    attack_boxes(net, scratch(net, 8), found, 0, 1, Settings(30, False), np.zeros(1, np.bool_))
    x = found.point[0]
    assert (x >= lower).all() and (x <= upper).all()
    assert found.value[0] == pytest.approx((form(x[None])[0, 0] - atoms.bound[0]), abs=1e-12)
    assert found.value[0] <= 0


def test_unusable_numbers_raise() -> None:
    form, atoms, lower, upper = random_case(0, 1.0)
    for low, high in ((lower, lower - 1), (np.full(2, np.nan), upper), (lower, np.full(2, np.inf))):
        with pytest.raises(DataError, match="box"):
            pack(form, (atoms,), low, high)
    with pytest.raises(ShapeError, match="takes 2 inputs"):
        pack(form, (atoms,), lower[:1], upper[:1])
    with pytest.raises(ShapeError, match="outputs"):
        pack(form, (Atoms(np.ones((1, 5)), np.zeros(1)),), lower, upper)
    huge = random_form(np.random.default_rng(0), scale=1e60)
    with pytest.raises(DataError, match="1e100"):
        pack(huge, (atoms,), lower, upper)

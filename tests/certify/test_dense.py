"""Dense forms equal their graphs, and their error bounds cover the rounding of composition, measured in rational arithmetic."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ascertain.certify.dense import DenseForm, dense_form, gamma
from ascertain.errors import DataError, UnsupportedError
from ascertain.graph.graph import Builder, Graph, Node
from ascertain.operators.affine import Dense, Shift, Sum
from ascertain.operators.base import Affine, Ref, Univariate
from ascertain.operators.piecewise import Relu


def dense(rng: np.random.Generator, out: int, size: int) -> Dense:
    weight = rng.normal(size=(out, size)).astype(np.float32)
    return Dense(weight, rng.normal(size=out).astype(np.float32))


def branching(seed: int) -> Graph:
    """Two branches, a skip connection past a ReLU, and products of two weighted maps with nothing between them."""
    rng = np.random.default_rng(seed)
    build = Builder()
    x = build.input((3,))
    first = build(Shift(rng.normal(size=3).astype(np.float32)), x)
    left = build(Relu(), build(dense(rng, 4, 5), build(dense(rng, 5, 3), first)))
    right = build(Relu(), build(dense(rng, 4, 3), x))
    mixed = build(Sum((1.0, -1.0)), left, right)
    last = build(Sum((1.0, 1.0)), build(dense(rng, 2, 4), mixed), build(dense(rng, 2, 3), x))
    return build.graph(x, last)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_graph(seed: int) -> None:
    graph = branching(seed)
    form = dense_form(graph)
    assert form is not None
    x = np.random.default_rng(seed).normal(size=(50, 3))
    np.testing.assert_allclose(form(x), graph(x), rtol=0, atol=1e-12)
    assert [layer.sources for layer in form.layers] == [(0,), (0,), (0, 1, 2)]
    assert [size for _, size in form.neurons] == [4, 4]
    assert all(isinstance(graph.nodes[i].operator, Relu) for i, _ in form.neurons)


def rational(matrix: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in row] for row in matrix]


def product(a: list[list[Fraction]], b: list[list[Fraction]]) -> list[list[Fraction]]:
    return [[sum((p * q for p, q in zip(row, column, strict=True)), Fraction(0)) for column in zip(*b, strict=True)] for row in a]


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_errors_cover_the_rounding_of_composition(scale: float) -> None:
    rng = np.random.default_rng(3)
    shift = rng.normal(size=6) * scale
    maps = [rng.normal(size=(6, 6)) * scale for _ in range(3)]
    offsets = [rng.normal(size=6) for _ in range(3)]
    build = Builder()
    x = build.input((6,))
    value: Ref = build(Shift(shift), x)
    for weight, offset in zip(maps, offsets, strict=True):
        value = build(Dense(weight, offset), value)
    form = dense_form(build.graph(x, value))
    assert form is not None
    layer = form.layers[0]
    total, bias = rational(np.eye(6)), rational(shift[:, None])
    for weight, offset in zip(maps, offsets, strict=True):
        total = product(rational(weight), total)
        bias = [[p[0] + q[0]] for p, q in zip(product(rational(weight), bias), rational(offset[:, None]), strict=True)]
    error = layer.errors[0]
    assert error is not None
    stored = rational(layer.blocks[0])
    off = np.array([[float(abs(t - s)) for t, s in zip(*rows, strict=True)] for rows in zip(total, stored, strict=True)])
    assert off.max() > 0
    assert (off <= error).all()
    assert (error <= 1e-12 * np.abs(maps[2]) @ np.abs(maps[1]) @ np.abs(maps[0])).all()
    for t, s, e in zip(bias, layer.bias, layer.bias_error, strict=True):
        assert abs(t[0] - Fraction(float(s))) <= Fraction(float(e))


def test_movement_is_exact() -> None:
    build = Builder()
    x = build.input((4,))
    form = dense_form(build.graph(x, build(Relu(), x)))
    assert form is not None
    assert form.layers[0].errors == (None,) and not form.layers[0].bias_error.any()
    np.testing.assert_array_equal(form.layers[0].blocks[0], np.eye(4))


class Doubtful(Dense):
    """Stored coefficients that came out of a cancellation: their rounding is that of a larger magnitude."""

    def magnitude(self) -> Affine:
        return Dense(100 * abs(self.weight), None)


def test_the_first_map_is_charged_by_its_magnitude() -> None:
    build = Builder()
    x = build.input((3,))
    weight = np.random.default_rng(0).normal(size=(2, 3))
    form = dense_form(build.graph(x, build(Doubtful(weight), x)))
    assert form is not None
    (error,) = form.layers[0].errors
    assert error is not None and (error >= 7 * 2.0**-53 * 100 * abs(weight)).all()


def test_too_large_a_network_has_no_dense_form() -> None:
    assert dense_form(branching(0), limit=10) is None


def test_unusable_networks_raise() -> None:
    build = Builder()
    x = build.input((2,))
    with pytest.raises(DataError, match="not finite"):
        dense_form(build.graph(x, build(Dense(np.array([[1.0, np.nan]])), x)))
    build = Builder()
    x = build.input((2,))
    with pytest.raises(UnsupportedError, match="lower the graph"):
        dense_form(Graph((*build.nodes, Node("odd", Univariate(), (0,), (2,))), 0, 1))


def test_gamma_is_above_the_textbook_bound() -> None:
    for n in (1, 10, 1000, 10**6):
        u = Fraction(1, 2**53)
        assert Fraction(gamma(n)) > n * u / (1 - n * u)


def test_real_networks_equal_onnxruntime(shared: Path, tmp_path: Path) -> None:
    import gzip

    onnxruntime = pytest.importorskip("onnxruntime")
    from ascertain.graph import load, lower

    for name in (
        "2025_cersyve/onnx/lane_keep_finetune_inv.onnx.gz",
        "2024_acasxu_2023/onnx/ACASXU_run2a_1_1_batch_2000.onnx.gz",
        "2024_tllverifybench_2023/onnx/tllBench_n=2_N=M=8_m=1_instance_0_1.onnx.gz",
    ):
        path = tmp_path / "net.onnx"
        path.write_bytes(gzip.decompress((shared / "vnncomp" / name).read_bytes()))
        form = dense_form(lower(load(path)))
        assert isinstance(form, DenseForm)
        session = onnxruntime.InferenceSession(str(path))
        (given,) = session.get_inputs()
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in given.shape]
        for x in np.random.default_rng(0).uniform(-1, 1, (5, form.input_size)).astype(np.float32):
            (y,) = session.run(None, {given.name: x.reshape(shape)})
            np.testing.assert_allclose(form(x[None].astype(np.float64))[0], y.ravel(), rtol=1e-4, atol=1e-4)

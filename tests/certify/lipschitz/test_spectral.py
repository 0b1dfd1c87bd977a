"""Norms of layers, from above, against the matrices written out."""

import numpy as np
import pytest

from ascertain.certify.lipschitz import Norms
from ascertain.certify.lipschitz.enclosure import Enclosure
from ascertain.certify.lipschitz.pointwise import matrix_norm
from ascertain.certify.lipschitz.spectral import affine_norms, product_bound, torus_norm
from ascertain.graph import Builder
from ascertain.operators import AveragePool, Conv, Dense, Exp, Relu, Reshape, Sum, Transpose
from tests.certify.lipschitz.networks import gaussian, maxmin, mlp

CONVOLUTIONS = [
    (Conv(np.random.default_rng(0).normal(size=(4, 3, 3, 3)), None, (1, 1), ((1, 1), (1, 1)), (1, 1)), (1, 3, 8, 8)),
    (Conv(np.random.default_rng(1).normal(size=(4, 3, 3, 3)), None, (2, 2), ((1, 1), (1, 1)), (1, 1)), (1, 3, 9, 8)),
    (Conv(np.random.default_rng(2).normal(size=(4, 2, 3, 2)), None, (1, 2), ((0, 3), (2, 0)), (2, 1), groups=2), (1, 4, 9, 7)),
    (Conv(np.random.default_rng(3).normal(size=(5, 2, 4)), None, (1,), ((0, 0),), (2,)), (1, 2, 15)),
    (Conv(np.random.default_rng(4).normal(size=(2, 2, 2, 2, 2)), None, (1, 1, 1), ((1, 0),) * 3, (1, 1, 1)), (1, 2, 3, 4, 3)),
]


def written_out(operator, shape):
    n = int(np.prod(shape))
    return operator.linear(np.eye(n).reshape(n, *shape)).reshape(n, -1).T


@pytest.mark.parametrize(("operator", "shape"), CONVOLUTIONS)
def test_a_torus_bounds_every_convolution(operator, shape):
    matrix = written_out(operator, shape)
    kernel, size = operator.torus(shape)
    bound = torus_norm(kernel, size)
    truth = np.linalg.norm(matrix, 2)
    assert truth <= bound <= 2.5 * truth
    assert affine_norms(operator, (shape,), 2.0)[0] == pytest.approx(truth, rel=1e-6)


def test_a_circular_convolution_has_the_norm_of_its_torus():
    rng = np.random.default_rng(0)
    kernel, n = rng.normal(size=(3, 2, 3, 3)), 6
    matrix = np.zeros((3, n, n, 2, n, n))
    for i in range(n):
        for j in range(n):
            for a in range(3):
                for b in range(3):
                    matrix[:, i, j, :, (i + a) % n, (j + b) % n] += kernel[:, :, a, b]
    truth = np.linalg.norm(matrix.reshape(3 * n * n, -1), 2)
    bound = torus_norm(kernel, (n, n))
    assert truth <= bound <= truth * (1 + 1e-3)


@pytest.mark.parametrize(("operator", "shape"), CONVOLUTIONS)
def test_norms_one_and_inf_are_exact(operator, shape):
    matrix = written_out(operator, shape)
    for norm in (1.0, np.inf):
        truth = np.linalg.norm(matrix, norm)
        assert truth <= affine_norms(operator, (shape,), norm)[0] <= truth * (1 + 1e-9)


def test_movements_and_sums():
    assert affine_norms(Transpose((0, 2, 1)), ((1, 3, 4),), 2.0) == pytest.approx([1.0])
    assert affine_norms(Reshape((1, 12)), ((1, 3, 4),), 2.0) == pytest.approx([1.0])
    assert affine_norms(Sum((2.0, -3.0)), ((1, 3), (1, 3)), 2.0) == pytest.approx([2.0, 3.0])
    pool = AveragePool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    assert affine_norms(pool, ((1, 1, 4, 4),), 2.0) == pytest.approx([0.5])


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 5), (40, 40)])
def test_matrices(shape):
    matrix = np.random.default_rng(0).normal(size=shape) * 1e-3
    truth = np.linalg.norm(matrix, 2)
    assert truth <= matrix_norm(Enclosure(matrix)) <= truth * (1 + 1e-7)
    assert matrix_norm(Enclosure(matrix * 0)) == 0
    assert matrix_norm(Enclosure(np.ones((2, 2)), np.full((2, 2), 0.5))) >= 3


def test_products_over_networks():
    weights = gaussian((5, 8, 8, 3), 0)
    truth = np.prod([np.linalg.norm(w, 2) for w in weights])
    assert product_bound(mlp(weights), Norms()) == pytest.approx(truth, rel=1e-6)
    assert product_bound(mlp(weights, maxmin), Norms()) == pytest.approx(truth, rel=1e-5)
    assert product_bound(mlp(weights), Norms(np.inf, np.inf)) == pytest.approx(
        np.prod([np.linalg.norm(w, np.inf) for w in weights]), rel=1e-6
    )
    builder = Builder()
    x = builder.input((1, 5))
    y = builder(
        Sum((1.0, 1.0)), x, builder(Dense(gaussian((4, 5), 1)[0]), builder(Relu(), builder(Dense(gaussian((5, 4), 0)[0]), x)))
    )
    one = 1 + np.linalg.norm(gaussian((4, 5), 1)[0], 2) * np.linalg.norm(gaussian((5, 4), 0)[0], 2)
    assert product_bound(builder.graph(x, y), Norms()) == pytest.approx(one, rel=1e-6)
    assert product_bound(mlp(weights, Exp), Norms()) == np.inf

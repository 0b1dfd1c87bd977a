"""Norms on sets: products, softmax and attention, never below a matrix or Jacobian that the set holds."""

import numpy as np
import pytest
import torch
from torch import nn

from ascertain import lipschitz
from ascertain.certify.lipschitz import local_lipschitz
from ascertain.certify.lipschitz.pointwise import attention_norms, product_norms, softmax_norm
from ascertain.errors import UnsupportedError
from ascertain.graph import Builder, load
from ascertain.operators import Dense, LogSumExp, Product, Softmax
from ascertain.properties.sets import Box
from tests.certify.lipschitz.networks import gaussian, jacobians, operator_norm


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize(
    ("terms", "shapes"), [("ab,ab->ab", ((2, 3), (2, 3))), ("hik,hkj->hij", ((2, 3, 4), (2, 4, 2))), ("k,k->", ((4,), (4,)))]
)
def test_products_have_the_norm_of_the_matrix_written_out(terms, shapes, norm):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=s) for s in shapes)
    names = terms.replace(",", " ").replace("->", " ").split(" ")
    found = product_norms(tuple(names), shapes, ((x, x), (y, y)), norm)

    def written_out(function, shape):
        n = int(np.prod(shape))
        return np.stack([np.asarray(function(e.reshape(shape))).reshape(-1) for e in np.eye(n)], 1)

    by_x = np.linalg.norm(written_out(lambda d: np.einsum(terms, d, y), shapes[0]), norm)
    by_y = np.linalg.norm(written_out(lambda d: np.einsum(terms, x, d), shapes[1]), norm)
    assert found == pytest.approx([by_x, by_y], rel=1e-6) and found[0] >= by_x and found[1] >= by_y
    wide = product_norms(tuple(names), shapes, ((x - 0.1, x + 0.3), (y - 0.2, y)), norm)
    assert wide[0] >= found[0] and wide[1] >= found[1]


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_softmax_is_never_steeper_than_its_bound(norm):
    rng = np.random.default_rng(1)
    for scale in (0.1, 1.0, 10.0):
        p = np.exp(scale * rng.normal(size=(50, 4)))
        p /= p.sum(1, keepdims=True)
        true = [np.linalg.norm(np.diag(q) - np.outer(q, q), norm) for q in p]
        each = [softmax_norm((q, q), (4,), 0) for q in p]
        assert all(t <= e * (1 + 1e-12) + 1e-15 and e <= 0.5 for t, e in zip(true, each, strict=True))
        assert max(true) <= softmax_norm((p.min(0), p.max(0)), (4,), 0)


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_softmax_has_a_constant_everywhere(norm):
    weights = gaussian([3, 5], 0)[0]
    builder = Builder()
    x = builder.input((1, 3))
    network = builder.graph(x, builder(Softmax(1), builder(Dense(3 * weights), x)))
    found = lipschitz(network, norm)
    assert max(operator_norm(j, norm, norm) for j in jacobians(network, 500)) <= found.value
    assert found.value == pytest.approx(1.5 * np.linalg.norm(weights, norm), rel=1e-6)
    builder = Builder()
    x = builder.input((1, 3))
    assert lipschitz(builder.graph(x, builder(LogSumExp(1), x)), norm).value == pytest.approx(1.0)


def weighted(q, k, v):
    p = torch.softmax(q @ k.transpose(-1, -2), -1)
    return p @ v, p


@pytest.mark.parametrize("seed", range(3))
def test_attention_is_never_steeper_than_its_norms(seed):
    rng = np.random.default_rng(seed)
    heads, length, keys, size, width = 2, 3, 4, 2, 3
    shapes = (heads, length, size), (heads, keys, size), (heads, keys, width)
    middle = [rng.normal(size=s) for s in shapes]
    radius = (0.0, 1e-3, 0.1)[seed]
    points = [[m + radius * rng.uniform(-1, 1, m.shape) for m in middle] for _ in range(20)]
    every = [torch.tensor(np.stack(parts)) for parts in zip(*points, strict=True)]
    p = weighted(*every)[1].numpy()
    boxes = [(m - radius, m + radius) for m in middle]
    found = attention_norms((p.min(0), p.max(0)), *boxes)
    for point in points:
        tensors = tuple(torch.tensor(a) for a in point)
        for place, bound in enumerate(found):

            def output(t, place=place, tensors=tensors):
                return weighted(*(t if i == place else a for i, a in enumerate(tensors)))[0]

            j = torch.func.jacrev(output)(tensors[place]).reshape(heads * length * width, -1)
            assert float(torch.linalg.matrix_norm(j, 2)) <= bound * (1 + 1e-12)


class Attention(nn.Module):
    """Self-attention of one head, with an output layer and a sum around it."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(3, 3, dtype=torch.float64) for _ in range(4))

    def forward(self, x):
        return x + self.out(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


@pytest.mark.parametrize("radius", [1e-9, 0.1, 0.5])
def test_attention_layers_by_the_product_on_a_set(radius):
    torch.manual_seed(0)
    module = Attention()
    network = load(module, input_shape=(1, 4, 3))
    center = np.random.default_rng(0).normal(size=12)
    box = Box(center - radius, center + radius)
    found = local_lipschitz(network, box, 2, method="product")
    points = torch.tensor(box.sample(np.random.default_rng(1), 100)).reshape(-1, 1, 4, 3)
    slopes = [torch.func.jacrev(module)(x[None]).reshape(12, 12).detach() for x in points[:, 0]]
    sampled = max(float(torch.linalg.matrix_norm(j, 2)) for j in slopes)
    assert found.method == "product of norms" and sampled <= found.upper <= (3, 4, 12)[(1e-9, 0.1, 0.5).index(radius)] * sampled
    assert found.lower <= found.upper
    with pytest.raises(UnsupportedError):
        lipschitz(network)


def test_elementwise_products_on_a_set():
    builder = Builder()
    x = builder.input((3,))
    y = builder(Dense(gaussian([3, 3], 0)[0]), x)
    network = builder.graph(x, builder(Product("a,a->a"), x, y))
    box = Box(-np.ones(3), np.ones(3))
    for norm in (1, 2, np.inf):
        found = local_lipschitz(network, box, norm, method="product")
        exact = local_lipschitz(network, box, norm, method="search", timeout=5)
        assert exact.lower <= found.upper <= 3 * exact.lower

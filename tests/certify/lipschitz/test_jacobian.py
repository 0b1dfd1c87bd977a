"""The Jacobian's graph: equal to autograd, and its bounds hold every sampled Jacobian."""

import numpy as np
import pytest
import torch
from torch import nn

from ascertain.certify.deep import output_bounds
from ascertain.certify.lipschitz.jacobian import jacobian
from ascertain.errors import DataError, ShapeError, UnsupportedError
from ascertain.graph import Builder, load
from ascertain.operators import Derivative, Relu, Slope
from ascertain.operators.base import Operator, Univariate
from ascertain.operators.battery import check_operator
from ascertain.properties.sets import Box
from tests.operators.test_battery import CLASSES


class MaxMin(nn.Module):
    def forward(self, x):
        a, b = x.reshape(x.shape[0], -1, 2).unbind(-1)
        return torch.stack([torch.maximum(a, b), torch.minimum(a, b)], -1).flatten(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        t = x.reshape(-1, 2, 3)
        p = torch.softmax(self.q(t) @ self.k(t).transpose(1, 2) / 3**0.5, -1)
        return (p @ self.v(t)).flatten(1)


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.first, self.second, self.activation = nn.Linear(4, 6), nn.Linear(6, 4), activation

    def forward(self, x):
        return x + self.second(self.activation(self.first(x)))


class Products(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x):
        return torch.log_softmax(self.first(x) * torch.sigmoid(self.second(x)), -1) ** 2


def dense(activation, inputs=3):
    return nn.Sequential(nn.Linear(inputs, 6), activation, nn.Linear(6, 4), activation, nn.Linear(4, 2))


MODULES = {
    "relu": (lambda: dense(nn.ReLU()), 3),
    "leaky": (lambda: dense(nn.LeakyReLU(0.1)), 3),
    "clip": (lambda: dense(nn.Hardtanh()), 3),
    "tanh": (lambda: dense(nn.Tanh()), 3),
    "sigmoid": (lambda: dense(nn.Sigmoid()), 3),
    "gelu": (lambda: dense(nn.GELU()), 3),
    "tanh gelu": (lambda: dense(nn.GELU("tanh")), 3),
    "silu": (lambda: dense(nn.SiLU()), 3),
    "mish": (lambda: dense(nn.Mish()), 3),
    "elu": (lambda: dense(nn.ELU(0.7)), 3),
    "softplus": (lambda: dense(nn.Softplus()), 3),
    "softsign": (lambda: dense(nn.Softsign()), 3),
    "maxmin": (lambda: dense(MaxMin()), 3),
    "convolution": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
        ),
        16,
    ),
    "normalised": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)), 3),
    "attention": (Attention, 6),
    "residual": (lambda: nn.Sequential(Residual(nn.ReLU()), Residual(nn.Tanh())), 4),
    "products": (Products, 3),
}


def made(name, seed=0):
    torch.manual_seed(seed)
    make, inputs = MODULES[name]
    module = make().double().eval()
    return module, load(module, input_shape=(1, inputs)), inputs


def autograd(module, x):
    """Jacobians (B, n_out, n_in)."""
    return torch.func.vmap(torch.func.jacrev(lambda p: module(p[None])[0]))(torch.as_tensor(x)).detach().numpy()


@pytest.mark.parametrize("name", MODULES)
def test_equals_autograd(name):
    module, graph, inputs = made(name)
    x = np.random.default_rng(1).normal(size=(20, inputs))
    found = jacobian(graph, np.eye(graph.output_size))
    expected = autograd(module, x)
    got = found.graph(x.reshape(20, *graph.input_shape)).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("radius", [1e-9, 0.01, 0.3, 2.0])
@pytest.mark.parametrize("name", MODULES)
def test_bounds_hold_samples(name, radius):
    module, graph, inputs = made(name, seed=2)
    if name == "normalised" and radius > 1:
        pytest.skip("the variance of a layer norm may vanish on so large a box")
    rng = np.random.default_rng(3)
    center = rng.normal(size=inputs)
    box = Box(center - radius, center + radius)
    rows = rng.normal(size=(2, graph.output_size))
    found = jacobian(graph, rows)
    low, high = (v.reshape(2, inputs) for v in output_bounds(found.graph, box, "crown", 0, "cpu", 1))
    sampled = rows @ autograd(module, box.sample(rng, 2000))
    assert np.isfinite(low).all() and np.isfinite(high).all()
    room = 1e-6 * (1 + abs(sampled).max())  # torch evaluates in another order, and some modules in float32
    assert (sampled >= low - room).all() and (sampled <= high + room).all()
    if radius < 1e-6:
        assert (high - low).max() < 1e-4 * (1 + abs(sampled).max()) or name in ("relu", "maxmin")


@pytest.mark.parametrize("head, expected", [("rows", lambda j: abs(j).sum(2)), ("columns", lambda j: abs(j).sum(1))])
def test_heads_and_columns(head, expected):
    module, graph, inputs = made("tanh")
    x = np.random.default_rng(1).normal(size=(5, inputs))
    kept = np.array([0, 2])
    got = jacobian(graph, np.eye(2), columns=kept, head=head).graph(x[:, None])
    np.testing.assert_allclose(got, expected(autograd(module, x)[:, :, kept]), rtol=1e-6)


def smooth():
    for kind in CLASSES:
        if issubclass(kind, Univariate) and not issubclass(kind, (Derivative, Slope, Relu)):
            for operator, shapes in kind.examples():
                if all(np.isfinite(s).all() for s in operator.slope_range(np.full(shapes[0], 1.0), np.full(shapes[0], 1.5))):
                    yield pytest.param(operator, shapes, id=f"{kind.__name__}")


@pytest.mark.parametrize("operator, shapes", list(smooth()))
def test_derivative_bounds_hold_samples(operator: Operator, shapes):
    derivative, rng = Derivative(operator), np.random.default_rng(0)
    for width in (1e-6, 0.1, 1.0, 8.0):
        lower = rng.normal(size=(200, *shapes[0])) * 3
        upper = lower + width * rng.random(lower.shape)
        slope = rng.normal(size=lower.shape)
        ends = *derivative.interval(lower, upper), *derivative.intercepts(lower, upper, slope)
        low, high, below, above = ends
        for share in np.linspace(0, 1, 23):
            x = lower + share * (upper - lower)
            with np.errstate(all="ignore"):
                y = derivative.f(x)
            known = np.isfinite(y)
            room = 1e-9 * (1 + abs(y))
            assert ((low - room <= y) & (y <= high + room))[known].all()
            assert ((below + slope * x - room <= y) & (y <= above + slope * x + room))[known].all()


@pytest.mark.parametrize(
    "operator", [o.values[0] for o in smooth() if np.isfinite(o.values[0].third)], ids=lambda o: type(o).__name__
)
def test_third_derivatives(operator):
    x = np.linspace(-15, 15, 300001)
    h = 1e-2
    second = (operator.derivative(x + h) - 2 * operator.derivative(x) + operator.derivative(x - h)) / h**2
    assert abs(second).max() <= operator.third * (1 + 1e-9) + 1e-9


def test_battery_of_derivatives():
    from ascertain.operators import Gelu, Sigmoid, Softplus

    for operator in (Derivative(Sigmoid()), Derivative(Gelu()), Derivative(Softplus())):
        check_operator(operator, ((2, 3),))


def test_bad_input():
    _, graph, _ = made("relu")
    with pytest.raises(ShapeError, match="one column for each"):
        jacobian(graph, np.ones((1, 5)))
    with pytest.raises(DataError, match="finite"):
        jacobian(graph, np.array([[1.0, np.nan]]))


def test_unknown_operators_are_named():
    class Odd(Operator):
        def infer(self, *shapes):
            return shapes[0]

    builder = Builder()
    x = builder.input((2,))
    with pytest.raises(UnsupportedError, match="Odd"):
        jacobian(builder.graph(x, builder(Odd(), x)), np.eye(2))

"""Relevance through products: conserved, and equal to gradient times input of the network whose weighing parts are frozen."""

import numpy as np
import pytest
import torch
from torch import nn

from ascertain import fixtures, load
from ascertain.errors import UnsupportedError
from ascertain.probes.relevance import AlphaBeta, Epsilon, Gamma, relevance


def data(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Block(nn.Module):
    """One transformer block with a pooled answer; ``frozen`` detaches what only weighs."""

    def __init__(self, gelu="none"):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.LayerNorm(6), nn.RMSNorm(6, eps=1e-5)
        self.query, self.key, self.value, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.up, self.gate, self.down, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.gelu, self.frozen = gelu, False
        self.double()

    def hold(self, x):
        return x.detach() if self.frozen else x

    def forward(self, x):
        c = x - x.mean(-1, keepdim=True)
        h = c * self.hold((c.square().mean(-1, keepdim=True) + self.first.eps).rsqrt()) if self.frozen else self.first(x)
        scores = self.query(h) @ self.key(h).transpose(-1, -2) / 6**0.5
        x = x + self.out(self.hold(scores.softmax(-1)) @ self.value(h))
        h = x * self.hold((x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()) if self.frozen else self.second(x)
        up = self.up(h)
        if self.frozen:
            wide = up * (nn.functional.gelu(up, approximate=self.gelu) / up).detach() * torch.sigmoid(self.gate(h)).detach()
        else:
            wide = nn.functional.gelu(up, approximate=self.gelu) * torch.sigmoid(self.gate(h))
        return self.head((x + self.down(wide)).mean(-2))


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_a_transformer_is_gradient_times_input_with_its_weighing_parts_frozen(gelu):
    net, x = Block(gelu).eval(), data(4, 5, 6)
    found = relevance(net, x, 1)
    np.testing.assert_allclose(found.output, net(x)[:, 1].detach(), rtol=1e-9)
    net.frozen = True
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    np.testing.assert_allclose(found.inputs, (gradient * x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [Epsilon(), Epsilon(0.1), Gamma(), AlphaBeta()], ids=repr)
@pytest.mark.parametrize("name", ["lstm_rows", "modular_transformer", "vit_small"])
def test_relevance_of_shipped_networks_is_conserved(name, rule):
    graph = load(fixtures.path(name))
    x = data(3, *graph.input_shape[1:])
    found = relevance(graph, x, rule=rule)
    sums = found.inputs.reshape(3, -1).sum(1) + sum(found.biases.values()) + found.lost
    np.testing.assert_allclose(sums, found.output, rtol=1e-9)
    assert np.isfinite(found.inputs).all() and found.inputs.any()
    if rule == Epsilon() or isinstance(rule, Gamma):
        assert abs(found.lost).max() < 1e-5 * abs(found.output).max(), "nothing but the stabiliser's share is lost"


class Product(nn.Module):
    """Two dense maps, or functions of them, times each other."""

    def __init__(self, left, right):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = left, right
        self.a, self.b = nn.Linear(3, 2, bias=False).double(), nn.Linear(3, 2, bias=False).double()

    def forward(self, x):
        return self.left(self.a(x)) * self.right(self.b(x))


def plain(x):
    return x


GATES = [torch.sigmoid, nn.functional.hardsigmoid, lambda x: torch.tanh(x) / 2 + 1, lambda x: x.softmax(-1)]
OTHERS = [plain, torch.tanh, torch.relu, torch.exp, torch.cos]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("side", [0, 1])
def test_what_a_gate_lets_through_takes_everything(gate, side):
    net, x = Product(*((gate, plain), (plain, gate))[side]), data(5, 3)
    passed, weighed = (net.b, gate(net.a(x))) if side == 0 else (net.a, gate(net.b(x)))
    by_hand = x * (weighed[:, :1] * passed.weight[0])
    np.testing.assert_allclose(relevance(net, x, 0).inputs, by_hand.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("other", OTHERS)
def test_factors_of_equal_rank_take_halves(other):
    net, x = Product(plain, other), data(5, 3)
    z = net(x)[:, :1].detach()
    shares = [x * m.weight[0] / m(x)[:, :1] * z / 2 for m in (net.a, net.b)]
    np.testing.assert_allclose(relevance(net, x, 0).inputs, (shares[0] + shares[1]).detach(), rtol=1e-5, atol=1e-6)


def test_a_softmax_that_weighs_nothing_has_no_rule():
    net = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)).double()
    with pytest.raises(UnsupportedError, match="Softmax"):
        relevance(net, data(2, 3))
    with pytest.raises(UnsupportedError, match="LogSoftmax"):
        relevance(nn.Sequential(nn.Linear(3, 3), nn.LogSoftmax(1)).double(), data(2, 3))

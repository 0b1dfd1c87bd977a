import json

import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, InputError, ModelError, UnsupportedError
from ascertain.graph import load
from ascertain.probes.relevance import AlphaBeta, Epsilon, Gamma, ZBox, relevance

RULES = [Epsilon(), Epsilon(0.1), Gamma(), Gamma(2.0), AlphaBeta(), AlphaBeta(1.0)]


def mlp(bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8, bias), nn.ReLU(), nn.Linear(8, 5, bias), nn.ReLU(), nn.Linear(5, 3, bias)).double()


def convnet():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 4),
    ).double()  # fmt: skip
    net(torch.randn(50, 2, 6, 6, dtype=torch.float64))
    return net.eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = (nn.Linear(6, 6).double() for _ in range(3))

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head(torch.relu(h + self.b(h)))


def data(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(rule, weight, bias, x, received):
    """One dense layer and one sample, contribution by contribution."""
    found, offset = np.zeros(len(x)), 0.0
    for j, r in enumerate(received):
        c = [x[i] * weight[j, i] for i in range(len(x))] + [bias[j]]
        if isinstance(rule, Epsilon):
            z = sum(c)
            shares = [v / (z + rule.epsilon * (1 if z >= 0 else -1)) for v in c]
        elif isinstance(rule, Gamma):
            z = sum(c)
            kept = [v + rule.gamma * v * ((v > 0) == (z > 0)) for v in c]
            shares = [v / (sum(kept) + rule.epsilon * np.sign(z)) for v in kept]
        elif isinstance(rule, AlphaBeta):
            up, down = sum(v for v in c if v > 0), sum(v for v in c if v < 0)
            shares = [(rule.alpha * v / up if v > 0 else (1 - rule.alpha) * v / down if v < 0 else 0.0) for v in c]
        else:
            w = weight[j]
            c = [x[i] * w[i] - rule.lower * max(w[i], 0) - rule.upper * min(w[i], 0) for i in range(len(x))] + [0.0]
            shares = [v / sum(c) for v in c]
        found += r * np.array(shares[:-1])
        offset += r * shares[-1]
    return found, offset


@pytest.mark.parametrize("rule", [*RULES, ZBox(-4.0, 4.0)], ids=repr)
def test_two_layers_by_hand(rule):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = data(6, 5).clamp(-4, 4)
    found = relevance(net, x, 1, rule=rule if not isinstance(rule, ZBox) else None, first=rule)
    later = Epsilon() if isinstance(rule, ZBox) else rule
    parts = [p.detach().numpy() for p in net.parameters()]
    for k, sample in enumerate(x.numpy()):
        hidden = np.maximum(parts[0] @ sample + parts[1], 0)
        start = np.eye(3)[1] * (parts[2] @ hidden + parts[3])[1]
        middle, second = by_hand(later, parts[2], parts[3], hidden, start)
        first, offset = by_hand(rule, parts[0], parts[1], sample, middle)
        np.testing.assert_allclose(found.inputs[k], first, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(sum(b[k] for b in found.biases.values()), second + offset, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize(
    ("net", "shape"), [(mlp(), (6,)), (convnet(), (2, 6, 6)), (Residual(), (6,))], ids=["mlp", "conv", "residual"]
)
def test_relevance_is_conserved(net, shape, rule):
    x = data(7, *shape)
    found = relevance(net, x, rule=rule)
    sums = found.inputs.reshape(7, -1).sum(1) + sum(found.biases.values()) + found.lost
    np.testing.assert_allclose(sums, found.output, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.output, net(x).detach().max(1)[0])
    if isinstance(rule, Epsilon) and rule.epsilon < 1e-6:
        assert abs(found.lost).max() < 1e-6 * abs(found.output).max() + 1e-7


@pytest.mark.parametrize("rule", [Epsilon(), Gamma()], ids=repr)
def test_without_biases_the_inputs_get_everything(rule):
    found = relevance(mlp(False), data(9, 6), 0, rule=rule)
    np.testing.assert_allclose(found.inputs.sum(1), found.output, rtol=1e-6)
    assert not found.biases and not found.bias_share.any()


def test_epsilon_is_gradient_times_input_through_rectifiers_and_maxima():
    for net, shape in ((mlp(), (6,)), (convnet(), (2, 6, 6)), (Residual(), (6,))):
        x = data(5, *shape).requires_grad_()
        (gradient,) = torch.autograd.grad(net(x)[:, 2].sum(), x)
        np.testing.assert_allclose(relevance(net, x, 2).inputs, (gradient * x).detach(), rtol=1e-5, atol=1e-6)


def test_share_of_biases_on_digits_equals_the_reference(shared):
    folder = shared / "reference" / "probes"
    reference = json.loads((folder / "06_attrib.json").read_text())
    x = torch.tensor(np.load(folder / "digits_split.npz")["Xte"][:100], dtype=torch.float64)
    relu, tail = nn.ReLU(), [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)]
    nets = {
        "mlp": ("mlp_relu_s0", [nn.Linear(64, 32), relu, nn.Linear(32, 16), relu, nn.Linear(16, 10)]),
        "cnn": (
            "cnn_s0",
            [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), relu, nn.Conv2d(8, 16, 3, padding=1), relu, *tail],
        ),
    }
    for name, (file, parts) in nets.items():
        net = nn.Sequential(*parts)
        net.load_state_dict(torch.load(folder / f"{file}.pt"))
        found = relevance(net.double(), x)
        absorbed = abs(found.output - found.inputs.sum(1)).mean() / abs(found.output).mean()
        assert absorbed == pytest.approx(reference[name]["own_eps"]["completeness_f"], rel=1e-6)


def test_a_loaded_graph_float32_and_named_rules():
    net = mlp().float().train()
    graph = load(net, input_shape=(1, 6))
    x = data(4, 6).float()
    np.testing.assert_allclose(relevance(graph, x).inputs, relevance(net, x).inputs, rtol=1e-6)
    assert net.training and net[0].weight.grad is None
    named = next(node.name for node in graph.nodes if node.operator.arrays())
    changed = relevance(graph, x, rules={named: AlphaBeta(1.0)})
    assert abs(changed.inputs - relevance(graph, x, first=AlphaBeta(1.0)).inputs).max() < 1e-12


def test_bad_input():
    net = mlp()
    with pytest.raises(DataError, match="NaN"):
        relevance(net, torch.full((1, 6), float("nan")))
    with pytest.raises(InputError, match="no position"):
        relevance(net, data(2, 6), 3)
    with pytest.raises(ModelError, match="no layer 'linear_9'"):
        relevance(net, data(2, 6), rules={"linear_9": Epsilon()})
    with pytest.raises(DataError, match="widen"):
        relevance(net, data(2, 6), first=ZBox(0, 1))
    with pytest.raises(UnsupportedError, match="Softmax"):
        relevance(nn.Sequential(net, nn.Softmax(1)), data(2, 6))

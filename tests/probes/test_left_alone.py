"""Probes leave the user's module exactly as it was, and name what is wrong with it."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from ascertain import load
from ascertain.errors import DataError, ModelError, ShapeError
from ascertain.probes import GraphModule
from ascertain.probes.activations import activations
from ascertain.probes.attention import attention_weights
from ascertain.probes.degeneracy import degeneracy
from ascertain.probes.directions import accuracy_kept
from ascertain.probes.feature_merging import merge_features
from ascertain.probes.interaction import interaction_basis, interactions
from ascertain.probes.learning_coefficient import Sampler, learning_coefficient
from ascertain.probes.linear_maps import linear_map
from ascertain.probes.relevance import relevance
from ascertain.probes.stitching import stitch
from ascertain.probes.transformers import residual_use
from ascertain.probes.weights import weight_spectra

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 2


def learn(net, batch):
    sampler = Sampler(2, 10, 100, batch_size=batch)
    return learning_coefficient(net, nn.functional.mse_loss, X, Y, sampler=sampler).trace


PROBES = {
    "degeneracy": lambda net: degeneracy(net, X).singular_values,
    "interaction": lambda net: interactions(net, interaction_basis(net, ["input", "2", "4"], X), X, points=2).edges[0],
    "learning coefficient": lambda net: learn(net, None),
    "learning coefficient in batches": lambda net: learn(net, 8),
    "linear map": lambda net: linear_map(net, X[0], layer="2").matrix,
    "relevance": lambda net: relevance(net, X).inputs,
    "feature merging": lambda net: merge_features(net, X, tolerance=0.2).bound,
    "activations": lambda net: activations(net, None, X)["4"],
    "accuracy kept": lambda net: accuracy_kept(net, "2", X, LABELS, [1, 3]).accuracy,
    "residual use": lambda net: residual_use(net, ["2"], X).later,
    "stitching": lambda net: np.array(stitch((net, "1"), (net, "2"), (X, LABELS), (X, LABELS), epochs=1).accuracy),
    "weight spectra": lambda net: weight_spectra(net)[0].singular_values,
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_mode_weights_gradients_statistics_hooks_and_random_state(probe):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 2))
    net(X).sum().backward()
    net.train()
    net[4].eval()
    net[0].weight.requires_grad_(False)
    seen = []
    net[2].register_forward_hook(lambda *_: seen.append(1))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = probe(net)
    assert [part.training for part in net] == [True] * 4 + [False]
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, net.parameters(), strict=True))
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert [len(part._forward_hooks) for part in net] == [0, 0, 1, 0, 0]
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    with torch.no_grad():
        again = probe(deepcopy(net))
    assert np.array_equal(first, again) and torch.is_grad_enabled()


class Stateful(nn.Module):
    """Puts new tensors in the place of its buffers, and draws from every source of random numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.linear(x) + 0 * random.random() * np.random.rand() * torch.rand(())


def test_buffers_that_are_replaced_come_back():
    net = Stateful()
    residual = nn.Sequential(nn.Linear(6, 6), net)
    attending = nn.Sequential(nn.Unflatten(1, (3, 2)), nn.TransformerEncoderLayer(2, 2, 4, batch_first=True), nn.Flatten(), net)
    before, states = net.calls, (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    activations(net, ["linear"], X)
    residual_use(residual, ["0"], X)
    assert len(attention_weights(attending, X)) == 1
    assert net.calls is before and float(before) == 0
    assert states[0] == random.getstate() and (states[1] == np.random.get_state()[1]).all()
    assert torch.equal(states[2], torch.get_rng_state())


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize("place", [0, 4])
def test_modules_on_two_devices_are_refused(probe, place):
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 2))
    net[place].to("meta")
    with pytest.raises(ModelError, match=r"not on one device .*on meta.*; move it"):
        probe(net)


class Logarithm(nn.Module):
    """Answers NaN between two layers that are sound."""

    def __init__(self):
        super().__init__()
        self.first, self.between, self.last = nn.Linear(6, 5), nn.Identity(), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.between(torch.log(self.first(x))))


@pytest.mark.parametrize(
    ("probe", "named"),
    [
        (lambda net: activations(net, ["first", "between", "last"], X), "layer 'between'"),
        (lambda net: degeneracy(net, X), "layer 'between'"),
        (lambda net: linear_map(net, X[0]), "layer 'between'"),
        (lambda net: learn(net, None), "layer 'between'"),
        (lambda net: relevance(net, X), "node 'log'"),
        (lambda net: interaction_basis(net, ["first", "between"], X), "layer 'between'"),
        (lambda net: accuracy_kept(net, "between", X, LABELS, [1]), "layer 'between'"),
        (lambda net: stitch((net, "between"), (net, "last"), (X, LABELS), (X, LABELS)), "layer 'between'"),
    ],
    ids=["activations", "degeneracy", "linear map", "learning coefficient", "relevance", "interaction", "kept", "stitching"],
)
def test_the_layer_that_answers_nan_is_named(probe, named):
    torch.manual_seed(0)
    with pytest.raises(DataError, match=named):
        probe(Logarithm())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.last = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.gru(x.unflatten(1, (3, 2)))[0][:, -1])


def test_layers_that_return_several_tensors_are_named():
    net = Recurrent()
    for probe in (
        lambda: accuracy_kept(net, "gru", X, LABELS, [1]),
        lambda: stitch((net, "gru"), (net, "gru"), (X, LABELS), (X, LABELS)),
        lambda: interaction_basis(net, ["input", "gru"], X),
    ):
        with pytest.raises(ShapeError, match="'gru' returns tuple"):
            probe()


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_lazy_modules_stay_lazy(probe):
    net = nn.Sequential(nn.LazyLinear(5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 2))
    with pytest.raises(ModelError, match=r"lazy weights .*0\.weight"):
        probe(net)
    assert isinstance(net[0], nn.LazyLinear) and nn.parameter.is_lazy(net[0].weight)


def test_loaded_graphs_are_measured_as_modules():
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = load(net, input_shape=(1, 6))
    for probe in (
        degeneracy,
        lambda g, x: linear_map(g, x[0]),
        lambda g, x: residual_use(g, ["1"], x),
        lambda g, _: learn(g, None),
    ):
        with pytest.raises(ModelError, match=r"probes\.GraphModule"):
            probe(graph, X)
    flat = X[:, None]
    assert degeneracy(GraphModule(graph), flat).kinds == degeneracy(net, X).kinds
    np.testing.assert_allclose(linear_map(GraphModule(graph), flat[0]).rows[:, 0], linear_map(net, X[0]).rows, rtol=1e-6)

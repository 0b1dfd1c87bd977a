"""Probes that differentiate or sample leave the user's module exactly as it was."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from ascertain.probes.degeneracy import degeneracy
from ascertain.probes.feature_merging import merge_features
from ascertain.probes.interaction import interaction_basis, interactions
from ascertain.probes.learning_coefficient import Sampler, learning_coefficient
from ascertain.probes.linear_maps import linear_map
from ascertain.probes.relevance import relevance

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))


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
    random, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = probe(net)
    assert [part.training for part in net] == [True] * 4 + [False]
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, net.parameters(), strict=True))
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert [len(part._forward_hooks) for part in net] == [0, 0, 1, 0, 0]
    assert torch.equal(random, torch.get_rng_state()) and (other == np.random.get_state()[1]).all()
    with torch.no_grad():
        again = probe(deepcopy(net))
    assert np.array_equal(first, again) and torch.is_grad_enabled()

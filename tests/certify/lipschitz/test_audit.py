"""Audits of claimed constants: true ones are proved, false ones refuted by a pair that replays."""

import numpy as np
import pytest
import torch
from torch import nn

from ascertain import load
from ascertain.certify.lipschitz import audit_lipschitz
from ascertain.errors import DataError, ShapeError


def orthogonal(seed, scale=1.0, width=8):
    """A network of orthogonal layers and ReLU: 1-Lipschitz in l2 but for the scale."""
    torch.manual_seed(seed)
    layers = []
    for _ in range(3):
        dense = nn.Linear(width, width)
        nn.init.orthogonal_(dense.weight)
        layers += [dense, nn.ReLU()]
    layers[-2].weight.data *= scale
    return nn.Sequential(*layers[:-1]).double()


def replayed(module, pair, norm):
    with torch.no_grad():
        a, b = (torch.tensor(p).unsqueeze(0) for p in pair)
        return float(torch.linalg.vector_norm(module(a) - module(b), norm) / torch.linalg.vector_norm(a - b, norm))


@pytest.mark.parametrize("seed", range(4))
def test_true_claims_hold_and_false_ones_are_refuted(seed):
    flat, steep = orthogonal(seed), orthogonal(seed, 1.3)
    found = audit_lipschitz(load(flat, input_shape=(1, 8)), 1.0001)
    assert found.status == "holds" and found.pair is None and found.upper.value <= 1.0001
    found = audit_lipschitz(load(steep, input_shape=(1, 8)), 0.9)
    assert found.status == "violated" and 0.9 < found.slope <= found.upper.value
    assert replayed(steep, found.pair, 2) == pytest.approx(found.slope, rel=1e-9)


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_linear_maps_are_judged_to_the_last_digits(norm):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3))
    dense = nn.Linear(3, 4).double()
    dense.weight.data = torch.tensor(weight)
    true = np.linalg.norm(weight, norm)
    network = load(dense, input_shape=(1, 3))
    assert audit_lipschitz(network, true * (1 + 1e-6), norm).status == "holds"
    found = audit_lipschitz(network, true * 0.99, norm)
    assert found.status == "violated" and found.slope <= true
    assert replayed(dense, found.pair, norm) >= found.slope


def test_between_the_two_nothing_is_said():
    network = load(orthogonal(1, 1.3), input_shape=(1, 8))
    found = audit_lipschitz(network, 0.9)
    middle = audit_lipschitz(network, (found.slope + found.upper.value) / 2)
    assert middle.status == "unknown" or found.slope == pytest.approx(found.upper.value)


def test_functions_without_a_constant_can_still_be_refuted():
    class Squared(nn.Module):
        def forward(self, x):
            return x * x

    found = audit_lipschitz(load(Squared(), input_shape=(1, 2)), 1.0)
    assert found.upper is None and found.status == "violated" and "none that holds everywhere" in str(found)


def test_bad_claims():
    network = load(orthogonal(0), input_shape=(1, 8))
    for claim in (-1.0, np.nan, np.inf):
        with pytest.raises(DataError):
            audit_lipschitz(network, claim)
    with pytest.raises(ShapeError):
        audit_lipschitz(network, inputs=np.zeros((2, 3)))

"""Stitching: a permuted twin costs nothing, a front that knows nothing costs everything."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from ascertain.errors import DataError, ModelError, ShapeError
from ascertain.probes.stitching import stitch


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x / 16 - 0.5, dtype=torch.float32)
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def convolutional(seed, data):
    torch.manual_seed(seed)
    layers = (nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    net = nn.Sequential(*layers)
    x, y = data[0], torch.tensor(data[1])
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def test_a_permuted_twin_has_no_penalty(digits):
    train, test = digits
    net = convolutional(0, train)
    twin = copy.deepcopy(net)
    order = torch.randperm(8)
    for name in ("weight", "bias"):
        getattr(twin[1], name).data = getattr(net[1], name).data[order]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(twin[2], name).data = getattr(net[2], name).data[order]
    twin[5].weight.data = net[5].weight.data.reshape(10, 8, 36)[:, order].reshape(10, -1)
    net.train()
    before = copy.deepcopy(net.state_dict())
    found = stitch((net, "3"), (twin, "3"), train, test, epochs=1, rate=0.0)
    assert found.least_squares == found.front == found.back == found.accuracy and found.penalty == 0.0
    assert found.low < found.accuracy < found.high and found.samples == len(test[1])
    assert str(found).startswith(f"stitched accuracy {found.accuracy:.4f}") and "evidence ESTIMATED" in str(found)
    assert net.training and not twin.training and all(p.grad is None for p in twin.parameters())
    assert not any(part._forward_hooks for part in (*net.modules(), *twin.modules()))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()


def test_training_helps_and_other_sizes_are_resized(digits):
    train, test = digits
    first, second = convolutional(0, train), convolutional(1, train)
    found = stitch((first, "3"), (second, "3"), train, test, epochs=3)
    assert found.accuracy >= found.least_squares - 0.03 and found.penalty < 0.15
    pooled = nn.Sequential(*first[:4], nn.AvgPool2d(2))
    small = nn.Sequential(pooled, nn.Flatten(), nn.Linear(72, 10))
    assert stitch((small, "0"), (second, "3"), train, test, epochs=0).least_squares > 0.3
    deaf = nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    nn.init.zeros_(deaf[0].weight)
    flat = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    assert stitch((deaf, "1"), (flat, "1"), train, test, epochs=2).accuracy < 0.2


def test_bad_input_is_named(digits):
    train, test = digits
    net = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    maps = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))
    for call, error in (
        (lambda: stitch((net, "first"), (net, "1"), train, test), ModelError),
        (lambda: stitch((net, "1"), (maps, "1"), train, test), ShapeError),
        (lambda: stitch((net, "1"), (net, "1"), (train[0], train[1][:5]), test), DataError),
        (lambda: stitch((net, "1"), (net, "1"), train, (test[0], np.linspace(0, 1, len(test[1])))), DataError),
        (lambda: stitch((net, "1"), (nn.Sequential(*net, nn.Unflatten(1, (2, 5))), "1"), train, test), ModelError),
    ):
        with pytest.raises(error):
            call()
    broken = copy.deepcopy(net)
    nn.init.constant_(broken[0].weight, np.nan)
    with pytest.raises(DataError, match="'1'"):
        stitch((broken, "1"), (net, "1"), train, test)

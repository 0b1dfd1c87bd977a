"""Accuracy kept by directions and directions of classes, on planted networks."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, ModelError, ShapeError
from ascertain.probes.activations import activations
from ascertain.probes.directions import accuracy_kept, class_directions


@pytest.fixture(scope="module")
def planted():
    """Three classes in two of ten directions of the first layer, noise of larger variance in one other."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    corners = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    x = np.c_[corners[labels] * 4 + 0.2 * rng.normal(size=(300, 2)), 9 * rng.normal(size=(300, 1))].astype(np.float32)
    net = nn.Sequential(nn.Linear(3, 10, bias=False), nn.Identity(), nn.Linear(10, 3, bias=False))
    mix = np.linalg.qr(rng.normal(size=(10, 3)))[0].astype(np.float32)
    net[0].weight.data = torch.tensor(mix)
    net[2].weight.data = torch.tensor(np.c_[corners, np.zeros(3)].astype(np.float32) @ mix.T)
    return net, x, labels


def test_accuracy_of_planted_directions(planted):
    net, x, labels = planted
    before = copy.deepcopy(net.state_dict())
    score = np.array(labels)
    other = np.eye(3)[score] + 0.01 * np.random.default_rng(1).normal(size=(300, 3))  # a layer that knows the classes only
    found = accuracy_kept(net, "1", x, labels, [1, 2, 3, 10], against=other)
    assert found.kinds == ("svcca", "principal", "random", "largest neurons") and found.full == 1.0
    table = dict(zip(found.kinds, found.accuracy, strict=True))
    assert table["principal"][0] < 0.5 and table["principal"][2] == 1.0  # the largest direction is noise
    assert table["svcca"][1] > 0.98 > table["random"][1]
    for accuracies in table.values():
        assert accuracies[-1] == 1.0 or accuracies is table["svcca"]
    assert (found.low <= found.accuracy).all() and (found.accuracy <= found.high).all()
    assert not net[1]._forward_hooks and all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_channels_of_maps_are_projected():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.randn(30, 1, 6, 6)
    labels = net(x).argmax(1).numpy()
    found = accuracy_kept(net, "0", x, labels, [1, 4])
    assert found.full == 1.0 and (found.accuracy[:, 1] == 1.0).all() and (found.accuracy[:, 0] < 1.0).any()


def test_bad_input_is_named(planted):
    net, x, labels = planted
    for call, error in (
        (lambda: accuracy_kept(net, "one", x, labels, [1]), ModelError),
        (lambda: accuracy_kept(net, "1", x, labels[:9], [1]), ShapeError),
        (lambda: accuracy_kept(net, "1", x, labels, [11]), DataError),
        (lambda: accuracy_kept(net, "1", x, labels, [1], against=np.ones((9, 2)) + np.arange(9)[:, None]), ShapeError),
        (lambda: class_directions(activations(net, ["1"], x), labels[:5]), ShapeError),
        (lambda: class_directions(activations(net, ["1"], x), np.c_[labels, np.ones(300)]), DataError),
    ):
        with pytest.raises(error):
            call()


def test_directions_of_classes(planted):
    net, x, labels = planted
    captured = activations(net, ["1", "2"], x)
    found = class_directions(captured, labels, threshold=1.0)
    assert found.layers == ("1", "2") and found.classes == ("0", "1", "2") and (found.correlation > 0.95).all()
    rows = captured["1"] - captured["1"].mean(0)
    for c in range(3):
        y = (labels == c) - np.mean(labels == c)
        fit = np.linalg.lstsq(rows, y, rcond=1e-5)[0]
        r = np.corrcoef(rows @ fit, y)[0, 1]
        assert found.correlation[0, c] == pytest.approx(r, rel=1e-5)
        direction = found.directions[0][c]
        assert abs(direction @ fit) / np.linalg.norm(fit) == pytest.approx(1.0, rel=1e-4)
    shuffled = class_directions(captured, np.random.default_rng(0).permutation(labels), threshold=1.0)
    assert (shuffled.correlation < 3 * shuffled.null[:, None]).all()
    logits = class_directions(captured, torch.tensor(np.array(captured["2"])), threshold=1.0)
    np.testing.assert_allclose(logits.correlation, 1.0, atol=1e-5)

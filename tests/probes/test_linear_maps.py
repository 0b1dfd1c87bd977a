import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, InputError, ModelError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.linear_maps import linear_map


def rectifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.LeakyReLU(0.2), nn.Linear(6, 3)).double()


def frozen(net, point):
    """Matrix and offset by pushing both through the layers with the switches of the point."""
    matrix, offset, value = np.eye(len(point)), np.zeros(len(point)), np.asarray(point)
    for layer in net:
        if isinstance(layer, nn.Linear):
            w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            matrix, offset, value = w @ matrix, w @ offset + b, w @ value + b
        else:
            slope = np.where(value > 0, 1.0, getattr(layer, "negative_slope", 0.0))
            matrix, offset, value = slope[:, None] * matrix, slope * offset, slope * value
    return matrix, offset


@pytest.mark.parametrize("seed", range(5))
def test_map_of_a_rectifier_network_is_that_of_its_frozen_switches(seed):
    net, x = rectifier(seed), np.random.default_rng(seed).normal(size=4)
    found = linear_map(net, x)
    matrix, offset = frozen(net, x)
    np.testing.assert_allclose(found.matrix, matrix, rtol=1e-12)
    np.testing.assert_allclose(found.offset, offset, rtol=1e-10, atol=1e-12)
    assert found.exact and found.evidence is Evidence.BOUNDED
    near = x + 1e-7 * np.random.default_rng(1).normal(size=(5, 4))
    np.testing.assert_allclose(found(near), net(torch.tensor(near)).detach(), rtol=1e-12)
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(matrix)[1], atol=1e-14)


def test_smooth_networks_have_tangents():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    found = linear_map(net, torch.randn(3))
    assert not found.exact and 1e-9 < found.deviation < 1e-2
    np.testing.assert_allclose(found(found.point[None])[0], found.output, rtol=1e-12)


def test_rows_and_columns_are_images_and_convolutions_are_exact():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(3, 1, 4)).train()
    image = torch.randn(1, 8, 8)
    found = linear_map(net, image)
    assert found.exact and found.rows.shape == (36, 1, 8, 8) and found.columns.shape == (64, 1, 6, 6)
    moved = image.double().numpy().copy()
    moved[0, 2, 3] += 1.0
    np.testing.assert_allclose(found(moved[None])[0] - found.output, found.columns[2 * 8 + 3], atol=1e-12)
    hidden = linear_map(net, image, layer="2")
    assert hidden.rows.shape == (3 * 36, 1, 8, 8) and net.training and not net[2]._forward_hooks
    assert int(net[1].num_batches_tracked) == 0 and net[0].weight.grad is None


def test_dead_and_constant_networks():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).double()
    with torch.no_grad():
        net[0].bias.fill_(-100)
    found = linear_map(net, [0.0, 0.0])
    assert found.exact and not found.matrix.any() and not found.offset.any()


def test_bad_input():
    net = rectifier()
    with pytest.raises(InputError, match="whole numbers"):
        linear_map(net, [1, 2, 3, 4])
    with pytest.raises(ModelError, match="no layer"):
        linear_map(net, [1.0, 2, 3, 4], layer="9")
    with pytest.raises(DataError, match="NaN"):
        linear_map(net, [float("nan")] * 4)
    with pytest.raises(ShapeError, match="reshape"):
        linear_map(net, [1.0, 2, 3, 4])(np.ones((2, 3)))

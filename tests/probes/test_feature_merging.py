import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, InputError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.probes.feature_merging import merge_features


def mlp(act=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), act(), nn.Linear(8, 6), act(), nn.Linear(6, 3)).double()


def conv():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.LeakyReLU(0.1),
        nn.AvgPool2d(2, 1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, 3),
    ).double()  # fmt: skip
    net(torch.randn(64, 1, 8, 8, dtype=torch.float64))
    return net.eval()


def copy_unit(layer, source, target, scale=1.0, noise=0.0):
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        layer.weight[target] = scale * layer.weight[source] + noise * torch.randn(layer.weight[source].shape, generator=g).double()
        layer.bias[target] = scale * layer.bias[source]


def data(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(lower, upper, n=4000):
    g = torch.Generator().manual_seed(3)
    u = torch.rand(n, *lower.shape, generator=g, dtype=torch.float64)
    u[: n // 2] = u[: n // 2].round()  # corners
    return lower + u * (upper - lower)


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-3])
def test_exact_copies_merge_whatever_their_scale_and_readers(scale):
    net, x = mlp(), data(50, 5)
    copy_unit(net[0], 0, 3, scale)
    copy_unit(net[0], 0, 5)
    copy_unit(net[2], 1, 2, scale)
    found = merge_features(net, x)
    assert [len(layer.kept) for layer in found.layers] == [6, 5]
    assert found.bound.max() < 1e-12 and found.measured.max() < 1e-12 and found.parameters[1] < found.parameters[0]
    assert found.evidence is Evidence.BOUNDED
    np.testing.assert_allclose(found.module(x).detach(), net(x).detach(), atol=1e-12)


def test_all_units_equal_and_dead_layers():
    net = mlp()
    for target in range(1, 8):
        copy_unit(net[0], 0, target)
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.fill_(-1)
    found = merge_features(net, data(50, 5))
    assert [len(layer.kept) for layer in found.layers] == [1, 1]
    assert found.bound.max() < 1e-12 and found.module[0].weight.shape == (1, 5)


def test_a_generic_network_loses_nothing():
    net = mlp()
    found = merge_features(net, data(200, 5))
    assert [len(layer.kept) for layer in found.layers] == [8, 6] and found.bound.max() < 1e-12


@pytest.mark.parametrize("act", [nn.ReLU, lambda: nn.LeakyReLU(0.3)])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_on_samples_and_corners(act, seed):
    net, x = mlp(act, seed), data(60, 5)
    copy_unit(net[0], 0, 3, 2.0, 0.05)
    copy_unit(net[2], 1, 2, 0.5, 0.02)
    for tolerance in (0.05, 0.4):
        found = merge_features(net, x, tolerance=tolerance)
        box = x.amin(0), x.amax(0)
        off = (net(samples(*box)) - found.module(samples(*box))).abs().amax(0).detach().numpy()
        assert (off <= found.bound[0] + 1e-12).all() and (found.measured <= found.bound[0] + 1e-12).all()
        assert all(layer.error <= tolerance + 1e-6 for layer in found.layers)
        assert sum(len(layer.kept) for layer in found.layers) < 14


def test_the_bound_shrinks_with_the_boxes_and_is_tight_at_a_point():
    net, x = mlp(), data(60, 5)
    copy_unit(net[0], 0, 3, 2.0, 0.05)
    points = x[:5]
    wide = merge_features(net, x, tolerance=0.3, lower=points - 0.3, upper=points + 0.3)
    narrow = merge_features(net, x, tolerance=0.3, lower=points, upper=points)
    assert (narrow.bound <= wide.bound + 1e-12).all() and wide.bound.shape == (5, 3)
    truth = (net(points) - narrow.module(points)).abs().detach()
    np.testing.assert_allclose(narrow.bound, truth, atol=1e-12)
    for k in range(5):
        y = samples(points[k] - 0.3, points[k] + 0.3)
        assert ((net(y) - wide.module(y)).abs().amax(0).detach().numpy() <= wide.bound[k] + 1e-12).all()


def test_convolutions_with_batch_norm_and_pools():
    net, x = conv(), data(30, 1, 8, 8)
    copy_unit(net[0], 0, 2, 2.0)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(net[1], name)[2] = getattr(net[1], name)[0]
        net[1].running_mean[2] = 2 * net[1].running_mean[0]
    copy_unit(net[4], 1, 3, 0.5, 0.01)
    exact = merge_features(net, x)
    assert exact.bound.max() < 1e-9 and torch.allclose(exact.module(x), net(x))
    net.train()
    found = merge_features(net, x, tolerance=0.1, lower=x - 0.1, upper=x + 0.1)
    assert net.training and not found.module.training
    net.eval()
    for k in range(3):
        y = samples(x[k] - 0.1, x[k] + 0.1, 300)
        assert ((net(y) - found.module(y)).abs().amax(0).detach().numpy() <= found.bound[k] + 1e-9).all()
    assert len(found.layers[1].kept) < 5 and found.module[4].weight.shape[0] == len(found.layers[1].kept)


def test_float32_modules_count_their_own_rounding():
    net = mlp().float()
    copy_unit(net[0], 0, 3)
    found = merge_features(net, data(50, 5))
    assert found.module[0].weight.dtype == torch.float32 and len(found.layers[0].kept) == 7
    assert 0 < found.bound.max() < 1e-4 and (found.measured <= found.bound[0] + 1e-15).all()


def test_the_model_is_left_alone():
    net = mlp()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    merge_features(net, data(50, 5), tolerance=0.5)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items()) and net.training and not net[0]._forward_hooks


def test_shared_rectifiers_nested_parts_and_flattened_images():
    torch.manual_seed(3)
    relu = nn.ReLU()
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 6), relu), nn.Sequential(nn.Linear(6, 5), relu, nn.Linear(5, 2)))
    net.double()
    with torch.no_grad():
        net[2][0].bias += 2  # no unit is dead on the data: those merge too, and may wake elsewhere in the box
    copy_unit(net[1][0], 0, 1, 2.0)
    copy_unit(net[2][0], 0, 1)
    x = data(40, 1, 2, 2)
    found = merge_features(net, x)
    assert [layer.name for layer in found.layers] == ["1.0", "2.0"] and found.bound.max() < 1e-12
    np.testing.assert_allclose(found.module(x).detach(), net(x).detach(), atol=1e-12)


def test_images_that_arrive_flat():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    copy_unit(net[1], 0, 2, 0.5)
    found = merge_features(net, data(30, 16))
    assert found.bound.max() < 1e-12 and len(found.layers[0].kept) == 2
    with pytest.raises(ShapeError, match="takes 5 features"):
        merge_features(mlp(), data(30, 4, 5))


def test_bad_input():
    net, x = mlp(), data(50, 5)
    with pytest.raises(UnsupportedError, match=r"Tanh \(1\), Tanh \(3\)"):
        merge_features(mlp(nn.Tanh), x)
    with pytest.raises(UnsupportedError, match="LSTM"):
        merge_features(nn.LSTM(5, 2), x)
    with pytest.raises(DataError, match="3 samples"):
        merge_features(net, x[:3])
    with pytest.raises(InputError, match="only one side"):
        merge_features(net, x, lower=x)
    with pytest.raises(DataError, match="exchange"):
        merge_features(net, x, lower=x + 1, upper=x)
    with pytest.raises(DataError, match="NaN"):
        merge_features(net, x * float("nan"))
    net.register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(UnsupportedError, match="plain chain"):
        merge_features(net, x)

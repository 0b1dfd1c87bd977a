"""Spectra of weights against dense matrices of the maps they define."""

import numpy as np
import pytest
import torch
from torch import nn

from ascertain import load
from ascertain.errors import DataError, ModelError
from ascertain.probes.weights import weight_spectra


def test_dense_weights():
    net = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 7))
    first, second = weight_spectra(net)
    for found, layer in ((first, net[0]), (second, net[2])):
        s = np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False)
        np.testing.assert_allclose(found.singular_values, s, rtol=1e-12)
        assert found.condition == pytest.approx(s[0] / s[-1]) and found.norm == pytest.approx(s[0])
        assert found.stable_rank == pytest.approx((s**2).sum() / s[0] ** 2)
    assert (first.name, second.name) == ("0.weight", "2.weight") and "condition" in str(first)
    graph = load(net, input_shape=(1, 5))
    for mine, theirs in zip(weight_spectra(graph), (first, second), strict=True):
        np.testing.assert_allclose(mine.singular_values, theirs.singular_values, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 5)])
def test_convolutions_are_those_of_their_operator(groups, kernel):
    layer = nn.Conv2d(4, 6, kernel, groups=groups, padding="same", padding_mode="circular", bias=False).double()
    units = torch.eye(4 * 30, dtype=torch.float64).reshape(120, 4, 6, 5)
    dense = np.linalg.svd(layer(units).reshape(120, -1).detach().numpy(), compute_uv=False)
    (found,) = weight_spectra(layer, sizes={"weight": (6, 5)})
    np.testing.assert_allclose(found.singular_values, dense[: len(found.singular_values)], atol=1e-12)
    assert found.operator and np.isnan(found.edge)
    (plain,) = weight_spectra(layer)
    assert not plain.operator and plain.shape == (6, 4 // groups, *kernel)
    blocks = np.split(layer.weight.detach().numpy().reshape(6, -1), groups)
    wanted = np.sort(np.concatenate([np.linalg.svd(b, compute_uv=False) for b in blocks]))[::-1]
    np.testing.assert_allclose(plain.singular_values, wanted)


def test_random_weights_have_no_outliers_and_planted_ones_do():
    rng = np.random.default_rng(0)
    layer = nn.Linear(300, 200)
    noise = rng.normal(size=(200, 300))
    for planted in (0, 1, 3):
        u, v = np.linalg.qr(rng.normal(size=(200, 3)))[0], np.linalg.qr(rng.normal(size=(300, 3)))[0]
        layer.weight.data = torch.tensor(noise + 60 * u[:, :planted] @ v[:, :planted].T)
        (found,) = weight_spectra(layer)
        assert found.outliers == planted
    tops = [np.linalg.norm(rng.normal(size=(40, 60)), 2) for _ in range(200)]
    layer.weight.data = torch.tensor(rng.normal(size=(40, 60)))
    edge = weight_spectra(layer)[0].edge / layer.weight.std().item()
    assert np.mean(np.array(tops) < edge) == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_scale_changes_the_norm_only(scale):
    layer = nn.Linear(6, 4).double()
    (before,) = weight_spectra(layer)
    layer.weight.data *= scale
    (after,) = weight_spectra(layer)
    assert after.norm == pytest.approx(before.norm * scale) and after.condition == pytest.approx(before.condition)
    assert after.stable_rank == pytest.approx(before.stable_rank) and after.outliers == before.outliers


def test_special_weights_and_bad_input():
    net = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose1d(2, 3, 3), nn.LSTM(3, 4), nn.BatchNorm1d(3))
    assert [s.name for s in weight_spectra(net)] == ["0.weight", "1.weight", "2.weight_ih_l0", "2.weight_hh_l0"]
    assert [s.name for s in weight_spectra(net, ["2", "1.weight"])] == ["1.weight", "2.weight_ih_l0", "2.weight_hh_l0"]
    nn.init.zeros_(net[0].weight)
    (zero,) = weight_spectra(net, ["0"])
    assert zero.stable_rank == 0 and zero.condition == float("inf") and zero.outliers == 0
    net[0].weight.data[0, 0] = 1.0
    assert weight_spectra(net, ["0"])[0].condition == float("inf")
    nn.init.constant_(net[0].weight, np.nan)
    with pytest.raises(DataError, match=r"0\.weight"):
        weight_spectra(net)
    with pytest.raises(ModelError, match="'2'"):
        weight_spectra(net, ["2x"])
    with pytest.raises(ModelError, match="no weights"):
        weight_spectra(nn.ReLU())
    with pytest.raises(ModelError, match="int"):
        weight_spectra(3)
    layer = nn.Conv2d(2, 2, 3)
    for size in ((2, 2), (8,)):
        with pytest.raises(DataError, match="weight"):
            weight_spectra(layer, sizes={"weight": size})


def test_parametrised_weights_are_read_as_they_are_computed():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5))
    )
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, second = weight_spectra(net)
    assert (first.name, second.name) == ("0.weight", "1.weight")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()
    for found, part in ((first, net[0]), (second, net[1])):
        dense = part.weight.detach().double().flatten(1).numpy()
        np.testing.assert_allclose(found.singular_values, np.linalg.svd(dense, compute_uv=False), rtol=1e-12)
    with pytest.raises(ModelError, match="not on one device"):
        weight_spectra(nn.Linear(3, 2, device="meta"))

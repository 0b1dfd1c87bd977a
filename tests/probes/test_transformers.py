"""Use of depth, isotropy and oversmoothing on networks whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, ModelError, ShapeError
from ascertain.probes.activations import activations
from ascertain.probes.transformers import isotropy, oversmoothing, residual_use


class Block(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, h):
        return h + h @ self.matrix.T


class Net(nn.Module):
    def __init__(self, matrices):
        super().__init__()
        self.blocks = nn.ModuleList(map(Block, matrices))

    def forward(self, h):
        for block in self.blocks:
            h = block(h)
        return h.flatten(1)


def test_linear_blocks_have_known_shares_and_effects():
    """Block i multiplies the stream by 1 + c_i: shares are |c_i|, later contributions and outputs lose the factor."""
    factors = [0.5, -0.25, 0.0, 0.0]
    net = Net([c * torch.eye(4) for c in factors]).train()
    x = torch.randn(12, 3, 4, generator=torch.Generator().manual_seed(0))
    found = residual_use(net, [f"blocks.{i}" for i in range(4)], x.double().numpy(), batch_size=5)
    np.testing.assert_allclose(found.share, np.abs(factors), atol=1e-6)
    np.testing.assert_allclose(found.cosine, [1, -1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.output, [0.5 / 1.5, 0.25 / 0.75, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.later[0], [0, 0.5 / 1.5, 0, 0], atol=1e-6)
    assert (found.later[1:] == 0).all()  # the second half is the identity
    assert net.training and not any(part._forward_hooks for part in net.modules())
    assert found.samples == 12 and "writes 0.500" in str(found) and (found.share_error < 1e-6).all()


def test_nonlinear_blocks_against_plain_arithmetic():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    net = nn.Sequential(layer, nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)).eval()
    x = torch.randn(6, 5, 8)
    found = residual_use(net, ["0", "1"], x)
    with torch.no_grad():
        h, y, skipped = net[0](x), net(x), net[1](x)
    size = torch.linalg.vector_norm
    np.testing.assert_allclose(found.share[0], (size(h - x, dim=(1, 2)) / size(x, dim=(1, 2))).mean(), rtol=1e-5)
    np.testing.assert_allclose(found.output[0], (size(y - skipped, dim=(1, 2)) / size(y, dim=(1, 2))).mean(), rtol=1e-5)
    later = size((skipped - x) - (y - h), dim=(1, 2)) / size(y - h, dim=(1, 2))
    np.testing.assert_allclose(found.later[0, 1], later.mean(), rtol=1e-4)


def test_blocks_that_are_none_are_named():
    net, x = Net([torch.eye(4)] * 2), torch.randn(8, 3, 4)
    with pytest.raises(ModelError, match=r"blocks\.1"):
        residual_use(net, ["blocks.7"], x)
    with pytest.raises(ModelError, match="in this order"):
        residual_use(net, ["blocks.1", "blocks.0"], x)
    with pytest.raises(ShapeError, match="does not accept"):
        residual_use(net, ["blocks.0"], torch.randn(8, 3, 5))
    with pytest.raises(ShapeError, match="'0'"):
        residual_use(nn.Sequential(nn.Linear(3, 4)), ["0"], torch.randn(5, 3))
    for blocks, data in (([], x), (["blocks.0"], x[:3]), (["blocks.0"], 3)):
        with pytest.raises(DataError):
            residual_use(net, blocks, data)
    with pytest.raises(DataError, match="NaN"):
        residual_use(Net([torch.eye(4) * np.nan]), ["blocks.0"], x)
    assert not any(part._forward_hooks for part in net.modules())


def test_isotropy_of_known_clouds():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = (units @ units.T)[np.triu_indices(300, 1)]
    found = isotropy(x)
    assert found.mean_cosine == pytest.approx(cosines.mean(), rel=1e-9, abs=1e-12) and found.low < 0 < found.high
    assert found.partition > 0.8
    narrow = isotropy(x + 20)
    assert narrow.mean_cosine > 0.97 and narrow.partition < found.partition
    assert isotropy(x * 1e-3).mean_cosine == pytest.approx(found.mean_cosine)
    without = np.array([isotropy(np.delete(x, i, axis=0)).mean_cosine for i in range(300)])
    error = np.sqrt(299 / 300 * ((without - without.mean()) ** 2).sum())
    assert found.high - found.mean_cosine == pytest.approx(error * 1.9679, rel=1e-3)
    with pytest.raises(DataError, match="row 2"):
        isotropy(np.where(np.arange(300)[:, None] == 2, 0.0, x))


def test_oversmoothing_of_averaging_layers():
    """Averaging tokens over and over makes them one."""

    class Average(nn.Module):
        def forward(self, x):
            return 0.5 * x + 0.5 * x.mean(1, keepdim=True)

    net = nn.Sequential(*[Average() for _ in range(8)])
    x = torch.randn(10, 5, 4, generator=torch.Generator().manual_seed(0))
    captured = activations(net, None, x)
    found = oversmoothing(captured)
    assert (np.diff(found.residual) < 0).all() and found.residual[-1] < 0.02 and found.cosine[-1] > 0.99
    rows = captured["0"].reshape(10, 5, 4)
    units = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    wanted = [np.mean((u @ u.T)[np.triu_indices(5, 1)]) for u in units]
    assert found.cosine[0] == pytest.approx(np.mean(wanted), rel=1e-5) and found.samples == 10
    with pytest.raises(DataError, match="two tokens"):
        oversmoothing(activations(nn.Sequential(nn.Linear(3, 3)), None, torch.randn(9, 3)))

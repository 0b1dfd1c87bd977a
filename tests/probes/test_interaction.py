import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, InputError, ModelError
from ascertain.probes.interaction import interaction_basis, interactions
from ascertain.probes.modularity import modularity, modules

LAYERS = ["input", "0", "1", "2"]


class Block(nn.Module):
    """Two independent rectifier networks side by side, between invertible changes of basis."""

    def __init__(self, seed, before, after, sizes=((3, 16), (2, 12))):
        super().__init__()
        g = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        self.up = torch.block_diag(*[draw(h, d) / d**0.5 for d, h in sizes])
        self.down = torch.block_diag(*[draw(d, h) / h**0.5 for d, h in sizes])
        self.bias = 0.3 * draw(len(self.up))
        self.before, self.after = torch.linalg.inv(before), after

    def forward(self, x):
        return torch.relu(x @ self.before @ self.up.T + self.bias) @ self.down.T @ self.after


def network(mixed=True, scale=1.0):
    g = torch.Generator().manual_seed(3)
    eye = torch.eye(5, dtype=torch.float64)
    turns = [eye, *(scale * torch.randn(5, 5, generator=g, dtype=torch.float64) + 2 * scale * eye for _ in range(2)), eye]
    if not mixed:
        turns = [eye] * 4
    return nn.Sequential(*(Block(i, turns[i], turns[i + 1]) for i in range(3)))


def product_data(a=24, b=20):
    """All pairs of samples of the two modules: their covariance is exactly 0."""
    g = torch.Generator().manual_seed(5)
    first, second = (torch.randn(n, d, generator=g, dtype=torch.float64) for n, d in ((a, 3), (b, 2)))
    return torch.cat([first.repeat_interleave(b, 0), second.repeat(a, 1)], 1)


def dense_basis(rows, jacobian, target, mean):
    """The definition, from full Jacobians, the covariance's eigenvectors, and no threshold."""
    w, u = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    root = u * np.sqrt(w)
    through = jacobian.transpose(0, 2, 1) @ target
    m = root.T @ np.einsum("nij,nkj->ik", through, through) @ root / len(rows)
    lam, v = np.linalg.eigh(m)
    return lam[::-1], (u / np.sqrt(w) @ v * np.sqrt(lam))[:, ::-1]


def test_local_basis_equals_its_dense_definition():
    net, x = network(), product_data(8, 7)
    bases = interaction_basis(net, LAYERS, x)
    a = [x]
    for part in net:
        a.append(part(a[-1]))
    for i in (0, 1, 2):
        jac = torch.stack([torch.autograd.functional.jacobian(net[i], row) for row in a[i]]).numpy()
        lam, matrix = dense_basis(a[i].numpy(), jac, bases[i + 1].matrix, a[i].mean(0).numpy())
        np.testing.assert_allclose(bases[i].importance, lam, rtol=1e-9)
        np.testing.assert_allclose(abs(np.sum(bases[i].matrix * matrix, 0)), np.sum(matrix**2, 0), rtol=1e-7)
        np.testing.assert_allclose(bases[i].inverse @ bases[i].matrix, np.eye(5), atol=1e-9)


def test_global_basis_equals_its_dense_definition():
    net, x = network(), product_data(8, 7)
    basis = interaction_basis(net, LAYERS, x, kind="global")
    a = net[0](x)
    tail = nn.Sequential(net[1], net[2])
    jac = torch.stack([torch.autograd.functional.jacobian(tail, row) for row in a]).numpy()
    lam, _ = dense_basis(a.numpy(), jac, basis[3].matrix, a.mean(0).numpy())
    np.testing.assert_allclose(basis[1].importance, lam, rtol=1e-9)


def test_hidden_modules_are_recovered_exactly_and_principal_components_fail():
    pytest.importorskip("graspologic_native")
    net, x = network(), product_data()
    found = interactions(net, interaction_basis(net, LAYERS, x), x, points=4)
    parts = modules(found.edges)
    assert parts.count == 2 and [sorted(np.bincount(p).tolist()) for p in parts.labels] == [[2, 3]] * 4
    assert parts.cross_mass.max() < 1e-12
    assert parts.modularity > parts.null.max() + 0.1
    plain = interactions(net, interaction_basis(net, LAYERS, x, kind="principal"), x, points=4)
    assert modules(plain.edges).modularity < parts.modularity - 0.1
    assert plain.density[1] > found.density[1]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_neither_rotation_nor_units_change_anything(scale):
    x = product_data(10, 9)
    plain, mixed = network(mixed=False), network(scale=scale)
    bases = [interaction_basis(net, LAYERS, x) for net in (plain, mixed)]
    for p, q in zip(*bases, strict=True):
        np.testing.assert_allclose(p.importance, q.importance, rtol=1e-7)
    graphs = [interactions(net, b, x, points=3) for net, b in zip((plain, mixed), bases, strict=True)]
    for p, q in zip(graphs[0].edges, graphs[1].edges, strict=True):
        np.testing.assert_allclose(p, q, atol=1e-8 * p.max())


def test_linear_layers_have_diagonal_edges():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    found = interactions(net, interaction_basis(net, LAYERS, torch.randn(200, 6)), torch.randn(200, 6), points=1)
    for edges in found.edges:
        off = (
            edges - np.diag(np.diag(edges))
            if edges.shape[0] == edges.shape[1]
            else edges[:, : len(edges)] * (1 - np.eye(len(edges)))
        )
        assert off.max() < 1e-18 * edges.max() + 1e-18


def test_width_is_the_rank_that_matters():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(100, 6)
    x[:, 1] = x[:, 0] * 3
    bases = interaction_basis(net, ["input", "1", "output"], x)
    assert bases[0].rank == 5 and len(bases[0].importance) == 5
    assert bases[1].rank <= 8 and len(bases[1].importance) == 2 and len(bases[2].importance) == 2


def test_edges_of_a_known_function_and_their_errors():
    class Square(nn.Module):
        def forward(self, x):
            return x**2

    net = nn.Sequential(nn.Identity(), Square())
    x = torch.linspace(-1, 1, 51, dtype=torch.float64)[:, None]
    found = interactions(net, interaction_basis(net, ["input", "1"], x), x, points=2)
    # the integrated gradient of x^2 along x from 0 is x^2, whatever the scale of the coordinate
    np.testing.assert_allclose(found.edges[0], (x**4).mean(), rtol=1e-12)
    np.testing.assert_allclose(found.errors[0], ((x**4).var(correction=0) / 51).sqrt(), rtol=1e-10)


def test_convolutions_and_residual_streams_by_submodule_name():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    bases = interaction_basis(net, ["0", "2", "4"], torch.randn(60, 1, 4, 4))
    assert [len(b.importance) for b in bases] == [8, 2, 2] and net.training and net[0].weight.grad is None
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items()) and not net[0]._forward_hooks


def partitions(n):
    """All ways to label n nodes."""

    def extend(labels, used):
        if len(labels) == n:
            yield np.array(labels)
            return
        for label in range(used + 1):
            yield from extend([*labels, label], max(used, label + 1))

    yield from extend([], 0)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_partitions_is_found(seed):
    pytest.importorskip("graspologic_native")
    rng = np.random.default_rng(seed)
    weights = [10 ** -(6 * rng.random((3, 3))), 10 ** -(6 * rng.random((3, 3)))]
    decades = [np.log10(np.maximum(w / w.max(), 1e-6) / 1e-6) for w in weights]
    best = max(modularity(decades, np.split(labels, [3, 6])) for labels in partitions(9))
    assert modules(weights, nulls=0).modularity == pytest.approx(best, abs=1e-12)


def test_modularity_of_two_layers_is_barbers_and_noise_has_no_modules():
    rng = np.random.default_rng(0)
    w, labels = rng.random((4, 3)), (np.array([0, 1, 1]), np.array([1, 0, 0, 1]))
    by_hand = sum(
        w[i, j] - w[i].sum() * w[:, j].sum() / w.sum() for i in range(4) for j in range(3) if labels[1][i] == labels[0][j]
    )
    assert modularity([w], labels) == pytest.approx(by_hand / w.sum())
    pytest.importorskip("graspologic_native")
    found = modules([rng.random((9, 8)), rng.random((7, 9))])
    assert found.null.min() <= found.modularity <= found.null.max()
    assert modules([np.zeros((2, 2))]).count == 4
    same = [modules([w], seed=3).labels for _ in range(2)]
    assert all((a == b).all() for a, b in zip(*same, strict=True))


def test_bad_input():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    x = torch.randn(20, 3)
    with pytest.raises(ModelError, match="no layer 'relu'"):
        interaction_basis(net, ["input", "relu"], x)
    with pytest.raises(InputError, match="no path"):
        interaction_basis(net, ["1"], x)
    with pytest.raises(DataError, match="3 samples"):
        interaction_basis(net, ["input", "1"], x[:3])
    with pytest.raises(DataError, match="constant"):
        interaction_basis(net, ["input", "1"], torch.ones(20, 3))
    with pytest.raises(DataError, match="does not move"):
        interaction_basis(net, ["1", "0"], x)
    with pytest.raises(DataError, match="NaN"):
        interaction_basis(net, ["input", "1"], x * float("nan"))
    with pytest.raises(DataError, match=r"edges\[0\]"):
        modules([np.full((2, 2), -1.0)])
    with pytest.raises(InputError, match="follow"):
        modules([np.ones((2, 2)), np.ones((2, 3))])

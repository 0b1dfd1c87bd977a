"""Similarity measures against dense definitions, closed forms, invariances, planted cases and stored reference values."""

import json
from math import acos, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import ortho_group, spearmanr
from torch import nn

from ascertain.probes import kernels
from ascertain.probes.activations import activations
from ascertain.probes.canonical import CCA, PWCCA, SVCCA
from ascertain.probes.geometry import RSA, LinearPredictivity, MutualNeighbours, Procrustes
from ascertain.probes.kernels import CKA
from ascertain.probes.similarity import similarity
from tests.probes.measures import MEASURES, names, number, pair

# ---- dense definitions


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors / np.sqrt(values) @ vectors.T


def dense_cca(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.svd(root(x.T @ x) @ x.T @ y @ root(y.T @ y))


def dense_svcca(x, y, share=0.99):
    parts = []
    for z in (x, y):
        z = z - z.mean(0)
        values, vectors = np.linalg.eigh(z.T @ z)
        values, vectors = values[::-1], vectors[:, ::-1]
        k = next(k for k in range(1, len(values) + 1) if values[:k].sum() >= share * values.sum())
        parts.append(z @ vectors[:, :k])
    return dense_cca(*parts)[1].mean()


def dense_pwcca(x, y):
    u, rho, _ = dense_cca(x, y)
    x = x - x.mean(0)
    h = x @ root(x.T @ x) @ u[:, : len(rho)]
    weights = np.abs(h.T @ x).sum(1)
    return weights @ rho / weights.sum()


def dense_gram(x, kernel, width=1.0):
    if kernel == "linear":
        return x @ x.T
    distance = squareform(pdist(x))
    return np.exp(-(distance**2) / (2 * width**2 * np.median(pdist(x)) ** 2))


def hsic_1(k, m):
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    return (np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * one @ k @ m @ one / (n - 2)) / (n * (n - 3))


def dense_cka(x, y, kernel="linear", debiased=True, batch=None):
    sums = np.zeros(3)
    for start in range(0, len(x), batch or len(x)):
        part = slice(start, start + (batch or len(x)))
        k, m = (dense_gram(z[part], kernel) for z in (x, y))
        h = np.eye(len(k)) - 1 / len(k)
        inner = hsic_1 if debiased else lambda a, b, h=h: np.trace(a @ h @ b @ h)
        sums += inner(k, m), inner(k, k), inner(m, m)
    return sums[0] / sqrt(sums[1] * sums[2])


def dense_rsa(x, y):
    a, b = (1 - np.corrcoef(z) for z in (x, y))
    above = np.triu_indices(len(x), 1)
    return spearmanr(a[above], b[above]).statistic


def dense_neighbours(x, y, k=5):
    near = [[set(np.argsort(row)[1 : k + 1]) for row in squareform(pdist(z))] for z in (x, y)]
    return np.mean([len(a & b) / k for a, b in zip(*near, strict=True)])


def dense_predictivity(x, y, folds=5):
    error = spread = 0.0
    for test in np.array_split(np.arange(len(x)), folds):
        train = np.delete(np.arange(len(x)), test)
        design = np.c_[x[train], np.ones(len(train))]
        fit = np.linalg.lstsq(design, y[train], rcond=None)[0]
        error += ((y[test] - np.c_[x[test], np.ones(len(test))] @ fit) ** 2).sum()
        spread += ((y[test] - y[train].mean(0)) ** 2).sum()
    return 1 - error / spread


@pytest.mark.parametrize("n", [30, 80])
def test_numbers_are_those_of_the_definitions(n):
    x, y = pair(n)
    for z, w in ((x, y), (y, x)):
        assert number(CCA(), z, w) == pytest.approx(dense_cca(z, w)[1][:6].mean(), rel=1e-9)
        assert number(SVCCA(), z, w) == pytest.approx(dense_svcca(z, w), rel=1e-9)
        assert number(SVCCA(0.8), z, w) == pytest.approx(dense_svcca(z, w, 0.8), rel=1e-9)
        assert number(CKA("rbf", width=0.5), z, w) == pytest.approx(
            hsic_1(*(dense_gram(v, "rbf", 0.5) for v in (z, w)))
            / sqrt(np.prod([hsic_1(*[dense_gram(v, "rbf", 0.5)] * 2) for v in (z, w)])),
            rel=1e-9,
        )
        for kernel in ("linear", "rbf"):
            for debiased in (True, False):
                measure = CKA(kernel, debiased=debiased)
                assert number(measure, z, w) == pytest.approx(dense_cka(z, w, kernel, debiased), rel=1e-9)
        assert number(CKA(batch=10), z, w) == pytest.approx(dense_cka(z, w, batch=10), rel=1e-9)
        assert number(RSA(), z, w) == pytest.approx(dense_rsa(z, w), rel=1e-9)
        assert number(MutualNeighbours(5), z, w) == pytest.approx(dense_neighbours(z, w))
        assert number(LinearPredictivity(), z, w) == pytest.approx(dense_predictivity(z, w), rel=1e-9)
        cz, cw = z - z.mean(0), w - w.mean(0)
        cosine = np.linalg.svd(cz.T @ cw)[1].sum() / np.linalg.norm(cz) / np.linalg.norm(cw)
        assert number(Procrustes(), z, w) == pytest.approx(acos(cosine), rel=1e-9)
    assert number(PWCCA(), x, y) == pytest.approx(dense_pwcca(x, y), rel=1e-9)


@pytest.mark.parametrize("n", [60, 90])
def test_kernels_from_features_and_from_gram_matrices_agree(n, monkeypatch):
    x, y = pair(n, 6, 70)
    wanted = {debiased: number(CKA(debiased=debiased), x, y) for debiased in (True, False)}
    monkeypatch.setattr(kernels, "GRAM_ROWS", 4)  # x from features; y too where it has fewer of them than samples
    for debiased, value in wanted.items():
        measure = CKA(debiased=debiased)
        for a, b in ((x, y), (y, x)):
            assert number(measure, a, b) == pytest.approx(value, rel=1e-9)
        state = measure.prepare(x)
        assert measure.compare(state, state) == pytest.approx(1.0)
        order = np.random.default_rng(0).permutation(n)
        other = measure.prepare(y)
        assert measure.compare(state, measure.reorder(other, order)) == pytest.approx(number(measure, x, y[order]), rel=1e-9)


@pytest.mark.parametrize("measure", MEASURES, ids=names)
def test_reordering_is_the_same_as_preparing_reordered_rows(measure):
    x, y = pair()
    order = np.random.default_rng(1).permutation(len(y))
    if measure.name == CKA().name and measure.batch:
        order = np.concatenate([np.random.default_rng(1).permutation(20) + 20 * i for i in range(4)])
    found = measure.compare(measure.prepare(x), measure.reorder(measure.prepare(y), order))
    assert found == pytest.approx(number(measure, x, y[order]), rel=1e-6, abs=1e-9)


# ---- invariances


@pytest.mark.parametrize("measure", MEASURES, ids=names)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_scale_and_offset_do_not_matter(measure, scale):
    x, y = pair()
    shifted = x if isinstance(measure, RSA) and measure.dissimilarity == "correlation" else x + 3.0
    assert number(measure, shifted * scale, y) == pytest.approx(number(measure, x, y), rel=1e-7)


@pytest.mark.parametrize("measure", [m for m in MEASURES if m.name not in (PWCCA().name, RSA().name)], ids=lambda m: m.name)
def test_rotations_do_not_matter(measure):
    x, y = pair()
    turn = ortho_group.rvs(6, random_state=0)
    assert number(measure, x @ turn, y) == pytest.approx(number(measure, x, y), rel=1e-7)


@pytest.mark.parametrize("measure", [CCA(), Procrustes(alpha=0), LinearPredictivity()], ids=lambda m: m.name)
def test_invertible_maps_do_not_matter(measure):
    x, y = pair()
    mixed = x @ np.random.default_rng(3).normal(size=(6, 6))
    assert number(measure, mixed, y) == pytest.approx(number(measure, x, y), rel=1e-7)
    assert abs(number(SVCCA(0.9), mixed, y) - number(SVCCA(0.9), x, y)) > 1e-3  # SVCCA is only invariant to rotations


@pytest.mark.parametrize("measure", MEASURES, ids=names)
def test_a_copy_is_equal_and_order_of_arguments(measure):
    x, y = pair()
    best = 0.0 if measure.distance else 1.0
    assert number(measure, x, x.copy()) == pytest.approx(best, abs=1e-7)
    assert measure.symmetric == (abs(number(measure, x, y) - number(measure, y, x)) < 1e-12)


def test_shape_angles_are_a_metric():
    rng = np.random.default_rng(0)
    for alpha in (0.0, 0.5, 1.0):
        a, b, c = (rng.normal(size=(30, 4)) for _ in range(3))
        ab, bc, ac = (number(Procrustes(alpha=alpha), *z) for z in ((a, b), (b, c), (a, c)))
        assert ac <= ab + bc + 1e-12 and 0 <= ac <= pi / 2
    x, y = pair(p=6, q=6)
    assert number(Procrustes(alpha=0.0), x, y) == pytest.approx(acos(number(CCA(), x, y)))


def test_duplicate_and_dead_channels_change_nothing_that_they_should_not():
    x, y = pair()
    dead = np.c_[x, np.zeros(80), x[:, :2], np.full(80, 3.0)]
    assert number(CCA(), dead, y) == pytest.approx(number(CCA(), x, y), rel=1e-9)
    assert number(CCA(), dead, dead) == pytest.approx(1.0)
    for measure in MEASURES:
        assert np.isfinite(number(measure, dead, y))
    rounded = np.c_[x, x[:, :1] + x[:, 1:2]].astype(np.float32)  # dependent up to float32 rounding
    assert len(CCA().prepare(rounded).s) == 6


# ---- closed forms and planted cases


def test_planted_subspaces():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(2000, 4))
    x, y = (np.c_[shared, rng.normal(size=(2000, 6))] @ rng.normal(size=(10, 10)) for _ in range(2))
    rho = np.linalg.svd(CCA().prepare(x).u.T @ CCA().prepare(y).u, compute_uv=False)
    np.testing.assert_allclose(rho[:4], 1.0, atol=1e-12)
    assert rho[4] < 0.2
    z = rng.normal(size=(20000, 5))
    noisy = z + sqrt(0.5) * rng.normal(size=z.shape)
    found = similarity(z @ rng.normal(size=(5, 5)), noisy @ rng.normal(size=(5, 5)), CCA(), shuffles=2)
    assert found.value == pytest.approx(1 / sqrt(1.5), abs=0.01) and found.low < 1 / sqrt(1.5) < found.high


def test_independent_gaussians_are_at_the_level_of_chance():
    rng = np.random.default_rng(0)
    n, p, q = 200, 50, 100
    draws = [(rng.normal(size=(n, p)), rng.normal(size=(n, q))) for _ in range(6)]
    squares = [np.mean(np.linalg.svd(CCA().prepare(x).u.T @ CCA().prepare(y).u, compute_uv=False) ** 2) for x, y in draws]
    assert np.mean(squares) == pytest.approx(q / (n - 1), abs=0.01)
    biased = [number(CKA(debiased=False), x, y) for x, y in draws]
    assert np.mean(biased) == pytest.approx(sqrt(p * q / ((n + p) * (n + q))), abs=0.01)
    assert np.mean([number(CKA(), x, y) for x, y in draws]) == pytest.approx(0.0, abs=0.02)
    wide = similarity(rng.normal(size=(50, 512)), rng.normal(size=(50, 512)), CKA(), shuffles=5)
    assert wide.low < 0 < wide.high and abs(wide.value) < 0.05


@pytest.mark.parametrize("measure", [CKA(debiased=False), MutualNeighbours(5)], ids=lambda m: m.name)
def test_chance_is_the_mean_over_shuffles(measure):
    x, y = pair()
    a, b = measure.prepare(x), measure.prepare(y)
    assert similarity(x, y, measure, shuffles=400, groups=0).null_mean == pytest.approx(measure.chance(a, b, 80), rel=0.05)


@pytest.mark.parametrize("measure", [CCA(), SVCCA(), Procrustes()], ids=lambda m: m.name)
def test_chance_bounds_the_mean_over_shuffles(measure):
    x, y = pair()
    bound, mean = measure.chance(measure.prepare(x), measure.prepare(y), 80), similarity(x, y, measure, groups=0).null_mean
    assert (bound <= mean) if measure.distance else (bound >= mean)


# ---- stored reference values and failures of other implementations


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "reference" / "probes"
    return np.load(folder / "acts_mlp_s01.npz"), json.loads((folder / "03_repr.json").read_text())


@pytest.mark.parametrize(
    ("measure", "key"),
    [
        (CCA(), "cca_mean"),
        (SVCCA(), "svcca99_var"),
        (CKA(), "ucka"),
        (CKA(debiased=False), "cka"),
        (CKA("rbf", debiased=False), "rbfcka"),
        (Procrustes(), "proc_ang"),
        (RSA(), "rsa_spearman_corr"),
        (PWCCA(), "pwcca_xy"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_reference_values(reference, measure, key):
    rows, values = reference
    for layer, wanted in enumerate(values["mlp"]):
        # The first layers share directions of the input, whose correlations are all 1: there PWCCA depends on the basis.
        tolerance = 1e-3 if key == "pwcca_xy" and layer == 0 else 1e-6
        assert number(measure, rows[f"s0_l{layer}"], rows[f"s1_l{layer}"]) == pytest.approx(wanted[key], rel=tolerance)


def test_failures_of_other_implementations(reference):
    """PWCCA 0.9806 and 0.7800 for 0.9600, IndexError for 32 and 16 neurons, LinAlgError on dead neurons, robust CCA 0.435."""
    rows, values = reference
    x, y = rows["s0_l0"], rows["s1_l0"]
    assert number(PWCCA(), x, y) == pytest.approx(0.960, abs=1e-3)
    assert number(PWCCA(), y, x) == pytest.approx(0.960, abs=1.5e-3)
    for a, b in (("s0_l0", "s0_l2"), ("s0_l2", "s0_l0")):
        assert 0 < number(PWCCA(), rows[a], rows[b]) <= 1
    assert number(CCA(), rows["s0_l1"], rows["s1_l1"]) == pytest.approx(0.618895866, rel=1e-6)
    assert number(CCA(), x, y) == pytest.approx(0.83197751, rel=1e-6)
    assert number(LinearPredictivity(folds=1), y, x) == pytest.approx(0.9927159973233531, rel=1e-6)
    assert number(Procrustes(alpha=0), x, y) == pytest.approx(values["libs"]["netrep alpha=0 (cca)"], rel=1e-6)


def network(kind, seed, folder):
    if kind == "wide":
        net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
        file = f"mlpwide_relu_s{seed}.pt"
    else:
        layers = (nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        net = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))
        file = f"cnn_s{seed}.pt"
    net.load_state_dict(torch.load(folder / file))
    return net


@pytest.mark.parametrize(("kind", "layers"), [("wide", ["0", "1", "2", "3", "4"]), ("cnn", ["2", "4", "7"])])
@pytest.mark.filterwarnings("ignore:.*CCA of all directions.*")
def test_reference_values_from_the_networks(shared, kind, layers):
    folder = shared / "reference" / "probes"
    values, x = json.loads((folder / "03_repr.json").read_text())[kind], np.load(folder / "digits_split.npz")["Xte"]
    first, second = (activations(network(kind, seed, folder), layers, x) for seed in (0, 1))
    for layer, wanted in zip(layers, values, strict=True):
        for key, measure in {"svcca99_var": SVCCA(), "cka": CKA(debiased=False), "ucka": CKA(), "proc_ang": Procrustes()}.items():
            if wanted.get(key) is not None:
                assert number(measure, first[layer], second[layer]) == pytest.approx(wanted[key], rel=1e-6)

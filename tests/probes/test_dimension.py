"""Dimensions against spectra, known manifolds and stored reference values."""

import json

import numpy as np
import pytest
from scipy.stats import ortho_group

from ascertain.errors import AscertainError, DataError
from ascertain.probes.dimension import dimension

METHODS = ["participation ratio", "effective rank", "stable rank", "twonn", "mle"]


def gaussian(n, d, ambient, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ ortho_group.rvs(ambient, random_state=seed)[:d]


def test_linear_dimensions_are_those_of_the_spectrum():
    x = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9)
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert dimension(x).value == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-12)
    assert dimension(x, "stable rank").value == pytest.approx(values.sum() / values.max(), rel=1e-12)
    share = np.sqrt(values) / np.sqrt(values).sum()
    assert dimension(x, "effective rank").value == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-12)
    wide = np.random.default_rng(1).normal(size=(20, 90))
    values = np.linalg.eigvalsh(np.cov(wide.T))
    found = dimension(wide)
    assert found.value == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)
    assert "at most 19" in found.notes[0]


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_equal_directions_count_one_each(rank):
    x = np.random.default_rng(0).normal(size=(200, rank))
    x, _ = np.linalg.qr(x - x.mean(0))
    x = (x - x.mean(0)) @ ortho_group.rvs(9, random_state=0)[:rank]
    for method in METHODS[:3]:
        assert dimension(x, method).value == pytest.approx(rank, rel=1e-3)


def test_intrinsic_dimensions_of_known_manifolds():
    sphere = np.random.default_rng(0).normal(size=(1000, 6))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    for x, low, high in ((gaussian(1000, 5, 20), 4.6, 5.7), (sphere, 4.5, 5.5), (gaussian(1000, 2, 20), 1.8, 2.2)):
        for method in ("twonn", "mle"):
            found = dimension(x, method)
            assert low < found.value < high and found.low < found.value < found.high
    assert 13 < dimension(gaussian(1000, 20, 20), "twonn").value < 19  # short of 20, as expected of the estimator


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_scale_offset_and_rotation_do_not_matter(method, scale):
    x = gaussian(120, 4, 6)
    turned = x @ ortho_group.rvs(6, random_state=5) + 2.0
    assert dimension(turned * scale, method).value == pytest.approx(dimension(x, method).value, rel=1e-6)


def test_intervals_reach_over_the_bias():
    """Of four equal eigenvalues the largest of a sample is too large, and the stable rank below 4."""
    found = [dimension(gaussian(400, 4, 10, seed), "stable rank", subsets=2) for seed in range(40)]
    assert np.mean([f.value for f in found]) < 3.7
    assert np.mean([f.low <= 4 <= f.high for f in found]) > 0.7


def test_duplicates_are_removed_and_curves_grow():
    x = gaussian(400, 3, 5)
    doubled = np.concatenate([x, x[:100]])
    for method in ("twonn", "mle"):
        found = dimension(doubled, method)
        assert found.value == pytest.approx(dimension(x, method).value, rel=1e-12) and "100 duplicates" in found.notes[0]
    found = dimension(x, "twonn", seed=3)
    assert found.sizes.tolist() == [50, 100, 200] and found.errors[0] > found.errors[2] > 0 and "(200)" in str(found)
    same = dimension(x, "twonn", seed=3)
    np.testing.assert_array_equal(found.curve, same.curve)
    assert dimension(x, places=4).samples == 100


def test_reference_values(shared):
    folder = shared / "reference" / "probes"
    rows, values = np.load(folder / "acts_mlp_s01.npz"), json.loads((folder / "05_id.json").read_text())["digits_mlp_layers"]
    for layer in range(5):
        x, wanted = rows[f"s0_l{layer}"], values[f"s0_l{layer}"]
        assert dimension(x).value == pytest.approx(wanted["pr"], rel=1e-6)
        assert dimension(x, "twonn").value == pytest.approx(wanted["twonn"][0], rel=1e-6)
        assert dimension(x, "mle").value == pytest.approx(wanted["mle"][0], rel=1e-6)


def test_a_dimension_that_hangs_on_one_sample_has_no_upper_end():
    rows = np.r_[np.ones((19, 3)), np.zeros((1, 3))]
    found = dimension(rows)
    assert found.value == pytest.approx(1.0) and (found.low, found.high) == (0.0, np.inf) and np.isnan(found.curve).any()


def test_bad_input_is_named():
    x = gaussian(40, 3, 5)
    for rows, options, text in (
        (x[:3], {}, "below 4"),
        (np.ones((9, 2)), {}, "constant"),
        (np.full((9, 2), np.nan), {}, "NaN"),
        (x, {"method": "box"}, "not known"),
        (x, {"method": "mle", "k": 39}, "distinct samples"),
        (x, {"method": "mle", "k": 1}, "neighbours"),
        (x, {"places": 7}, "40 rows with 7 places"),
        (x, {"subsets": 1}, "1 subsets"),
        (np.repeat(x[:2], 20, axis=0), {"method": "twonn"}, "distinct"),
        (np.arange(40.0)[:, None], {"method": "twonn"}, "equally far"),
    ):
        with pytest.raises(DataError, match=text):
            dimension(rows, **options)
    with pytest.raises(AscertainError):
        dimension(x[:, 0, None] * 0)

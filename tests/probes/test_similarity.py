"""Pairs and maps: intervals, chance, few samples, bad input, convergence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascertain.errors import DataError, InputError, ResourceError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.activations import Activations
from ascertain.probes.canonical import CCA, PWCCA, SVCCA
from ascertain.probes.geometry import RSA, LinearPredictivity, MutualNeighbours, Procrustes
from ascertain.probes.kernels import CKA
from ascertain.probes.similarity import convergence, similarity, similarity_map, time_map
from tests.probes.measures import MEASURES, names, number, pair


def test_intervals_cover_the_value_of_many_samples():
    rng = np.random.default_rng(0)

    def draw(n):
        shared = rng.normal(size=(n, 3))
        return shared + 0.5 * rng.normal(size=(n, 3)), shared + 0.5 * rng.normal(size=(n, 3))

    for measure in (CKA(), CCA()):
        truth = number(measure, *draw(100_000))
        found = [similarity(*draw(300), measure, shuffles=0) for _ in range(100)]
        assert np.mean([f.low <= truth <= f.high for f in found]) > 0.85


def test_intervals_reach_over_the_bias_of_directions_that_share_nothing():
    """Three correlations are 0.8 and three are 0, which no finite sample shows: the number itself is too large."""
    rng = np.random.default_rng(0)

    def draw(n=300):
        shared = rng.normal(size=(n, 3))
        return (np.c_[shared + 0.5 * rng.normal(size=(n, 3)), rng.normal(size=(n, 3))] for _ in range(2))

    found = [similarity(*draw(), CCA(), shuffles=0) for _ in range(40)]
    assert np.mean([f.value for f in found]) > 0.43
    assert np.mean([f.low <= 0.4 <= f.high for f in found]) > 0.85


# ---- few samples and bad input


def test_as_many_directions_as_samples_say_nothing_and_say_so():
    rng = np.random.default_rng(0)
    found = similarity(rng.normal(size=(30, 40)), rng.normal(size=(30, 40)), CCA())
    assert found.value == pytest.approx(1.0) and (found.low, found.high) == (0.0, 1.0)
    assert "whatever the data" in found.notes[0] and "note" in str(found) and found.evidence is Evidence.ESTIMATED


@pytest.mark.parametrize("measure", MEASURES[:12], ids=names[:12])
def test_four_samples_are_the_fewest(measure):
    x, y = pair(4, 2, 2)
    low, high = measure.limits
    assert low - 1e-9 <= number(measure, x, y) <= high + 1e-9
    with pytest.raises(DataError, match="below 4"):
        similarity(x[:3], y[:3], measure)


def test_a_layer_that_answers_to_one_sample_has_no_interval():
    """Without that sample a nearly dead layer is constant, which is no reason to refuse it."""
    x, y = pair()
    dead = np.where(np.arange(80)[:, None] == 3, 1.0, np.zeros((80, 2)))
    for measure in (CCA(), SVCCA(), PWCCA(), CKA(debiased=False), Procrustes(), LinearPredictivity()):
        found = similarity(dead, y, measure)
        assert np.isfinite(found.value) and (found.low, found.high) == measure.limits
        table = similarity_map(capture({"x": x, "dead": dead}), measure=measure)
        assert np.isfinite(table.values).all() and (table.low <= table.values + 1e-12).all()


@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(1, 12), st.integers(1, 12), st.sampled_from(MEASURES))
def test_any_rows_give_a_number_within_limits_or_a_reason(seed, n, p, q, measure):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    if seed % 2:
        x = np.maximum(x - 0.5, 0) * 10.0 ** rng.integers(-20, 20, p)
    if seed % 3:
        y = (np.round(y) + 5).astype(np.float32)
    try:
        found = similarity(x, y, measure, groups=4, shuffles=1)
    except DataError:
        return
    low, high = measure.limits
    assert low - 1e-9 <= found.value <= high + 1e-9 and found.low <= found.value + 1e-9 and found.value <= found.high + 1e-9


def test_matrices_over_all_pairs_are_kept_within_memory():
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    for measure in (CKA("rbf"), RSA("euclidean")):
        with pytest.raises(ResourceError, match="20000 x 20000"):
            similarity(rows, rows, measure)
    assert number(CKA("rbf", batch=500), rows[:2000], rows[:2000]) == pytest.approx(1.0)


def test_bad_rows_are_named():
    x, y = pair()
    with pytest.raises(DataError, match="second rows are constant"):
        similarity(x, np.ones((80, 3)))
    with pytest.raises(DataError, match="NaN"):
        similarity(np.where(x > 2, np.nan, x), y)
    for rows in (x + 1j, np.array([["a"]] * 80)):
        with pytest.raises(DataError, match="not real numbers"):
            similarity(rows, y)
    for measure in (CKA, "cka"):
        with pytest.raises(InputError, match="no measure"):
            similarity(x, y, measure)
    for pair_of in (({"a": x},), (x, y)):
        with pytest.raises(InputError, match="maps are of captures"):
            similarity_map(*pair_of)
    with pytest.raises(ShapeError, match="80 and 70"):
        similarity(x, y[:70])
    with pytest.raises(ShapeError, match="multiple of 7"):
        similarity(x, y, places=7)
    with pytest.raises(ShapeError):
        similarity(x.reshape(4, 20, 6), y)
    with pytest.raises(DataError, match="sample 3"):
        similarity(np.where(np.arange(80)[:, None] == 3, 1.0, x), y, RSA())
    for wrong in (
        lambda: SVCCA(0.0),
        lambda: SVCCA(float("nan")),
        lambda: CKA("cosine"),
        lambda: CKA(batch=3),
        lambda: CKA(width=0.0),
        lambda: Procrustes(alpha=2),
        lambda: RSA("cosine"),
        lambda: LinearPredictivity(folds=0),
        lambda: similarity(x, y, MutualNeighbours(79)),
        lambda: similarity(x, y, LinearPredictivity(folds=50)),
    ):
        with pytest.raises(DataError):
            wrong()


# ---- maps


def capture(layers, places=1):
    arrays = {name: np.asarray(rows) for name, rows in layers.items()}
    count = len(next(iter(arrays.values()))) // places
    return Activations(arrays, dict.fromkeys(arrays, places), np.arange(count, dtype=np.uint64), "positions")


@pytest.mark.parametrize("measure", MEASURES, ids=names)
def test_maps_hold_the_numbers_of_pairs(measure):
    x, y = pair()
    layers = capture({"a": x, "b": y, "c": np.abs(x) + 0.1})
    table = similarity_map(layers, measure=measure, groups=4, shuffles=2)
    for i, first in enumerate(layers.values()):
        for j, second in enumerate(layers.values()):
            one = similarity(first, second, measure, groups=4, shuffles=0)
            assert table.values[i, j] == pytest.approx(one.value, abs=1e-9)
            assert (table.low[i, j], table.high[i, j]) == pytest.approx((one.low, one.high), abs=1e-6)
    assert np.isfinite(table.null).all() and table.rows == ("a", "b", "c")
    both = similarity_map(layers, capture({"b": y}), measure, groups=0, shuffles=0)
    np.testing.assert_allclose(both.values[:, 0], table.values[:, 1], atol=1e-9)
    assert (both.low == measure.limits[0]).all() and (both.high == measure.limits[1]).all()
    assert "evidence ESTIMATED" in str(table) and f"chance {table.null.min():.4f}" in str(table)
    assert "chance not known" in str(similarity_map(layers, measure=PWCCA(), groups=0, shuffles=0))


def test_positions_of_a_sample_stay_together():
    rng = np.random.default_rng(0)
    each = rng.normal(size=(20, 1, 3)).repeat(16, 1)
    x, y = ((each + 0.01 * rng.normal(size=(20, 16, 3))).reshape(320, 3) for _ in range(2))
    independent = similarity(x, rng.normal(size=(20, 1, 3)).repeat(16, 1).reshape(320, 3), CCA(), places=16)
    assert independent.null_mean > 0.25  # as for 20 samples, not for 320
    table = similarity_map(capture({"x": x, "y": y}, 16), measure=CCA())
    assert table.null[0, 1] > 0.25 and table.samples == 20
    with pytest.raises(ShapeError, match="differ in their rows"):
        similarity_map(Activations({"a": x, "b": x[:20]}, {"a": 16, "b": 1}, np.arange(20, dtype=np.uint64), "positions"))


def test_convergence_is_told_under_both_measures():
    """Layer a reaches its directions first, layer b its geometry: the order flips with the measure."""
    rng = np.random.default_rng(0)
    n = 300
    a, b, noise = (rng.normal(size=(n, 5)) for _ in range(3))
    scales = np.diag([6.0, 1.0, 1.0, 1.0, 1.0])
    steps = {
        "1": capture({"a": noise, "b": noise}),
        "2": capture({"a": a @ scales, "b": b + 0.4 * noise * [0.0, 0.0, 0.0, 0.0, 1.0] + 0.01 * noise}),
        "3": capture({"a": a, "b": b}),
    }
    found = convergence(steps, steps["3"], svcca_level=0.99, cka_level=0.95)
    assert found.first_svcca == {"a": "2", "b": "3"} and found.first_cka == {"a": "3", "b": "2"}
    assert found.order_svcca == ("a", "b") and found.order_cka == ("b", "a") and not found.agree
    assert "the orders differ" in str(found) and "b from 2" in str(found)
    table = time_map(((name, step) for name, step in steps.items()), steps["3"], CKA())
    np.testing.assert_allclose(table.values, found.cka.values)
    assert table.rows == ("1", "2", "3") and table.columns == ("a", "b") and (table.low <= table.values).all()
    assert np.isnan(time_map(steps, steps["3"], PWCCA(), shuffles=0).null).all()
    assert np.allclose(time_map(steps, steps["3"], PWCCA(), shuffles=50).null[2], [number(PWCCA(), a, noise)] * 2, atol=0.1)
    never = convergence({"1": steps["1"]}, steps["3"])
    assert never.first_cka == {"a": None, "b": None}
    with pytest.raises(DataError, match="no steps"):
        time_map({}, steps["3"])

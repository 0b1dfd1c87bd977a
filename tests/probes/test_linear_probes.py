"""Linear probes: what is linearly there is found, what is not is not, and learning by heart is told apart."""

import numpy as np
import pytest
from scipy.stats import binomtest

from ascertain.errors import DataError, ShapeError
from ascertain.probes.linear_probes import linear_probe, wilson


def test_planted_labels_are_found_and_random_ones_are_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 10))
    labels = np.array(["no", "yes"])[(x[:, 3] - 2 * x[:, 4] > 0).astype(int)]
    found = linear_probe(x * 1e-3, labels)
    assert found.accuracy > 0.95 and found.low < found.accuracy < found.high
    assert found.control == pytest.approx(0.5, abs=0.08) and found.selectivity == found.accuracy - found.control
    assert found.majority == max(np.mean(labels == "yes"), np.mean(labels == "no")) and "majority" in str(found)
    chance = linear_probe(x, rng.integers(0, 3, 600))
    assert chance.low < 0.34 < chance.high


def test_control_tasks_tell_memory_from_structure():
    """One-hot word identities carry no structure: the probe learns the control task as well as any other."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 20, 800)
    table = rng.integers(0, 2, 20)
    found = linear_probe(np.eye(20)[words], table[words], types=words)
    assert found.accuracy > 0.98 and found.control > 0.98
    dense = rng.normal(size=(20, 3))
    dense[:, 0] = 3 * (2 * table - 1)
    selective = linear_probe(dense[words], table[words], types=words)
    assert selective.accuracy > 0.98 and selective.selectivity > 0.1
    by_heart = linear_probe(rng.normal(size=(50, 80)), np.arange(50) % 2)
    assert by_heart.memorised == pytest.approx(1.0) and "by heart" in by_heart.notes[0]


def test_positions_share_labels_and_folds():
    """Copies of a sample in training and test folds would give random labels away."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1, 30)).repeat(8, 1).reshape(480, 30)
    labels = np.arange(60) % 2
    found = linear_probe(x, labels, places=8, strength=1e3)
    assert found.accuracy < 0.75 and found.samples == 60
    assert linear_probe(x, labels.repeat(8), places=8, strength=1e3).accuracy == found.accuracy


@pytest.mark.parametrize(("rate", "count"), [(0.0, 10), (0.3, 50), (1.0, 7)])
def test_intervals_are_wilsons(rate, count):
    wanted = binomtest(round(rate * count), count).proportion_ci(0.95, "wilson")
    assert wilson(rate, count) == pytest.approx((wanted.low, wanted.high))


def test_bad_input_is_named():
    x = np.random.default_rng(0).normal(size=(20, 3))
    for call, error in (
        (lambda: linear_probe(x, np.zeros(20)), DataError),
        (lambda: linear_probe(x, np.arange(19)), ShapeError),
        (lambda: linear_probe(x, np.arange(20) % 2, folds=21), DataError),
        (lambda: linear_probe(x, np.arange(20) % 2, types=np.arange(3)), ShapeError),
        (lambda: linear_probe(x, np.arange(20) % 2, places=3), ShapeError),
        (lambda: linear_probe(np.where(x > 1, np.nan, x), np.arange(20) % 2), DataError),
        (lambda: linear_probe(x[:3], [0, 1, 0]), DataError),
    ):
        with pytest.raises(error):
            call()
    rare = linear_probe(x, np.arange(20) == 0, folds=4)
    assert rare.majority == 0.95

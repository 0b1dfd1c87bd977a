"""Errors of reconstructions whose linear share is known."""

import numpy as np
import pytest

from ascertain.errors import DataError, ShapeError
from ascertain.probes.dictionaries import reconstruction_error


def test_shrinkage_leaves_an_error_that_is_linear():
    x = np.random.default_rng(0).normal(size=(3000, 6))
    found = reconstruction_error(x, lambda rows: 0.8 * rows)
    assert found.vector == pytest.approx(1.0, abs=1e-9) and abs(found.norm) < 0.05
    assert reconstruction_error(x + 1, lambda rows: 0.8 * rows).norm > 0.5  # |x + 1|^2 grows with x
    spread = ((x - x.mean(0)) ** 2).sum()
    assert found.unexplained == pytest.approx(0.04 * (x**2).sum() / spread)


def test_isotropic_noise_is_foretold_by_nothing():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 20)) * 10
    noise = rng.normal(size=(4000, 20))
    found = reconstruction_error(signal + noise, signal)
    # Only the part of the noise outside the six directions of the signal can be read off, and all of it.
    assert found.vector == pytest.approx(14 / 20, abs=0.02) and abs(found.norm) < 0.05
    full = rng.normal(size=(4000, 20)) * 10
    found = reconstruction_error(full + noise, full)
    assert abs(found.vector) < 0.03 and abs(found.norm) < 0.03 and len(found.vector_folds) == 5


def test_scores_are_held_out():
    """In the fitted samples, 30 rows of 40 features would foretell any error exactly."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 40))
    found = reconstruction_error(x, x - rng.normal(size=(30, 40)))
    assert found.vector < 0.2 and "want of samples" in found.notes[0]
    rows = rng.normal(size=(40, 1, 30)).repeat(5, 1).reshape(200, 30)
    error = rng.normal(size=(40, 1, 30)).repeat(5, 1).reshape(200, 30)
    assert reconstruction_error(rows, rows - error, places=5).vector < 0.1 < reconstruction_error(rows, rows - error).vector


def test_perfect_and_bad_reconstructions():
    x = np.random.default_rng(0).normal(size=(20, 3))
    found = reconstruction_error(x, x)
    assert found.unexplained == 0 and found.vector == 1
    with pytest.raises(ShapeError):
        reconstruction_error(x, x[:, :2])
    for rows, other, options in ((x, x * np.nan, {}), (x[:3], x[:3], {}), (x, x, {"folds": 21}), (x, x, {"places": 3})):
        with pytest.raises(DataError):
            reconstruction_error(rows, other, **options)

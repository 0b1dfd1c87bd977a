"""What a linear classifier reads from a layer, beside what it learns by heart."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from ascertain.errors import DataError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.importing import undisturbed
from ascertain.probes.measure import checked, each_sample

__all__ = ["LinearProbe", "linear_probe", "wilson"]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Held-out accuracy of logistic regression on a layer, and of the same probe on a control task."""

    accuracy: float
    low: float
    """95 % interval (Wilson) over samples."""
    high: float
    control: float
    """Held-out accuracy on the control task."""
    memorised: float
    """Accuracy on the control task of the samples it was fitted on: what the probe learns by heart."""
    majority: float
    """Share of the commonest label."""
    samples: int
    notes: tuple[str, ...] = ()
    evidence: Evidence = Evidence.ESTIMATED

    @property
    def selectivity(self) -> float:
        """Accuracy beyond the control task's."""
        return self.accuracy - self.control

    def __str__(self) -> str:
        text = (
            f"accuracy {self.accuracy:.4f}, 95 % interval [{self.low:.4f}, {self.high:.4f}], control {self.control:.4f} "
            f"(memorised {self.memorised:.4f}), majority {self.majority:.4f}, evidence {self.evidence} from {self.samples} samples"
        )
        return "\n".join([text, *(f"  note: {note}" for note in self.notes)])


def wilson(rate: float, count: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927)."""
    z = float(norm.ppf(0.975))
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2))
    return max(0.0, min(rate, middle - half)), min(1.0, max(rate, middle + half))


def linear_probe(
    rows: np.ndarray,
    labels: Any,
    *,
    types: Any = None,
    places: int | None = None,
    folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
) -> LinearProbe:
    """Cross-validated accuracy of labels (n,) from rows (n, d), with a control task (Hewitt and Liang, 2019).

    The control task gives every one of ``types`` (n,), such as word identities, a random label of the same frequencies, so that it
    can only be learned by heart. Without types every sample is its own: then held-out control accuracy is chance and ``memorised``
    tells the probe's capacity. ``places`` rows of a sample (by default, as a capture says) share its label, or
    have one each, and stay in one fold. Features are standardised; ``strength`` is the inverse of the penalty. Raises DataError and
    ShapeError.
    """
    places = each_sample(places, rows)
    x = checked(rows)
    y = np.asarray(labels).reshape(-1)
    count = len(x) // places
    y = np.repeat(y, places) if len(y) == count else y
    if len(x) % places or len(y) != len(x):
        raise ShapeError(f"{len(x)} rows with {places} places and {len(y)} labels do not fit; give one for each sample or row.")
    names, codes, sizes = np.unique(y, return_inverse=True, return_counts=True)
    if len(names) < 2 or not 2 <= folds <= count:
        raise DataError(f"{len(names)} label(s) and {folds} folds of {count} samples cannot be probed; give at least 2 of each.")
    rng = np.random.default_rng(seed)
    kinds = np.unique(np.arange(len(x)) if types is None else np.asarray(types).reshape(-1), return_inverse=True)[1]
    if len(kinds) != len(x):
        raise ShapeError(f"{len(kinds)} types and {len(x)} rows do not fit; give one type for each row.")
    shuffled = rng.choice(codes, kinds.max() + 1)[kinds]
    part = np.repeat(rng.permutation(count) % folds, places)
    score, _ = _validated(x, codes, part, folds, strength)
    control, memorised = _validated(x, shuffled, part, folds, strength)
    notes = (f"{x.shape[1]} features of {count} samples can be told apart by heart",) if x.shape[1] >= count else ()
    return LinearProbe(score, *wilson(score, count), control, memorised, float(sizes.max() / len(x)), count, notes)


def _validated(x: np.ndarray, codes: np.ndarray, part: np.ndarray, folds: int, strength: float) -> tuple[float, float]:
    """Accuracy on held-out folds, and on those that were fitted."""
    with undisturbed():
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    right = fitted = 0.0
    for fold in range(folds):
        train, test = part != fold, part == fold
        if len(np.unique(codes[train])) < 2:
            right, fitted = right + float((codes[test] == codes[train][0]).sum()), fitted + 1.0
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # accuracy settles long before the weights of separable classes
            probe.fit(x[train].astype(np.float64), codes[train])
        right += float((probe.predict(x[test]) == codes[test]).sum())
        fitted += float((probe.predict(x[train]) == codes[train]).mean())
    return right / len(x), fitted / folds

"""Reliability branching: pseudo-costs of neurons, measured by looking ahead until they can be trusted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["Reliability"]

_FLOOR = 1e-4
_INFERENCE = 0.1


class Reliability:
    """What branching on each neuron gained so far, per side (0: z <= 0, 1: z >= 0).

    A gain is the closed share of the distance to zero, per unit of violation, plus a tenth of the share of unstable neurons
    that propagation fixed. A neuron's score is the product of both sides' expected gains.
    """

    def __init__(self, neurons: int, trusted: int = 1, looks: int = 8) -> None:
        self.gain = np.zeros((2, neurons))
        self.fixed = np.zeros((2, neurons))
        self.count = np.zeros((2, neurons))
        self.trusted, self.looks = trusted, looks

    def learn(self, neuron: int, side: int, gain: float, violation: float, fixed: float) -> None:
        """Adds one observation."""
        self.gain[side, neuron] += min(max(gain, 0.0), 1.0) / max(violation, 1e-9) if violation > 0 else 0.0
        self.fixed[side, neuron] += fixed
        self.count[side, neuron] += 1

    def expected(self, neuron: int, side: int, violation: float) -> float:
        """Expected gain of one side."""
        return float(self._expected(np.array([violation]), np.array([neuron]))[side, 0])

    def _expected(self, violation: np.ndarray, neurons: np.ndarray) -> np.ndarray:
        count, gain, fixed = self.count[:, neurons], self.gain[:, neurons], self.fixed[:, neurons]
        seen = np.maximum(self.count.sum(axis=1, keepdims=True), 1.0)
        usual = self.gain.sum(axis=1, keepdims=True) / seen
        common = self.fixed.sum(axis=1, keepdims=True) / seen
        known = np.maximum(count, 1.0)
        rate = np.where(count > 0, gain / known, np.where(usual > 0, usual, 1.0))
        return np.asarray(rate * violation + _INFERENCE * np.where(count > 0, fixed / known, common))

    def choose(self, violation: np.ndarray, unstable: np.ndarray, look: Callable[[int], None]) -> int:
        """The neuron to branch on: among those that the relaxation violates if there are any, else among all unstable ones."""
        found = np.flatnonzero(unstable & (violation > 1e-9))
        found = found if len(found) else np.flatnonzero(unstable)
        order = found[np.argsort(-self._score(violation, found), kind="stable")]
        fresh = [int(j) for j in order if self.count[:, j].min() < self.trusted][: self.looks]
        for j in fresh:
            look(j)
        return int(order[np.argmax(self._score(violation, order))])

    def _score(self, violation: np.ndarray, neurons: np.ndarray) -> np.ndarray:
        expected = self._expected(violation[neurons], neurons)
        return np.asarray(np.maximum(expected[0], _FLOOR) * np.maximum(expected[1], _FLOOR))

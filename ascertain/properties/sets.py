"""Sets of inputs: box, Lp ball, box with linear constraints. Flat float64 points in the network's row-major input order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ascertain.errors import DataError, PropertyError, ShapeError

__all__ = ["Box", "InputSet", "LpBall", "Polytope", "rows_at_most"]

Vector = NDArray[np.float64]


def _finite(name: str, values: Any, ndim: int = 1) -> np.ndarray:
    """A read-only contiguous float64 copy; raises DataError at the first entry that is not finite."""
    array = np.array(values, dtype=np.float64, order="C")
    array = array.reshape(-1) if ndim == 1 else array
    if array.ndim != ndim:
        raise ShapeError(f"{name} has {array.ndim} axes, {ndim} are needed; reshape it first.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = ", ".join(map(str, bad[0]))
        raise DataError(f"{name}[{where}] is {array[tuple(bad[0])]}; give a finite number.")
    array.setflags(write=False)
    return array


def _gamma(terms: int) -> float:
    """Twice the usual gamma_n = n u / (1 - n u): covers a float64 sum of ``terms`` products and the bound's own rounding."""
    return (terms + 8) * 2.0**-52


_TINY = 2.0**-1000


def rows_at_most(matrix: np.ndarray, x: Vector, bound: Vector, strict: np.ndarray | None = None) -> np.ndarray:
    """Whether each row satisfies ``matrix @ x <= bound`` (``<`` where strict), in exact arithmetic on the float64 numbers."""
    value = matrix @ x - bound
    error = _gamma(matrix.shape[1]) * (np.abs(matrix) @ np.abs(x) + np.abs(bound)) + _TINY
    result = value < 0
    for r in np.flatnonzero(~(np.abs(value) > error)):
        used = np.flatnonzero(matrix[r])
        exact = sum((Fraction(float(matrix[r, j])) * Fraction(float(x[j])) for j in used), -Fraction(float(bound[r])))
        result[r] = exact < 0 if strict is not None and strict[r] else exact <= 0
    return result


def _safe(value: np.ndarray, error: np.ndarray | float) -> Vector:
    """``value`` minus its error bound; minus infinity where floats overflowed."""
    bound = value - error
    return np.where(np.isfinite(bound), bound, -np.inf)


def _add(a: np.ndarray, b: np.ndarray | float, up: bool) -> np.ndarray:
    """The sum rounded up or down: the float64 sum, moved one step only where it was inexact in the wrong direction."""
    total = a + b
    part = total - a
    rest = (a - (total - part)) + (b - part)
    return np.where(rest > 0 if up else rest < 0, np.nextafter(total, np.inf if up else -np.inf), total)


class InputSet(ABC):
    """A closed, bounded, non-empty convex set of inputs; instances are valid by construction."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of coordinates n."""

    @abstractmethod
    def box(self) -> Box:
        """A box around the set, rounded outward."""

    @abstractmethod
    def contains(self, x: np.ndarray, tolerance: float = 0.0) -> bool:
        """Whether a point is in the set, decided exactly; with a tolerance, whether it is up to that much outside."""

    @abstractmethod
    def project(self, x: np.ndarray) -> Vector:
        """A point of the set near x; the nearest up to rounding for boxes and unclipped balls."""

    @abstractmethod
    def center(self) -> Vector:
        """A point well inside."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Random points of the set, (n, size)."""

    @abstractmethod
    def support(self, rows: np.ndarray) -> Vector:
        """Lower bounds of ``rows @ x`` over the set for rows (R, size), rounded down: evidence PROVED."""

    def _flat(self, x: np.ndarray) -> Vector:
        point = np.asarray(x, dtype=np.float64).reshape(-1)
        if point.size != self.size:
            raise ShapeError(f"a point has {point.size} numbers, the input set {self.size} coordinates; check the shape.")
        return point

    def _near(self, x: np.ndarray) -> Vector:
        point = self._flat(x)
        if not np.all(np.isfinite(point)):
            raise DataError(f"coordinate {int(np.argmin(np.isfinite(point)))} of a point to project is not finite; correct it.")
        return point

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        matrix = _finite("rows", rows, ndim=2)
        if matrix.shape[1] != self.size:
            raise ShapeError(f"rows have {matrix.shape[1]} columns, the input set has {self.size} coordinates; check the shape.")
        return matrix


@dataclass(frozen=True, eq=False)
class Box(InputSet):
    """{x : lower <= x <= upper}. Raises DataError for NaN, infinities and lower > upper, ShapeError for unequal sizes."""

    lower: np.ndarray
    upper: np.ndarray

    def __post_init__(self) -> None:
        lower, upper = _finite("lower", self.lower), _finite("upper", self.upper)
        if lower.size != upper.size:
            raise ShapeError(f"a box has {lower.size} lower and {upper.size} upper bounds; give as many of both.")
        if lower.size == 0:
            raise ShapeError("a box has no coordinates; give at least one.")
        bad = np.flatnonzero(lower > upper)
        if len(bad):
            i = bad[0]
            raise DataError(f"the box is empty: lower[{i}] = {lower[i]} is above upper[{i}] = {upper[i]}; swap or correct them.")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @property
    def size(self) -> int:
        return self.lower.size

    def box(self) -> Box:
        return self

    def contains(self, x: np.ndarray, tolerance: float = 0.0) -> bool:
        point = self._flat(x)
        return bool(np.all((point >= self.lower - tolerance) & (point <= self.upper + tolerance)))

    def project(self, x: np.ndarray) -> Vector:
        return np.clip(self._near(x), self.lower, self.upper)

    def center(self) -> Vector:
        return np.clip(self.lower / 2 + self.upper / 2, self.lower, self.upper)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        share = rng.random((n, self.size))
        return np.clip(self.lower * (1 - share) + self.upper * share, self.lower, self.upper)

    def support(self, rows: np.ndarray) -> Vector:
        matrix = self._rows(rows)
        value = np.maximum(matrix, 0) @ self.lower + np.minimum(matrix, 0) @ self.upper
        largest = np.maximum(np.abs(self.lower), np.abs(self.upper))
        return _safe(value, _gamma(2 * self.size) * (np.abs(matrix) @ largest) + _TINY)

    def __str__(self) -> str:
        widest = float(np.max(self.upper - self.lower))
        return f"box of {self.size} coordinates, {int(np.sum(self.upper > self.lower))} free, widest {widest:.4g}"


def _pull(point: Vector, anchor: Vector, contains: Callable[[Vector], bool]) -> Vector:
    """The last point on the way from an inner anchor to ``point`` that is still contained, by bisection."""
    if contains(point):
        return point
    inside, outside, best = 0.0, 1.0, anchor
    for shrink in (2.0**-50, 2.0**-44, 2.0**-36):
        trial = anchor + (1 - shrink) * (point - anchor)
        if contains(trial):
            return trial
    for _ in range(40):
        middle = (inside + outside) / 2
        trial = anchor + middle * (point - anchor)
        if contains(trial):
            inside, best = middle, trial
        else:
            outside = middle
    return best


@dataclass(frozen=True, eq=False)
class LpBall(InputSet):
    """{x : ||x - center||_p <= radius}, p in {1, 2, inf}, optionally cut with the box ``clip`` (a range of pixel values, say)."""

    middle: np.ndarray
    radius: float
    p: float = np.inf
    clip: Box | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "middle", _finite("center", self.middle))
        if self.middle.size == 0:
            raise ShapeError("a ball has no coordinates; give at least one.")
        if not (np.isfinite(self.radius) and self.radius >= 0):
            raise DataError(f"the radius of a ball is {self.radius}; give a finite number that is not negative.")
        if self.p not in (1, 2, np.inf):
            raise PropertyError(f"the norm of a ball is {self.p}; choose 1, 2 or inf.")
        object.__setattr__(self, "radius", float(self.radius))
        object.__setattr__(self, "p", float(self.p))
        if self.clip is not None:
            if self.clip.size != self.size:
                raise ShapeError(f"a ball of {self.size} coordinates is clipped to a box of {self.clip.size}; give equal sizes.")
            if not self._in_ball(self.center()):
                i = int(np.argmax(np.abs(self.center() - self.middle)))
                raise DataError(
                    f"the ball lies outside its clip: coordinate {i} of its center is {self.middle[i]}, the clip is "
                    f"[{self.clip.lower[i]}, {self.clip.upper[i]}] and the radius {self.radius}; move the center or widen the clip."
                )

    @property
    def size(self) -> int:
        return self.middle.size

    @cached_property
    def _box(self) -> Box:
        lower, upper = _add(self.middle, -self.radius, up=False), _add(self.middle, self.radius, up=True)
        clip = self.clip
        return Box(lower, upper) if clip is None else Box(np.maximum(lower, clip.lower), np.minimum(upper, clip.upper))

    @cached_property
    def _inner(self) -> Box:
        """The largest float64 box inside the cube of this radius and the clip; holds the center's nearest point of the clip."""
        lower, upper = _add(self.middle, -self.radius, up=True), _add(self.middle, self.radius, up=False)
        clip = self.clip
        return Box(lower, upper) if clip is None else Box(np.maximum(lower, clip.lower), np.minimum(upper, clip.upper))

    def box(self) -> Box:
        return self._box

    def _in_ball(self, x: Vector, tolerance: float = 0.0) -> bool:
        """Exact: floats decide unless they are too close to tell, then rational arithmetic does."""
        if not np.all(np.isfinite(x)):
            return False
        gap = np.abs(x - self.middle)
        scale = max(self.radius + tolerance, float(np.max(gap)), _TINY)
        shrunk = gap / scale
        norm = {1.0: np.sum(shrunk), 2.0: np.sqrt(np.sum(shrunk**2))}.get(self.p, np.max(shrunk))
        limit = (self.radius + tolerance) / scale
        if abs(norm - limit) > _gamma(self.size) * (norm + limit):
            return bool(norm < limit)
        exact = [abs(Fraction(float(a)) - Fraction(float(b))) for a, b in zip(x, self.middle, strict=True)]
        radius = Fraction(self.radius) + Fraction(tolerance)
        if self.p == 1:
            return bool(sum(exact) <= radius)
        return bool(sum(e * e for e in exact) <= radius * radius) if self.p == 2 else max(exact) <= radius

    def contains(self, x: np.ndarray, tolerance: float = 0.0) -> bool:
        point = self._flat(x)
        if self.p == np.inf and tolerance == 0:
            return self._inner.contains(point)
        return (self.clip is None or self.clip.contains(point, tolerance)) and self._in_ball(point, tolerance)

    def _toward(self, point: Vector, share: float) -> Vector:
        """The minimiser of |x - point|^2 plus a multiple of the p-norm's term over the clip; the multiple falls with ``share``."""
        gap = point - self.middle
        if self.p == 2:
            near = self.middle + share * gap
        else:
            near = self.middle + np.sign(gap) * np.maximum(np.abs(gap) - (1 - share) * np.max(np.abs(gap)), 0)
        return np.asarray(near) if self.clip is None else np.clip(near, self.clip.lower, self.clip.upper)

    def project(self, x: np.ndarray) -> Vector:
        point = self._near(x)
        if self.p == np.inf:
            return self._inner.project(point)
        if self.contains(point):
            return point
        # Both constraints are separable up to one multiplier, so the nearest point is found by bisection on it. The radius is
        # smaller by the slack of the membership test, which spares a slow exact decision.
        radius, order = self.radius * (1 - 4 * _gamma(self.size)), int(self.p)
        low, high = 0.0, 1.0
        for _ in range(100):
            middle = (low + high) / 2
            if np.linalg.norm(self._toward(point, middle) - self.middle, ord=order) <= radius:
                low = middle
            else:
                high = middle
        return _pull(self._toward(point, low), self.center(), self.contains)

    def center(self) -> Vector:
        return self.middle if self.clip is None else self.clip.project(self.middle)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        if self.p == np.inf:
            return self._inner.sample(rng, n)
        raw = rng.standard_normal((n, self.size)) if self.p == 2 else rng.laplace(size=(n, self.size))
        norms = np.linalg.norm(raw, ord=int(self.p), axis=1, keepdims=True)
        share = rng.random((n, 1)) ** (1 / self.size)
        points = self.middle + self.radius * share * raw / np.maximum(norms, _TINY)
        return np.stack([self.project(x) for x in points]) if n else points

    def support(self, rows: np.ndarray) -> Vector:
        matrix = self._rows(rows)
        around = self._box.support(matrix)
        if self.p == np.inf:
            return around
        largest = np.max(np.abs(matrix), axis=1)
        # Dividing first keeps squares from over- and underflowing.
        scale = np.maximum(largest, _TINY)
        dual = largest if self.p == 1 else scale * np.linalg.norm(matrix / scale[:, None], axis=1)
        error = _gamma(2 * self.size) * (np.abs(matrix) @ np.abs(self.middle) + self.radius * dual) + _TINY
        return np.maximum(around, _safe(matrix @ self.middle - self.radius * dual, error))

    def __str__(self) -> str:
        return f"l{self.p:g} ball of radius {self.radius:g} in {self.size} coordinates{'' if self.clip is None else ', clipped'}"


@dataclass(frozen=True, eq=False)
class Polytope(InputSet):
    """{x in around : matrix @ x <= bound}, matrix (m, n). Raises PropertyError when that is proved empty."""

    around: Box
    matrix: np.ndarray
    bound: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", _finite("matrix", self.matrix, ndim=2))
        object.__setattr__(self, "bound", _finite("bound", self.bound))
        if self.matrix.shape != (self.bound.size, self.around.size):
            raise ShapeError(
                f"a polytope in {self.around.size} coordinates has a matrix of shape {self.matrix.shape} "
                f"and {self.bound.size} bounds; give shape ({self.bound.size}, {self.around.size})."
            )
        if self._solved[1]:
            raise PropertyError("the linear constraints on the inputs have no solution inside the box; correct one of them.")

    @property
    def size(self) -> int:
        return self.around.size

    def box(self) -> Box:
        return self.around

    @cached_property
    def _scaled(self) -> tuple[Vector, Vector, Vector]:
        """(middle and half widths of the box, norms of the rows) for x = middle + half z: programs in z have unit scale."""
        half, middle = self.around.upper / 2 - self.around.lower / 2, self.around.center()
        gap = np.abs(self.bound - self.matrix @ middle)
        return middle, half, np.maximum(np.linalg.norm(self.matrix * half, axis=1), np.maximum(1e-4 * gap, _TINY))

    def _program(self, cost: Vector, depth: float) -> tuple[Vector | None, Vector]:
        """(x, row weights) at the minimum of cost @ x - depth * t, t the distance that all scaled rows keep; x None on failure."""
        from scipy.optimize import linprog

        middle, half, norms = self._scaled
        unit = max(float(np.max(np.abs(cost * half))), depth, _TINY)
        answer = linprog(
            np.append(cost * half, -depth) / unit,
            A_ub=np.c_[self.matrix * half / norms[:, None], np.full(len(norms), float(depth > 0))],
            b_ub=(self.bound - self.matrix @ middle) / norms,
            bounds=[*[(-1.0, 1.0)] * self.size, (None, 1.0)],
            method="highs",
        )
        if answer.x is None:
            return None, np.zeros(len(norms))
        return self.around.project(middle + half * answer.x[:-1]), np.maximum(-answer.ineqlin.marginals, 0) * unit / norms

    @cached_property
    def _solved(self) -> tuple[Vector, bool]:
        """(the point that is deepest inside the constraints, whether the set is PROVED empty)."""
        # Multipliers of a program whose greatest depth is negative combine the rows to a contradiction.
        point, weights = self._program(np.zeros(self.size), 1.0)
        if point is None:
            return self.around.center(), False
        return point, float(self._dual(np.zeros((1, self.size)), weights[None])[0]) > 0

    def _dual(self, rows: np.ndarray, weights: np.ndarray) -> Vector:
        """Weak duality: for weights >= 0, rows @ x >= (rows + weights @ matrix) @ x - weights @ bound, minimised over the box."""
        combined = rows + weights @ self.matrix
        error = _gamma(len(self.bound)) * (np.abs(rows) + weights @ np.abs(self.matrix)) + _TINY
        largest = np.maximum(np.abs(self.around.lower), np.abs(self.around.upper))
        least, offset = self.around.support(combined), weights @ self.bound
        slack = error @ largest + _gamma(len(self.bound)) * (weights @ np.abs(self.bound))
        return _safe(least - offset, slack + 2.0**-48 * (np.abs(least) + np.abs(offset) + slack) + _TINY)

    def contains(self, x: np.ndarray, tolerance: float = 0.0) -> bool:
        point = self._flat(x)
        return self.around.contains(point, tolerance) and bool(np.all(rows_at_most(self.matrix, point, self.bound + tolerance)))

    def project(self, x: np.ndarray) -> Vector:
        """A point near x by cyclic projections, pulled inside; check it with `contains` where the set has no interior."""
        point = self.around.project(x)
        norms = np.maximum(np.sum(self.matrix**2, axis=1), _TINY)
        for _ in range(100):
            if self.contains(point):
                return point
            for row, bound, norm in zip(self.matrix, self.bound, norms, strict=True):
                over = float(row @ point) - bound
                if over > 0:
                    point = point - row * (over / norm)
            point = self.around.project(point)
        return _pull(point, self.center(), self.contains)

    def center(self) -> Vector:
        return self._solved[0]

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        anchor = self.center()
        rays = self.around.sample(rng, n) - anchor
        room, speed = np.maximum(self.bound - self.matrix @ anchor, 0), rays @ self.matrix.T
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.min(np.where(speed > 0, room / speed, 1.0), axis=1, initial=1.0)
        return np.stack([self.project(x) for x in anchor + rays * reach[:, None]]) if n else rays

    def support(self, rows: np.ndarray) -> Vector:
        matrix = self._rows(rows)
        weights = np.array([self._program(row, 0.0)[1] for row in matrix]).reshape(len(matrix), len(self.bound))
        return np.maximum(self.around.support(matrix), self._dual(matrix, weights))

    def __str__(self) -> str:
        return f"{self.around} with {len(self.bound)} linear constraints"

"""Small random piecewise-linear networks, input sets and properties, and their comparison with exact mixed-integer programs."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from ascertain.certify.dense import DenseForm, dense_form
from ascertain.certify.milp import minimum_margin
from ascertain.graph.graph import Builder, Graph
from ascertain.operators.affine import Dense, Sum
from ascertain.operators.piecewise import Relu
from ascertain.properties.property import Atoms, Case
from ascertain.properties.sets import Box

CLOSE = 1e-5
"""Margins nearer to zero than this are too close for the reference to call."""


def comparisons() -> range:
    """Seeds of the comparison with the reference: 100, or as many as ASCERTAIN_RANDOM_NETWORKS says."""
    return range(int(os.environ.get("ASCERTAIN_RANDOM_NETWORKS", "100")))


def random_graph(rng: np.random.Generator, depth: int | None = None) -> Graph:
    """1 to 4 inputs, 1 to 3 ReLU layers of 1 to 7 neurons, 1 to 3 outputs; some weights zero or whole numbers, some skips."""
    depth = int(rng.integers(1, 4)) if depth is None else depth
    whole = rng.random() < 0.2
    builder = Builder()
    size = int(rng.integers(1, 5))
    x = value = builder.input((size,))
    for _ in range(depth):
        width = int(rng.integers(1, 8))
        value = builder(Relu(), builder(_dense(rng, value.shape[0], width, whole), value))
    outputs = int(rng.integers(1, 4))
    y = builder(_dense(rng, value.shape[0], outputs, whole), value)
    if rng.random() < 0.25:
        y = builder(Sum((1.0, 1.0)), y, builder(_dense(rng, size, outputs, whole), x))
    return builder.graph(x, y)


def _dense(rng: np.random.Generator, inputs: int, outputs: int, whole: bool) -> Dense:
    weight, bias = rng.normal(size=(outputs, inputs)), rng.normal(size=outputs) * 0.5
    if whole:
        weight, bias = np.round(weight * 1.5), np.round(bias * 2)
    weight[rng.random(weight.shape) < 0.15] = 0.0
    return Dense(weight.astype(np.float32), bias.astype(np.float32))


def random_form(rng: np.random.Generator, depth: int | None = None) -> DenseForm:
    """The dense form of a random graph."""
    form = dense_form(random_graph(rng, depth))
    assert form is not None
    return form


def outputs(form: DenseForm, x: np.ndarray) -> np.ndarray:
    """Outputs (B, n_out) of inputs (B, n_in), also where no output depends on the input."""
    return np.broadcast_to(form(x), (len(x), len(form.layers[-1].bias)))


def random_box(rng: np.random.Generator, size: int) -> Box:
    """A box around a random point; one coordinate in ten is a point."""
    centre = np.round(rng.normal(size=size), 3)
    radius = rng.choice([0.05, 0.3, 1.0, 2.0]) * rng.random(size)
    radius[rng.random(size) < 0.1] = 0.0
    return Box(centre - radius, centre + radius)


def random_case(rng: np.random.Generator, form: DenseForm) -> Case:
    """One or two conjunctions of up to three atoms whose bounds lie near the sampled extremes, so that both verdicts are common."""
    box = random_box(rng, form.input_size)
    y = outputs(form, box.sample(rng, 200))
    unsafe = []
    for _ in range(int(rng.integers(1, 3))):
        matrix = np.round(rng.normal(size=(int(rng.integers(1, 4)), y.shape[1])), 2)
        inputs = np.round(rng.normal(size=(len(matrix), form.input_size)), 2) if rng.random() < 0.2 else None
        values = y @ matrix.T
        bound = values[np.argmin(values.max(axis=1))] + np.round(rng.normal(size=len(matrix)) * 0.2, 2)
        unsafe.append(Atoms(matrix, bound, input_matrix=inputs))
    return Case(box, tuple(unsafe))


def compare_with_reference(decide: Callable[[DenseForm, Case], str], seed: int) -> str:
    """Asserts that ``decide`` (``holds``, ``violated`` or ``unknown``) agrees with the exact optimum; returns what was right."""
    rng = np.random.default_rng(seed)
    form = random_form(rng)
    case = random_case(rng, form)
    margin, _ = minimum_margin(form, case)
    answer = decide(form, case)
    if abs(margin) > CLOSE:
        assert answer == ("violated" if margin <= 0 else "holds"), f"seed {seed}: {answer}, exact margin {margin}"
    return answer

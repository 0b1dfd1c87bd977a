"""Input-split verdicts agree with exact mixed-integer optimisation, leaves cover the input set, and every exit is clean."""

import time
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from ascertain.certify.dense import DenseForm, DenseLayer
from ascertain.certify.kernels.pack import pack
from ascertain.certify.result import Progress, Status
from ascertain.certify.search.input_split import BoxLeaf, SplitHooks, SplitOptions, SplitResult, input_split
from ascertain.properties.property import Atoms, Case
from ascertain.properties.sets import Box


def random_form(rng: np.random.Generator, inputs: int, widths: tuple[int, ...], outputs: int) -> DenseForm:
    layers = []
    for k, (size, before) in enumerate(zip((*widths, outputs), (inputs, *widths), strict=True)):
        sources = (0, k) if k else (0,)
        blocks = tuple(rng.normal(size=(size, inputs if s == 0 else before)) for s in sources)
        layers.append(DenseLayer(sources, blocks, (None,) * len(blocks), rng.normal(size=size), np.zeros(size)))
    return DenseForm(inputs, tuple(layers), tuple((k, w) for k, w in enumerate(widths)))


def smallest_largest_row(form: DenseForm, atoms: Atoms, lower: np.ndarray, upper: np.ndarray) -> float:
    """Minimum over the box of the largest row of ``matrix @ y - bound``, by mixed-integer programming (big-M)."""
    sizes = [layer.size for layer in form.layers]
    n, hidden = form.input_size, sum(sizes[:-1])
    # Variables: x, v of every ReLU, y, switches of every ReLU, the largest row.
    y_at, d_at = n + hidden, n + hidden + sizes[-1]
    count = d_at + hidden + 1
    at = [0, *(n + int(s) for s in np.cumsum([0, *sizes[:-2]]))] if hidden else [0]
    rows, low, high = [], [], []

    def add(row: np.ndarray, a: float, b: float) -> None:
        rows.append(row), low.append(a), high.append(b)

    big = 1e3
    offset = 0
    for k, layer in enumerate(form.layers):
        for i in range(layer.size):
            z = np.zeros(count)
            for s, block in zip(layer.sources, layer.blocks, strict=True):
                z[at[s] : at[s] + block.shape[1]] += block[i]
            if k == len(form.layers) - 1:
                z[y_at + i] -= 1
                add(z, -layer.bias[i], -layer.bias[i])
                continue
            v, d = np.zeros(count), np.zeros(count)
            v[n + offset], d[d_at + offset] = 1, big
            add(v - z, layer.bias[i], np.inf)
            add(v - z + d, -np.inf, layer.bias[i] + big)
            add(v - d, -np.inf, 0)
            offset += 1
    for c, b in zip(atoms.matrix, atoms.bound, strict=True):
        row = np.zeros(count)
        row[y_at : y_at + len(c)], row[-1] = c, -1
        add(row, -np.inf, b)
    bounds = Bounds(
        np.concatenate([lower, np.zeros(hidden), np.full(sizes[-1], -np.inf), np.zeros(hidden), [-np.inf]]),
        np.concatenate([upper, np.full(hidden, np.inf), np.full(sizes[-1], np.inf), np.ones(hidden), [np.inf]]),
    )
    integral = np.concatenate([np.zeros(d_at), np.ones(hidden), [0]])
    cost = np.zeros(count)
    cost[-1] = 1
    found = milp(cost, constraints=LinearConstraint(np.array(rows), low, high), bounds=bounds, integrality=integral)
    assert found.status == 0
    return float(found.fun)


def solve(form: DenseForm, case: Case, options: SplitOptions | None = None, **hooks: object) -> SplitResult:
    def confirm(x: np.ndarray) -> bool:
        y = form(x[None])[0]
        return case.set.contains(x) and any((a.matrix @ y <= a.bound).all() for a in case.unsafe)

    return input_split(form, case, options or SplitOptions(), SplitHooks(**{"confirm": confirm, **hooks}))  # type: ignore[arg-type]


def random_case(seed: int) -> tuple[DenseForm, list[Atoms], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs, outputs = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    widths = tuple(int(w) for w in rng.integers(1, 7, int(rng.integers(0, 3))))
    form = random_form(rng, inputs, widths, outputs)
    lower = rng.normal(size=inputs)
    upper = lower + rng.choice([0.0, 0.1, 1.0, 2.0], inputs)
    atoms = [Atoms(rng.normal(size=(m, outputs)), 2 * rng.normal(size=m)) for m in rng.integers(1, 4, int(rng.integers(1, 3)))]
    return form, atoms, lower, upper


@pytest.mark.parametrize("block", range(4))
def test_verdicts_agree_with_milp(block: int) -> None:
    answers = []
    for seed in range(15 * block, 15 * block + 15):
        form, atoms, lower, upper = random_case(seed)
        exact = min(smallest_largest_row(form, a, lower, upper) for a in atoms)
        if abs(exact) < 1e-5:
            continue
        result = solve(form, Case(Box(lower, upper), tuple(atoms)), SplitOptions(deadline=time.perf_counter() + 60))
        assert result.status == (Status.HOLDS if exact > 0 else Status.VIOLATED)
        answers.append(result.status)
        if result.status == Status.HOLDS:
            assert result.worst <= exact + 1e-6 and result.share == pytest.approx(1.0)
    assert len(set(answers)) == 2


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_thin_margins_are_decided_on_the_right_side(gap: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        form = random_form(rng, 2, (4, 4), 1)
        lower, upper = -np.ones(2), np.ones(2)
        least = smallest_largest_row(form, Atoms(np.ones((1, 1)), np.zeros(1)), lower, upper)
        below = Case(Box(lower, upper), (Atoms(np.ones((1, 1)), np.array([least - gap])),))
        above = Case(Box(lower, upper), (Atoms(np.ones((1, 1)), np.array([least + gap])),))
        limit = SplitOptions(deadline=time.perf_counter() + 20)
        assert solve(form, below, limit).status != Status.VIOLATED
        assert solve(form, above, limit).status != Status.HOLDS
        if gap > 1e-5:
            assert solve(form, below, limit).status == Status.HOLDS


def test_an_attained_bound_is_never_proved() -> None:
    """y = relu(x) reaches 0 exactly: y <= 0 is satisfiable at every x <= 0, and no float argument may exclude it."""
    one = np.ones((1, 1))
    layers = tuple(DenseLayer((k,), (one,), (None,), np.zeros(1), np.zeros(1)) for k in range(2))
    form = DenseForm(1, layers, ((0, 1),))
    case = Case(Box(np.zeros(1), np.ones(1)), (Atoms(one, np.zeros(1)),))
    assert solve(form, case).status == Status.VIOLATED
    refused = solve(form, case, SplitOptions(deadline=time.perf_counter() + 1), confirm=lambda x: False)
    assert refused.status == Status.UNKNOWN


def test_leaves_cover_the_box_for_every_conjunction() -> None:
    rng = np.random.default_rng(5)
    form = random_form(rng, 2, (6, 6), 1)
    lower, upper = -np.ones(2), np.ones(2)
    least = smallest_largest_row(form, Atoms(np.ones((1, 1)), np.zeros(1)), lower, upper)
    atoms = tuple(Atoms(np.ones((1, 1)), np.array([least - d])) for d in (0.01, 0.5))
    leaves: list[BoxLeaf] = []
    result = solve(form, Case(Box(lower, upper), atoms), leaf=leaves.append)
    assert result.status == Status.HOLDS
    for j in range(2):
        own = [leaf for leaf in leaves if leaf.conjunction == j]
        assert sum(float(np.prod(leaf.upper - leaf.lower)) for leaf in own) == pytest.approx(4.0)
        for x in rng.uniform(lower, upper, (300, 2)):
            assert any((leaf.lower <= x).all() and (x <= leaf.upper).all() for leaf in own)
        for leaf in own:
            assert leaf.weight.min() >= 0 and leaf.weight.sum() == pytest.approx(1.0)
            assert ((leaf.slope >= 0) & (leaf.slope <= 1)).all()
    assert len(leaves) > 4


def hard() -> tuple[DenseForm, Case]:
    """A bound that is attained on a whole edge of a six-dimensional box; no search ends, and nothing is confirmed."""
    rng = np.random.default_rng(0)
    form = random_form(rng, 6, (20, 20), 1)
    low = float(form(rng.uniform(-1, 1, (2000, 6))).min())
    return form, Case(Box(-np.ones(6), np.ones(6)), (Atoms(np.ones((1, 1)), np.array([low])),))


def test_ends_at_the_deadline_with_a_partial_answer() -> None:
    form, case = hard()
    shown: list[Progress] = []
    options = SplitOptions(deadline=time.perf_counter() + 0.5)
    result = solve(form, case, options, confirm=lambda x: False, progress=shown.append)
    assert (result.status, result.reason) == (Status.UNKNOWN, "timeout")
    assert result.visited > 0 and result.worst < 0 and 0 <= result.share < 1
    assert shown and shown[-1].open > 0


def test_stops_when_asked_and_within_its_memory() -> None:
    form, case = hard()
    calls = iter(range(10**9))
    result = solve(form, case, confirm=lambda x: False, stop=lambda: next(calls) > 5)
    assert (result.status, result.reason) == (Status.UNKNOWN, "interrupted")
    result = solve(form, case, SplitOptions(memory=0, deadline=time.perf_counter() + 60), confirm=lambda x: False)
    assert (result.status, result.reason) == (Status.UNKNOWN, "memory")


def test_errors_of_callbacks_reach_the_caller() -> None:
    form, case = hard()

    def refuse(x: np.ndarray) -> bool:
        raise RuntimeError("no replay")

    with pytest.raises(RuntimeError, match="no replay"):
        solve(form, case, confirm=refuse)


def test_runs_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, ascertain.certify.search.input_split, ascertain.certify.dense; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("net", "spec", "expected"),
    [
        ("1_1", "3", Status.HOLDS),
        ("5_5", "4", Status.HOLDS),
        ("1_7", "3", Status.VIOLATED),
        ("5_3", "2", Status.VIOLATED),
    ],
)
def test_acas_xu(shared: Path, tmp_path: Path, net: str, spec: str, expected: Status) -> None:
    import gzip

    from ascertain.certify.dense import dense_form
    from ascertain.graph import load, lower
    from ascertain.properties.reader import read_property

    folder = shared / "vnncomp" / "2024_acasxu_2023"
    (tmp_path / "net.onnx").write_bytes(gzip.decompress((folder / f"onnx/ACASXU_run2a_{net}_batch_2000.onnx.gz").read_bytes()))
    (tmp_path / "p.vnnlib").write_bytes(gzip.decompress((folder / f"vnnlib/prop_{spec}.vnnlib.gz").read_bytes()))
    form = dense_form(lower(load(tmp_path / "net.onnx")))
    assert form is not None
    (case,) = read_property(tmp_path / "p.vnnlib").cases
    assert solve(form, case, SplitOptions(deadline=time.perf_counter() + 60)).status == expected


def test_unused_neurons_are_ignored() -> None:
    form = random_form(np.random.default_rng(0), 2, (3,), 1)
    last = form.layers[-1]
    blocks = (last.blocks[0], np.array([[1.0, 0.0, -1.0]]))
    form = DenseForm(2, (form.layers[0], DenseLayer(last.sources, blocks, (None, None), last.bias, last.bias_error)), form.neurons)
    net = pack(form, (Atoms(np.ones((1, 1)), np.zeros(1)),), np.zeros(2), np.ones(2))
    assert net.unused[net.hidden[0] : net.hidden[1]].tolist() == [False, True, False]

"""Comparing outputs before a softmax: the same verdicts as after it; clear answers where it cannot be left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ascertain.certify.result import Status
from ascertain.certify.tail import compares, without_tail
from ascertain.certify.verify import falsify, verify
from ascertain.cli.main import run
from ascertain.errors import UnsupportedError
from ascertain.graph import load
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Dense, LogSoftmax, Relu, Reshape, Softmax
from ascertain.operators.base import Array, Operator, Shape
from ascertain.properties import read_property, robust
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box

BOX = Box(-np.ones(3), np.ones(3))


def network(rng: np.random.Generator, *tail: Operator) -> Graph:
    builder = Builder()
    x = builder.input((1, 3))
    value = builder(Relu(), builder(Dense(rng.normal(size=(6, 3)), rng.normal(size=6)), x))
    value = builder(Relu(), builder(Dense(rng.normal(size=(6, 6)), rng.normal(size=6)), value))
    value = builder(Dense(rng.normal(size=(4, 6)), rng.normal(size=4)), value)
    for operator in tail:
        value = builder(operator, value)
    return builder.graph(x, value)


def atoms(*rows: list[float], bound: float = 0.0, inputs: np.ndarray | None = None) -> Case:
    return Case(BOX, (Atoms(np.array(rows), np.full(len(rows), bound), input_matrix=inputs),))


def test_cut() -> None:
    rng = np.random.default_rng(0)
    for tail in ([Softmax(1)], [Reshape((4, 1)), Softmax(0), Reshape((4,)), LogSoftmax(0)]):
        cut = without_tail(network(rng, *tail))
        assert [node.operator.name for node in cut.nodes[: cut.output + 1]][-1] == "Dense"
    plain = network(rng)
    assert without_tail(plain) is plain
    for tail in ([Reshape((2, 2)), Softmax(1)], [Softmax(0)], [Softmax(1), Relu()]):
        grouped = network(rng, *tail)
        assert without_tail(grouped) is grouped


def test_network_that_is_only_a_softmax() -> None:
    builder = Builder()
    x = builder.input((3,))
    only = builder.graph(x, builder(Softmax(0), x))
    centre = np.array([0.0, 0.5, 2.0])
    assert verify(only, robust(centre, 0.7, label=2, classes=3), timeout=10).status is Status.HOLDS
    assert verify(only, robust(centre, 0.8, label=2, classes=3), timeout=10).status is Status.VIOLATED


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (atoms([1, -1, 0, 0]), True),
        (atoms([0, -2.5, 0, 2.5], [1, 0, -1, 0]), True),
        (atoms([1, -2, 0, 0]), False),
        (atoms([1, -1, 0, 0], bound=1e-300), False),
        (atoms([1, 0, 0, 0]), False),
        (atoms([2, -1, -1, 0]), False),
        (atoms([1, -1, 1, -1]), False),
        (atoms([0, 0, 0, 0]), False),
        (atoms([1, -1, 0, 0], [1, 0, 0, 0]), False),
        (atoms([1, -1, 0, 0], inputs=np.array([[0, 0, 1.0]])), False),
        (Case(BOX, (Atoms(np.zeros((0, 4)), np.zeros(0)),)), True),
    ],
)
def test_compares(case: Case, expected: bool) -> None:
    assert compares(case) is expected


@pytest.mark.parametrize("seed", range(12))
def test_same_verdict_as_without_softmax(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = rng.bit_generator.state
    graphs = []
    for tail in ((), (Softmax(1),), (LogSoftmax(1), Reshape((4,)))):
        rng.bit_generator.state = state
        graphs.append(network(rng, *tail))
    centre = rng.normal(size=3)
    label = int(graphs[0](centre[None, None]).argmax())
    prop = robust(centre, float(rng.choice([0.01, 0.1, 0.5])), label=label, classes=4)
    verdicts = [verify(g, prop, timeout=20, threads=1) for g in graphs]
    assert len({v.status for v in verdicts}) == 1 and verdicts[0].status is not Status.UNKNOWN
    for graph, verdict in zip(graphs, verdicts, strict=True):
        if verdict.witness is not None:
            y = graph(verdict.witness.input[None].astype(np.float64)).reshape(-1)
            assert y[np.arange(4) != label].max() >= y[label] - 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_properties_of_probabilities_themselves(seed: int) -> None:
    """Limits below and above the smallest value that a fine grid finds."""
    graph = network(np.random.default_rng(seed), Softmax(1))
    axis = np.linspace(-1, 1, 41)
    least = graph(np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 1, 3))[..., 0].min()
    for limit, expected in ((least * 0.8, Status.HOLDS), (least * 1.2, Status.VIOLATED)):
        verdict = verify(graph, Property((atoms([1, 0, 0, 0], bound=limit),)), timeout=20, threads=1)
        assert verdict.status is expected


@dataclass(frozen=True, eq=False)
class Strange(Operator):
    """Of no family, so nothing is known of it."""

    def infer(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *inputs: Array) -> Array:
        return inputs[0]


def test_operators_of_no_family_are_unsupported() -> None:
    graph = network(np.random.default_rng(1), Strange())
    prop = Property((atoms([1, 0, 0, 0], bound=-100.0),))
    verdict = verify(graph, prop, timeout=10)
    assert verdict.status is Status.UNKNOWN and verdict.reason.startswith("unsupported: Strange at node ")
    with pytest.raises(UnsupportedError, match="Strange"):
        falsify(graph, prop, timeout=10)


def test_command_line_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], name="last")], "softmax", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "softmax.onnx")
    box = "".join(
        f"(declare-const X_{i} Real)(declare-const Y_{i} Real)(assert (>= X_{i} {i}))(assert (<= X_{i} {i}))" for i in (0, 1)
    )
    for atom, code, said in (("(>= Y_0 0.9)", 0, "holds"), ("(>= Y_0 0.2)", 1, "violated"), ("(>= Y_0 Y_1)", 0, "holds")):
        (tmp_path / "p.vnnlib").write_text(f"{box}(assert {atom})")
        assert run(["certify", str(tmp_path / "softmax.onnx"), str(tmp_path / "p.vnnlib")]) == code
        assert said in capsys.readouterr().out


def test_traffic_signs(shared: Path) -> None:
    folder = shared / "vnncomp" / "2023_traffic_signs_recognition"
    graph = load(folder / "onnx" / "3_30_30_QConv_16_3_QConv_32_2_Dense_43_ep_30.onnx.gz")
    prop = read_property(folder / "vnnlib" / "model_30_idx_7040_eps_1.00000.vnnlib.gz")
    verdict = verify(graph, prop, timeout=60, threads=1)
    assert verdict.status is Status.VIOLATED and verdict.witness is not None and verdict.witness.replayed == "onnxruntime"

"""The benchmark runner on two tiny instances of its own."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import vnncomp
from benchmarks.summary import read_records, summary


def write_network(file):
    """y = relu(x0 - x1) + relu(x1 - x0) = |x0 - x1|."""
    w1, w2 = np.array([[1, -1], [-1, 1]], np.float32), np.ones((2, 1), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 2]), ("y", [1, 1]))]
    weights = [numpy_helper.from_array(w1, "w1"), numpy_helper.from_array(w2, "w2")]
    graph = helper.make_graph(nodes, "distance", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)


def write_query(file, least):
    """x in [0, 1]^2 and y >= least."""
    declared = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
    box = "".join(f"(assert (>= X_{i} 0.0))(assert (<= X_{i} 1.0))" for i in range(2))
    file.write_text(f"{declared}{box}(assert (>= Y_0 {least}))")


@pytest.fixture
def instances(tmp_path):
    write_network(tmp_path / "net.onnx")
    write_query(tmp_path / "safe.vnnlib", 1.5)
    write_query(tmp_path / "unsafe.vnnlib", 0.5)
    lines = ["onnx,vnnlib,timeout,expected_verdict,kind", "net.onnx,safe.vnnlib,10,unsat,a", "net.onnx,unsafe.vnnlib,10,sat,b"]
    (tmp_path / "instances.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "instances.csv"


def run(instances, out, *more):
    return vnncomp.main(["--instances", str(instances), "--out", str(out), "--timeout", "60", "--threads", "1", *more])


def test_runs_resumes_and_summarises(instances, tmp_path, capsys):
    out = tmp_path / "results.jsonl"
    assert run(instances, out, "--kind", "a") == 0
    (first,) = read_records(out)
    assert (first["verdict"], first["expected"], first["wrong"]) == ("unsat", "unsat", False)
    assert {"wall", "seconds", "visited", "strategy", "evidence", "peak_mb", "versions", "load"} <= set(first)
    with out.open("a") as stream:
        stream.write('{"instance": "cut sho')
    capsys.readouterr()
    assert run(instances, out) == 0
    assert "2 instances, 1 done before" in capsys.readouterr().err
    assert [r["verdict"] for r in read_records(out)] == ["unsat", "sat"]
    assert vnncomp.main(["summary", str(out)]) == 0
    assert "WRONG: 0" in capsys.readouterr().out.splitlines()[0]


def test_wrong_verdicts_come_first_and_fail(instances, tmp_path, capsys):
    instances.write_text(instances.read_text().replace("10,sat", "10,unsat"))
    assert run(instances, tmp_path / "results.jsonl", "--match", "unsafe") == 1
    lines = vnncomp.summary(read_records(tmp_path / "results.jsonl")).splitlines()
    assert lines[0] == "WRONG: 1" and "unsafe.vnnlib: sat, expected unsat" in lines[1]
    assert read_records(tmp_path / "results.jsonl")[0]["witness"]["replayed"] == "onnxruntime"


def test_errors_are_recorded_not_raised(instances, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not a network")
    assert run(instances, tmp_path / "results.jsonl", "--kind", "a") == 0
    (record,) = read_records(tmp_path / "results.jsonl")
    assert record["verdict"] == "error" and "net.onnx" in record["reason"]


def test_the_summary_counts_kinds_and_reasons():
    base = {"wrong": False, "wall": 2.0, "seconds": 1.0, "timeout": 60.0, "peak_mb": 100.0}
    records = [
        base | {"instance": "1", "kind": "k", "verdict": "sat", "expected": "sat"},
        base | {"instance": "2", "kind": "k", "verdict": "timed-out", "expected": "sat", "reason": "timeout"},
        base | {"instance": "3", "kind": "l", "verdict": "killed", "expected": "sat", "reason": "exit code -9: "},
    ]
    table = summary(records).splitlines()
    assert table[2].split()[:9] == ["k", "1", "2", "1", "0", "1", "0", "0", "2.00"]
    assert table[4].split()[:8] == ["all", "1", "3", "1", "0", "1", "0", "1"]
    assert json.dumps("1 x k: timed-out (timeout)").strip('"') in "\n".join(table)

"""The command line of the VNN-LIB 2.0 standard."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ascertain
from ascertain.certify.result import Status, Verdict
from ascertain.cli.standard import WORDS, word
from ascertain.evidence import Evidence


def test_sat_with_an_assignment(ask, distance, query):
    code, out, _ = ask("verify", query(0.5, 2), "--network", f"N={distance}", "--timeout", "60")
    first, a, x0, x1, b, y = out.splitlines()
    assert code == 0 and first == "sat" and a == "A float32 [1,2]" and b == "B float32 [1,1]"
    assert np.float32(y) == np.float32(abs(np.float32(x0) - np.float32(x1))) and float(y) >= 0.5


def test_unsat(ask, distance, query):
    code, out, _ = ask("verify", query(1.5, 2, "real"), "--network", f"N={distance}")
    assert (code, out) == (0, "unsat\n")


def test_version_one_queries_have_flat_variables(ask, distance, query):
    code, out, _ = ask("verify", query(0.5), "--network", f"any={distance}")
    assert code == 0 and out.splitlines()[1] == "X real [2]" and out.splitlines()[4] == "Y real [1]"


def test_assignments_as_tensors(ask, distance, query, tmp_path):
    code, out, _ = ask("verify", query(0.5, 2), "--network", f"N={distance}", "--serialise-assignments", tmp_path / "out")
    assert (code, out) == (0, "sat\n")
    a, b = (numpy_helper.to_array(onnx.load_tensor(tmp_path / "out" / f"{name}.pb")) for name in "AB")
    assert a.shape == (1, 2) and b.shape == (1, 1) and a.dtype == np.float32
    assert b[0, 0] == abs(a[0, 0] - a[0, 1]) >= 0.5


def test_two_networks_are_compared(ask, distance, tmp_path):
    declared = (
        "(vnnlib-version <2.0>)(declare-network F (declare-input A float32 [1,2]) (declare-output B float32 [1,1]))"
        "(declare-network G (equal-to F) (declare-input C float32 [1,2]) (declare-output D float32 [1,1]))"
    )
    box = "".join(f"(assert (>= {v}[0,{i}] 0.0))(assert (<= {v}[0,{i}] 1.0))" for v in "AC" for i in range(2))
    (tmp_path / "two.vnnlib").write_text(f"{declared}{box}(assert (>= B[0,0] 0.75))(assert (<= D[0,0] 0.25))")
    code, out, _ = ask("verify", tmp_path / "two.vnnlib", "--network", f"F={distance}")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "sat" and [lines[i].split()[0] for i in (1, 4, 6, 9)] == list("ABCD")
    assert float(lines[5]) >= 0.75 and float(lines[10]) <= 0.25


@pytest.mark.parametrize("given", [["N"], ["M=x"], ["N={n}", "N={n}"], ["N={n}", "M={n}"], ["=x"]])
def test_networks_that_do_not_fit(ask, distance, query, given):
    options = [part for g in given for part in ("--network", g.format(n=distance))]
    code, out, err = ask("verify", query(0.5, 2), *options)
    assert code == 2 and out == "" and err.startswith("error: ")


def test_declared_types_must_be_the_files(ask, distance, query):
    code, out, err = ask("verify", query(0.5, 2, "float64"), "--network", f"N={distance}")
    assert code == 2 and out == "" and "float64" in err and "float32" in err


def test_words():
    assert [WORDS[s] for s in Status] == ["unsat", "sat", "unknown"]
    late = Verdict(Status.UNKNOWN, Evidence.ESTIMATED, 1.0, reason="timeout")
    assert word(late) == "timed-out"
    assert word(Verdict(Status.UNKNOWN, Evidence.ESTIMATED, 1.0, reason="memory: full")) == "unknown"


def test_late_answers_are_timed_out(ask, query):
    code, out, _ = ask("verify", query(0.5, 2), "--network", "N=digits_mlp")
    assert code == 2 and out == ""


@pytest.mark.parametrize(
    ("capability", "lines"),
    [
        ("--onnx-element-types", ["real"]),
        ("--vnnlib-versions", ["1.0", "2.0"]),
        ("--hidden-node-theories", ["NH"]),
        ("--multiple-input-output-theories", ["SIO"]),
        ("--arithmetic-complexity-theories", ["LIN"]),
        ("--optimised-disjunctive-reasoning", ["false"]),
        ("--serialise-assignments", ["true"]),
    ],
)
def test_supports(ask, capability, lines):
    assert ask("supports", capability) == (0, "\n".join(lines) + "\n", "")


def test_supported_operators_are_those_that_have_readers(ask):
    _, out, _ = ask("supports", "--onnx-operators")
    assert {"Gemm", "Conv", "Relu", "MaxPool"} <= set(out.split())
    assert ask("supports")[0] == 2


def test_name_and_version(ask):
    assert ask("--version") == (0, f"{ascertain.__version__}\n", "")
    assert ask("--name") == (0, "Ascertain\n", "")

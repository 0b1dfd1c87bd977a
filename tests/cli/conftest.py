"""Small questions about |x0 - x1| on the unit square, and a way to ask them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ascertain.cli.main import run


@pytest.fixture
def distance(tmp_path):
    """A network file: y = relu(x0 - x1) + relu(x1 - x0)."""
    w1, w2 = np.array([[1, -1], [-1, 1]], np.float32), np.ones((2, 1), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 2]), ("y", [1, 1]))]
    weights = [numpy_helper.from_array(w1, "w1"), numpy_helper.from_array(w2, "w2")]
    graph = helper.make_graph(nodes, "distance", ends[:1], ends[1:], weights)
    file = tmp_path / "distance.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return str(file)


@pytest.fixture
def query(tmp_path):
    """Writes the question whether y >= least on the unit square, in either version of VNN-LIB."""

    def write(least, version=1, kind="float32"):
        if version == 1:
            declared = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
            box = "".join(f"(assert (>= X_{i} 0.0))(assert (<= X_{i} 1.0))" for i in range(2))
            text = f"{declared}{box}(assert (>= Y_0 {least}))"
        else:
            declared = f"(declare-network N (declare-input A {kind} [1,2]) (declare-output B {kind} [1,1]))"
            box = "".join(f"(assert (>= A[0,{i}] 0.0))(assert (<= A[0,{i}] 1.0))" for i in range(2))
            text = f"(vnnlib-version <2.0>){declared}{box}(assert (>= B[0,0] {least}))"
        file = tmp_path / f"least_{least}_{version}.vnnlib"
        file.write_text(text)
        return str(file)

    return write


@pytest.fixture
def ask(capsys):
    """Runs a command line and returns (exit code, standard output, standard error)."""

    def call(*arguments):
        code = run([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call

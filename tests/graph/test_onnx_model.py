"""Reading ONNX files: agreement with onnxruntime, folding, shapes, several outputs."""

import gzip
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ascertain.errors import ModelError, ShapeError
from ascertain.graph import load
from tests.graph.models import mlp, model, node, save, tensor


def agrees(graph, tolerance=1e-5):
    x = np.random.default_rng(0).normal(size=(3, *graph.input_shape)).astype(np.float32)
    single, double = graph(x), graph(x.astype(np.float64))
    assert single.dtype == np.float32 and double.dtype == np.float64
    for i in range(3):
        reference = graph.source.replay(x[i])
        scale = max(1.0, abs(reference).max())
        assert reference.shape == (graph.output_size,)
        assert abs(single[i].ravel() - reference).max() <= tolerance * scale
        assert abs(double[i].ravel() - reference).max() <= tolerance * scale


def test_agrees_with_onnxruntime(tmp_path):
    graph = load(save(tmp_path, mlp()))
    assert graph.input_shape == (1, 3) and graph.output_shape == (1, 2)
    agrees(graph)


def test_gzip_gives_the_same_network(tmp_path):
    path = save(tmp_path, mlp())
    packed = tmp_path / "m.onnx.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    first, second = load(path), load(str(packed))
    assert first.hash == second.hash and first.source.digest == second.source.digest
    agrees(second)


def test_hash_sees_every_weight_and_nothing_else(tmp_path):
    proto = mlp()
    first = load(save(tmp_path, proto, "a.onnx"))
    proto.graph.node[0].name = "renamed"
    proto.producer_name = "someone"
    assert load(save(tmp_path, proto, "b.onnx")).hash == first.hash
    w = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    w[0, 0] = np.nextafter(w[0, 0], np.float32(9))
    proto.graph.initializer[0].CopyFrom(tensor("w1", w))
    assert load(save(tmp_path, proto, "c.onnx")).hash != first.hash


@pytest.mark.parametrize("shape", [("batch", 3), (None, 3), (-1, 3), (1, 3)])
def test_free_batch_size_becomes_one(tmp_path, shape):
    proto = mlp()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    graph = load(save(tmp_path, proto))
    assert graph.input_shape == (1, 3)
    agrees(graph)


def test_other_unknown_sizes_must_be_given(tmp_path):
    proto = model([node("Relu", ["x"], "y")], [], ("batch", "n"))
    path = save(tmp_path, proto)
    with pytest.raises(ModelError, match="input_shape"):
        load(path)
    assert load(path, input_shape=(1, 7)).input_shape == (1, 7)
    assert load(path, example=np.zeros((5, 4))).input_shape == (1, 4)
    agrees(load(path, input_shape=(2, 7)))
    with pytest.raises(ModelError, match="does not fit"):
        load(save(tmp_path, mlp()), input_shape=(1, 4))
    with pytest.raises(ModelError, match="input_shape"):
        load(path, input_shape=(1, 0))


def test_shape_arithmetic_is_folded(tmp_path):
    """The flattening that exporters write: Reshape(x, Concat(Gather(Shape(x), 0), -1)), a mask by Equal and Where, a Range."""
    weights = [
        tensor("zero", 0, np.int64),
        tensor("axes", [0], np.int64),
        tensor("rest", [-1], np.int64),
        tensor("six", 6, np.int64),
        tensor("one", 1, np.int64),
        tensor("two", 2, np.int64),
        tensor("a", 2.0),
        tensor("b", -1.0),
    ]
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "zero"], "n"),
        node("Unsqueeze", ["n", "axes"], "n1"),
        node("Concat", ["n1", "rest"], "target", axis=0),
        node("Reshape", ["x", "target"], "flat"),
        node("Range", ["zero", "six", "one"], "range"),
        node("Mod", ["range", "two"], "parity"),
        node("Cast", ["parity"], "odd", to=TensorProto.BOOL),
        node("Where", ["odd", "a", "b"], "scale"),
        node("Mul", ["flat", "scale"], "y"),
    ]
    graph = load(save(tmp_path, model(nodes, weights, ("n", 2, 3))))
    assert graph.output_shape == (1, 6)
    x = np.arange(6.0).reshape(1, 1, 2, 3)
    assert graph(x).ravel().tolist() == [0, 2, -2, 6, -4, 10]
    agrees(graph)


def test_outputs_by_name(tmp_path):
    proto = model([node("Relu", ["x"], "y"), node("Neg", ["x"], "z")], [], outputs=("y", "z"))
    path = save(tmp_path, proto)
    x = np.array([[[1.0, -2.0, 3.0]]])
    assert load(path)(x).ravel().tolist() == [1, 0, 3]
    assert load(path, output="z")(x).ravel().tolist() == [-1, 2, -3]
    agrees(load(path, output="z"))
    with pytest.raises(ModelError, match=r"no output 'w'.*'y', 'z'"):
        load(path, output="w")


def test_nodes_off_the_path_may_be_anything(tmp_path):
    proto = model([node("Nonsense", ["x"], "u"), node("Relu", ["x"], "y")], [])
    assert len(load(save(tmp_path, proto)).nodes) == 2


def test_external_data_beside_the_model(tmp_path):
    whole = load(save(tmp_path, mlp(), "whole.onnx"))
    onnx.save_model(mlp(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    graph = load(tmp_path / "m.onnx")
    assert graph.hash == whole.hash
    agrees(graph)


def test_half_precision_weights_are_exact_reals(tmp_path):
    w = np.array([[0.1], [0.2], [0.3]], np.float16)
    nodes = [node("Cast", ["w"], "w32", to=TensorProto.FLOAT), node("MatMul", ["x", "w32"], "y")]
    graph = load(save(tmp_path, model(nodes, [tensor("w", w, np.float16)])))
    assert graph(np.eye(3)[:, None]).ravel().tolist() == w.astype(np.float64).ravel().tolist()


def test_double_precision_models(tmp_path):
    proto = model([node("MatMul", ["x", "w"], "y")], [tensor("w", [[0.1], [0.2], [0.3]], np.float64)])
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.DOUBLE, (1, 3)))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.DOUBLE, None))
    graph = load(save(tmp_path, proto))
    x = np.array([[1.0, 1e-9, -1.0]])
    assert abs(graph.source.replay(x) - graph(x[None]).ravel()).max() < 1e-15


def test_local_functions_are_inlined(tmp_path):
    body = [node("Relu", ["a"], "r"), node("Add", ["r", "b"], "s")]
    function = helper.make_function("local", "Shifted", ["a", "b"], ["s"], body, [helper.make_opsetid("", 13)])
    call = helper.make_node("Shifted", ["x", "k"], ["y"], name="call", domain="local")
    proto = model([call], [tensor("k", [1.0, 2.0, 3.0])])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    graph = load(save(tmp_path, proto))
    agrees(graph)
    assert graph(np.zeros((1, 1, 3))).ravel().tolist() == [1, 2, 3]


def test_replay_notices_another_file(tmp_path):
    path = save(tmp_path, mlp())
    graph = load(path)
    save(tmp_path, mlp(seed=1))
    with pytest.raises(ModelError, match="changed"):
        graph.source.replay(np.zeros(3))


def test_replay_takes_flat_points_and_refuses_others(tmp_path):
    graph = load(save(tmp_path, mlp()))
    assert graph.source.replay(np.zeros(3)).shape == (2,)
    with pytest.raises(ShapeError):
        graph.source.replay(np.zeros(4))
    with pytest.raises(ShapeError):
        graph(np.zeros((2, 1, 4)))


def test_graphs_can_be_sent_to_other_processes(tmp_path):
    graph = load(save(tmp_path, mlp()))
    graph.source.replay(np.zeros(3))
    copy = pickle.loads(pickle.dumps(graph))
    assert copy.hash == graph.hash
    assert np.array_equal(copy.source.replay(np.ones(3)), graph.source.replay(np.ones(3)))


def test_torch_stays_out(tmp_path):
    path = save(tmp_path, mlp())
    code = (
        "import sys, numpy; from ascertain.graph import load, lower; g = lower(load(sys.argv[1]));"
        "g(numpy.zeros((1, 1, 3))); sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False).returncode == 0

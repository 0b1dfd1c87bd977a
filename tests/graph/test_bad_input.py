"""What cannot be a network, or must not be run, is refused with one clear error and nothing else happens."""

import gzip
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ascertain.errors import DataError, InputError, ModelError, ShapeError, UnsupportedError
from ascertain.graph import load
from tests.graph.models import mlp, model, node, save, tensor


def refused(path, *words, error=ModelError, **options):
    with pytest.raises(error) as caught:
        load(path, **options)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    return caught.value


def test_what_is_no_model_file(tmp_path):
    refused(tmp_path / "none.onnx", "none.onnx", "does not exist")
    refused(tmp_path, "folder")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "folder")
    (tmp_path / "model.txt").write_text("hello")
    refused(tmp_path / "model.txt", "no known kind")
    refused(3, "int")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "empty")


def test_gzip_garbage_and_bombs(tmp_path):
    path = tmp_path / "m.onnx.gz"
    path.write_bytes(b"not gzip at all")
    refused(path, "gzip")
    path.write_bytes(gzip.compress(mlp().SerializeToString())[:-20])
    refused(path, "gzip")
    zeros = gzip.compress(bytes(2**24))
    path.write_bytes(zeros * 17)
    refused(path, "more than")


def test_truncated_files_at_every_length(tmp_path):
    data = mlp().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(0, len(data), 3):
        path.write_bytes(data[:size])
        with pytest.raises(InputError):
            load(path)


def test_damaged_bytes_never_escape_as_other_errors(tmp_path):
    """A flipped byte gives another legal network or an InputError, nothing else; never NaN or infinite weights."""
    data = mlp().SerializeToString()
    path, r = tmp_path / "m.onnx", np.random.default_rng(0)
    for _ in range(400):
        broken = bytearray(data)
        for i in r.integers(len(data), size=r.integers(1, 4)):
            broken[i] = r.integers(256)
        path.write_bytes(bytes(broken))
        try:
            graph = load(path)
        except InputError:
            continue
        assert all(np.isfinite(a).all() for n in graph.nodes for a in n.operator.arrays().values())
    for _ in range(50):
        path.write_bytes(r.bytes(200))
        with pytest.raises(InputError):
            load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    proto = mlp()
    w = onnx.numpy_helper.to_array(proto.graph.initializer[2]).copy()
    w[1, 1] = value
    proto.graph.initializer[2].CopyFrom(tensor("w2", w))
    refused(save(tmp_path, proto), "'w2'", "node_y", "MatMul", error=DataError)


def test_all_unsupported_operators_are_listed_at_once(tmp_path):
    nodes = [
        node("Rulu", ["x"], "a"),
        node("Relu", ["a"], "b"),
        node("Bessel", ["b"], "c"),
        node("Shape", ["c"], "s"),
        node("ConstantOfShape", ["s"], "t"),
        node("Add", ["c", "t"], "d"),
        helper.make_node("FusedThing", ["d"], ["y"], name="custom", domain="com.example"),
    ]
    error = refused(save(tmp_path, model(nodes, [])), "Rulu", "Bessel", "node_c", "FusedThing", "Relu", error=UnsupportedError)
    assert error.operators == (("Rulu", "node_a"), ("Bessel", "node_c"), ("com.example.FusedThing", "custom"))


def test_random_and_control_flow_are_not_constants(tmp_path):
    nodes = [node("RandomNormal", [], "r", shape=[1, 3]), node("Add", ["x", "r"], "y")]
    refused(save(tmp_path, model(nodes, [])), "RandomNormal", "random", error=UnsupportedError)
    branch = helper.make_graph(
        [node("Constant", [], "k", value=tensor("k", [1.0]))], "b", [], [helper.make_empty_tensor_value_info("k")]
    )
    nodes = [node("If", ["c"], "k2", then_branch=branch, else_branch=branch), node("Add", ["x", "k2"], "y")]
    refused(save(tmp_path, model(nodes, [tensor("c", True, np.bool_)])), "If", "control flow", error=UnsupportedError)


def test_wiring(tmp_path):
    refused(save(tmp_path, model([node("Relu", ["missing"], "y")], [])), "'missing'")
    refused(
        save(tmp_path, model([node("Relu", ["b"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"], "y")], [])), "'b'", "before"
    )
    refused(save(tmp_path, model([node("Relu", ["x"], "y"), node("Neg", ["x"], "y")], [])), "'y'", "twice")
    refused(save(tmp_path, model([node("Relu", ["x"], "z")], [])), "'y'")
    refused(save(tmp_path, model([node("Relu", ["k"], "y")], [tensor("k", [1.0])])), "'y'", "does not depend")
    refused(save(tmp_path, model([node("Relu", ["x"], "y")], [], outputs=())), "outputs")


def test_inputs(tmp_path):
    proto = model([node("Add", ["x", "x2"], "y")], [])
    refused(save(tmp_path, proto), "0 inputs" if not proto.graph.input else "'x2'")
    proto.graph.input.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, (1, 3)))
    refused(save(tmp_path, proto), "2 inputs", "'x2'")
    del proto.graph.input[:]
    refused(save(tmp_path, proto), "0 inputs")
    proto = mlp()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.INT64, (1, 3)))
    refused(save(tmp_path, proto), "int64")
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    refused(save(tmp_path, proto), "input_shape")
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, (0, 3)))
    refused(save(tmp_path, proto), "no numbers")
    proto.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    refused(save(tmp_path, proto), "not a tensor")


def test_shapes_that_do_not_fit_name_the_node(tmp_path):
    proto = mlp()
    proto.graph.initializer[2].CopyFrom(tensor("w2", np.ones((5, 2))))
    refused(save(tmp_path, proto), "node_y", "5", error=(ShapeError, ModelError))
    proto = mlp()
    del proto.graph.node[3].input[1]
    refused(save(tmp_path, proto), "node_y", error=InputError)


@pytest.mark.parametrize("dims", [(3, 5), (-1, 4), (2**40, 2**40), (2**62, 4)])
def test_declared_sizes_that_lie(tmp_path, dims):
    proto = mlp()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    refused(save(tmp_path, proto), "'w1'")


def test_unknown_number_types(tmp_path):
    proto = mlp()
    proto.graph.initializer[0].data_type = 99
    refused(save(tmp_path, proto), "'w1'")


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Range"])
def test_constants_that_would_fill_the_memory(tmp_path, kind):
    big = tensor("big", [10**6, 10**6], np.int64)
    weights = [big, tensor("one", [1.0]), tensor("n", 10**12, np.int64), tensor("zero", 0, np.int64), tensor("step", 1, np.int64)]
    made = {
        "ConstantOfShape": node("ConstantOfShape", ["big"], "c"),
        "Expand": node("Expand", ["one", "big"], "c"),
        "Range": node("Range", ["zero", "n", "step"], "c"),
    }[kind]
    refused(save(tmp_path, model([made, node("Add", ["x", "c"], "y")], weights)), "node_c", kind)


def test_many_constants_that_fill_the_memory_together(tmp_path):
    weights = [tensor("one", [1.0]), tensor("big", [8192, 8000], np.int64)]
    nodes = [node("Expand", ["one", "big"], f"c{i}") for i in range(6)]
    nodes += [node("Max", [f"c{i}" for i in range(6)], "c"), node("Add", ["x", "c"], "y")]
    refused(save(tmp_path, model(nodes, weights)), "constants")


def test_deeply_nested_messages(tmp_path):
    """A graph in an attribute of a node of a graph, 400 times: refused by the parser's depth limit, not by a crash."""

    def wrapped(number, data):
        size, head = len(data), bytearray([number << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        return bytes(head) + bytes([size]) + data

    data = b""
    for _ in range(400):
        data = wrapped(1, wrapped(5, wrapped(6, data)))
    (tmp_path / "m.onnx").write_bytes(wrapped(7, data))
    refused(tmp_path / "m.onnx", "not a complete ONNX file")


def test_huge_shapes_of_variables(tmp_path):
    proto = model([node("Relu", ["x"], "y")], [], (1, 2**20, 2**20))
    refused(save(tmp_path, proto), error=InputError)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.bin", "sub/../../secret.bin", "link.bin", "", "none.bin", "sub"])
def test_external_data_stays_in_the_folder(tmp_path, location):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones((3, 4), np.float32).tobytes())
    os.symlink(secret, folder / "link.bin")
    proto = mlp()
    w = proto.graph.initializer[0]
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    entry = w.external_data.add()
    entry.key, entry.value = "location", location
    refused(save(folder, proto), "'w1'", "folder" if location not in ("none.bin", "sub") else "beside")


@pytest.mark.parametrize(
    ("offset", "length"), [("-4", "48"), ("0", "-1"), ("0", "49"), ("8", "48"), ("x", "48"), ("0", str(10**15))]
)
def test_external_data_must_be_there(tmp_path, offset, length):
    (tmp_path / "w.bin").write_bytes(bytes(48))
    proto = mlp()
    w = proto.graph.initializer[0]
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", offset), ("length", length)):
        entry = w.external_data.add()
        entry.key, entry.value = key, value
    refused(save(tmp_path, proto), "'w1'")

"""Every network of the benchmark set: equal to onnxruntime, or refused with all its unsupported operators."""

import csv
import gzip

import numpy as np
import onnx
import pytest

from ascertain.errors import UnsupportedError
from ascertain.graph import load, lower
from ascertain.operators.reading import ONNX

KINDS = ("mlp_lowdim", "soundness_satrelu", "soundness_nlp", "mlp_highdim", "conv", "resnet", "smoke", "pytorch_checkpoint")

FOLDED = {"Constant", "Shape", "ConstantOfShape", "Equal", "Where", "Range", "ScatterND", "Cast"}
"""Operators that stand on constants in this set."""


@pytest.fixture(scope="module")
def networks(shared):
    folder = shared / "vnncomp"
    if not (folder / "instances.csv").is_file():
        pytest.skip("the benchmark set is absent")
    with (folder / "instances.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return {folder / row["onnx"]: row["kind"] for row in rows}


def test_agrees_with_onnxruntime_or_lists_what_is_missing(networks):
    r = np.random.default_rng(0)
    for path, kind in networks.items():
        try:
            graph = load(path)
        except UnsupportedError as error:
            assert kind not in KINDS, f"{path}: {error}"
            nodes = {n.name or n.output[0]: n for n in onnx.load_from_string(gzip.decompress(path.read_bytes())).graph.node}
            found = set(error.operators)
            assert found and all(nodes[name].op_type == operator for operator, name in found)
            # An unknown name is listed wherever it stands, unless a constant of unknown shape.
            assert {op for op, _ in found} >= {n.op_type for n in nodes.values() if n.op_type not in ONNX} - FOLDED
            continue
        x = r.random((2, *graph.input_shape)).astype(np.float32)
        reference = np.stack([graph.source.replay(p) for p in x])
        scale = max(1.0, float(abs(reference).max()))
        single = graph(x).reshape(2, -1)
        double = graph(x.astype(np.float64)).reshape(2, -1)
        lowered = lower(graph)(x.astype(np.float64)).reshape(2, -1)
        assert abs(single - reference).max() <= 1e-5 * scale, path
        assert abs(double - reference).max() <= 1e-5 * scale, path
        assert abs(lowered - double).max() <= 1e-12 * scale, path


def test_loading_twice_gives_the_same_hash(networks):
    seen = {}
    for path, kind in networks.items():
        if kind in KINDS[:3]:
            graph = load(path)
            assert graph.hash == load(path).hash
            seen.setdefault(graph.hash, set()).add(graph.source.digest)
    # Two files of one network may differ in names; different weights never share a hash.
    assert len(seen) > 30

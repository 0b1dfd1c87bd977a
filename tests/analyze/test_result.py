"""Records survive JSON to the last bit and refuse what has no meaning."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ascertain.analyze import Context, Measured, read_record
from ascertain.analyze.base import digest_property
from ascertain.analyze.result import sha256
from ascertain.errors import DataError, InputError, ShapeError
from ascertain.evidence import Evidence
from ascertain.properties import Box, LpBall, robust
from tests.analyze.breaking import Good, graph
from tests.runs.test_store import failure, result

KINDS = st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_, "<U5"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)


@given(arrays.arrays(KINDS, SHAPES))
def test_arrays_come_back_to_the_bit(array):
    if array.dtype.kind == "f" and np.isnan(array).any():
        with pytest.raises(DataError, match="NaN"):
            Measured(array, Evidence.EXACT)
        return
    before = Measured(array, Evidence.BOUNDED, "it")
    after = Measured.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert after.value.dtype == before.value.dtype and after.value.shape == array.shape
    assert after.value.tobytes() == before.value.tobytes() and after.evidence is Evidence.BOUNDED
    assert np.array_equal(after.value, array)
    with pytest.raises(ValueError, match="read-only"):
        after.value[...] = 0


def test_numbers_without_meaning_are_refused():
    for value, words in (([1.0, np.nan], r"\[1\] is NaN"), ([1j], "complex"), ([object()], "object")):
        with pytest.raises(DataError, match=words):
            Measured(np.array(value), Evidence.EXACT)
    one = np.array(1.0)
    for low, high in ((2.0, 3.0), (0.0, 0.5), ([0.0], [2.0]), (0.0, None), (np.nan, 2.0)):
        with pytest.raises(DataError):
            Measured(one, Evidence.ESTIMATED, "", np.array(low), None if high is None else np.array(high))
    with pytest.raises(DataError, match="confidence"):
        Measured(one, Evidence.ESTIMATED, "", one, one, confidence=95)


@pytest.mark.parametrize("record", [result(), failure()])
def test_records_are_read_or_refused(record):
    body = record.to_json()
    assert read_record(json.loads(json.dumps(body))).to_json() == body
    with pytest.raises(InputError, match="newer"):
        read_record(body | {"schema": 2})
    assert read_record({k: v for k, v in body.items() if k != "device"}).device == "cpu", "as the first records"
    for name in set(body) - {"device"}:
        with pytest.raises(InputError):
            read_record({k: v for k, v in body.items() if k != name})
    for broken in ([], "x", None, 3):
        with pytest.raises(InputError):
            read_record(broken)


def test_damaged_arrays_are_refused():
    for change in ({"dtype": "O"}, {"dtype": "<V8"}, {"shape": [7]}, {"list": None}, {"base64": "!", "list": None}, {"dtype": 3}):
        body = result().to_json()
        array = {k: v for k, v in (body["values"]["value"]["value"] | change).items() if v is not None}
        body["values"]["value"]["value"] = array
        with pytest.raises(InputError):
            read_record(body)


def test_the_key_is_of_the_question_and_the_content_of_the_answer():
    one, other = result(value=1.0), result(value=2.0)
    assert one.key == other.key and one.content != other.content
    assert result(seed=1).key != one.key
    assert sha256("ab", "c") != sha256("a", "bc")


def test_contexts_refuse_what_does_not_fit():
    net = graph()
    for data, labels, words in (
        (np.ones((2, 3)), None, "inputs of 3 numbers, the network takes 2"),
        (np.ones((0, 2)), None, "no inputs"),
        (np.array([[1.0, np.inf]]), None, "input 0"),
        (np.array([["a", "b"]]), None, "numbers"),
        (np.ones((2, 2)), np.array([0]), "labels"),
        (np.ones((2, 2)), np.array([0, 2]), "0 to 1"),
        (np.ones((2, 2)), np.array([0.0, 1.0]), "whole"),
        (None, np.array([0]), "labels"),
    ):
        with pytest.raises(InputError, match=words):
            Context(net, data, labels)
    with pytest.raises(InputError, match="without data"):
        _ = Context(net).inputs
    assert Context(net, np.ones((3, 1, 2))).shaped.shape == (3, 1, 2)


def test_contexts_own_their_data():
    data = np.ones((2, 2))
    context = Context(graph(), data)
    data[:] = 5
    assert context.inputs.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        context.inputs[0] = 3


def test_digests_of_properties_see_every_number():
    x = np.zeros(2)
    questions = [robust(x, 0.1, label=0, classes=2), robust(x, 0.2, label=0, classes=2), robust(x, 0.1, label=1, classes=2)]
    questions += [robust(x, 0.1, 2.0, label=0, classes=2), robust(x + 1e-12, 0.1, label=0, classes=2)]
    questions += [robust(x, 0.1, 2.0, label=0, classes=2, clip=Box(x, x + 1))]
    digests = [digest_property(q) for q in questions]
    assert len(set(digests)) == len(digests)
    assert digest_property(robust(x, 0.1, label=0, classes=2)) == digests[0]
    assert LpBall(x, 0.1).size == 2


def test_different_sizes_cannot_be_compared():
    from ascertain.graph import Builder
    from ascertain.operators import Dense

    build = Builder()
    x = build.input((1, 3))
    with pytest.raises(ShapeError, match="give equal sizes"):
        Context(graph(), other=build.graph(x, build(Dense(np.eye(3)), x)))
    assert Good.called() == "tests.analyze.breaking:Good"

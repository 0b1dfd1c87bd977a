"""Bad input: one line that begins with ``error:``, exit code 2, nothing written."""

import gzip

import numpy as np
import pytest

from ascertain.analyze import datasets
from ascertain.errors import DataError, InputError


def refused(answer, *words):
    code, out, err = answer
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, (code, out, err)
    for word in words:
        assert word in err
    return True


def test_arguments(ask, distance, query):
    assert refused(ask("certify"), "model")
    assert refused(ask("certify", distance), "--data")
    assert refused(ask("certify", distance, query(1), "--data", "digits"), "not both")
    assert refused(ask("certify", "digits_mlp", "--data", "digits"), "--eps")
    assert refused(ask("certify", "digits_mlp", "--data", "digits", "--eps", "-1"), "-1")
    assert refused(ask("certify", "digits_mlp", "--data", "digits", "--eps", "nan"), "nan")
    assert refused(ask("certify", "digits_mlp", "--data", "digits", "--eps", "0.1", "--norm", "3"), "--norm")
    assert refused(ask("certify", "digits_mlp", "--data", "digits", "--eps", "0", "--radius"), "--eps")
    assert refused(ask("certify", "digits_mlp", "--data", "digits", "--eps", "0.1", "--count", "0"), "--count")
    assert refused(ask("certify", distance, query(1), "--timeout", "-1"), "timeout")
    assert refused(ask("certify", distance, query(1), "--input-shape", "a,b"), "--input-shape")
    assert refused(ask("nonsense"), "nonsense")
    assert refused(ask("bound", distance), "--data")
    assert refused(ask("bound", distance, query(1), "--method", "magic"), "magic")


def test_model_files(ask, tmp_path, query):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07nonsense")
    (tmp_path / "model.txt").write_text("x")
    for name in ("broken.onnx", "model.txt", "absent.onnx", "."):
        assert refused(ask("info", tmp_path / name), str(tmp_path))


def test_property_files(ask, tmp_path, distance, query):
    (tmp_path / "bad.vnnlib").write_text("(declare-const X_0 Real)\n(assert (>= X_0")
    assert refused(ask("certify", distance, tmp_path / "bad.vnnlib"), "bad.vnnlib")
    assert refused(ask("certify", "digits_mlp", query(1)), "64", "2")
    assert refused(ask("certify", distance, tmp_path / "absent.vnnlib"), "absent.vnnlib")


def test_witness_files_are_checked_before_the_work(ask, tmp_path, distance, query):
    assert refused(ask("certify", distance, query(0.5), "--witness", tmp_path / "w.txt"), ".npz")
    assert refused(ask("certify", distance, query(0.5), "--witness", tmp_path / "no" / "w.npz"), "folder")
    assert not list(tmp_path.glob("w*"))


def test_bugs_are_short_and_no_answer(ask, monkeypatch):
    from ascertain.cli import info

    def broken(self):
        raise RuntimeError("oh no")

    monkeypatch.setattr(info.Info, "run", broken)
    code, out, err = ask("info", "digits_mlp")
    assert code == 70 and out == "" and "RuntimeError: oh no" in err and "--debug" in err and "Traceback" not in err
    code, _, err = ask("info", "digits_mlp", "--debug")
    assert code == 70 and "Traceback" in err


@pytest.mark.parametrize("form", ["npz", "npy", "csv", "csv.gz", "last.csv"])
def test_every_form_of_data_reads_the_same(tmp_path, form):
    x, y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 2, 1])
    file, table = tmp_path / f"data.{form}", np.column_stack([y, x])
    match form:
        case "npz":
            np.savez(file, x=x, y=y)
        case "npy":
            np.save(file, table)
        case "csv":
            file.write_text("label,a,b,c\n" + "\n".join(",".join(map(str, row)) for row in table))
        case "csv.gz":
            file.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in table).encode()))
        case "last.csv":
            np.savetxt(file, np.column_stack([x, y]), delimiter=",")
    read_x, read_y = datasets.read_data(str(file), 3, 3, "last" if form == "last.csv" else "first", 2.0)
    assert np.array_equal(read_x, x / 2) and np.array_equal(read_y, y)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([[1.0, np.nan]], [0], "input 0"),
        ([[1.0, 2.0], [np.inf, 0.0]], [0, 0], "input 1"),
        ([[1.0, 2.0]], [2], "label 2"),
        ([[1.0, 2.0]], [-1], "label -1"),
        ([[1.0, 2.0]], [0.5], "label 0.5"),
        ([[1.0, 2.0]], [0, 1], "2 labels"),
        ([[1.0, 2.0, 3.0]], [0], "3"),
        (np.zeros((0, 2)), np.zeros(0), "no data"),
        ([["a", "b"]], [0], "numbers"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, x, y, words):
    np.savez(tmp_path / "data.npz", x=np.array(x), y=np.array(y))
    with pytest.raises(InputError, match=words):
        datasets.read_data(str(tmp_path / "data.npz"), 2, 2)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.csv.gz", "a.csv", "a.txt"])
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 not, what\x00it says\n1,b\n")
    with pytest.raises(InputError, match=name):
        datasets.read_data(str(tmp_path / name), 2, 2)
    with pytest.raises(InputError, match="absent"):
        datasets.read_data(str(tmp_path / f"absent{name}"), 2, 2)


def test_pickles_do_not_run(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError):
        datasets.read_data(str(tmp_path / "data.npz"), 1, 2)


def test_archives_that_unpack_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_LARGEST", 1000)
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros((1, 2000)), y=np.zeros(1))
    (tmp_path / "data.csv.gz").write_bytes(gzip.compress(b"0,0\n" * 1000))
    for name in ("data.npz", "data.csv.gz"):
        with pytest.raises(DataError, match="unpacks"):
            datasets.read_data(str(tmp_path / name), 1, 2)

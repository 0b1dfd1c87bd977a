"""``ascertain train`` and ``ascertain list fixtures``."""

import json

import numpy as np
import pytest

from ascertain import fixtures, load
from ascertain.cli.exits import Exit


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASCERTAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_training_writes_files_that_load(ask, tmp_path):
    code, out, err = ask("train", "digits_mlp", "--steps", 2, "--out", tmp_path)
    assert code == Exit.HOLDS and not err
    assert "5962 parameters, 2 steps, seed 0" in out and "ESTIMATED" in out and str(tmp_path) in out
    assert load(tmp_path / "digits_mlp.onnx").output_size == 10


def test_json_and_the_cache(ask, cache):
    code, out, _ = ask("train", "sine_mlp", "--steps", 1, "--seed", 5, "--json")
    record = json.loads(out)
    assert code == Exit.HOLDS and record["seed"] == 5 and record["steps"] == 1
    assert [str(f.parent) for f in cache.rglob("sine_mlp.onnx")] == [record["folder"]]


def test_trajectories(ask, tmp_path):
    code, out, _ = ask("train", "moons_mlp", "--steps", 4, "--trajectory", 3, "--out", tmp_path)
    assert code == Exit.HOLDS and "trajectory-3" in out
    assert len(fixtures.trajectory("moons_mlp", count=3, steps=4, out=tmp_path)) == 3


def test_own_data(ask, tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).normal(size=(30, 7)), y=np.arange(30) % 4)
    code, _, _ = ask("train", "digits_mlp_plain", "--data", tmp_path / "mine.npz", "--steps", 2, "--out", tmp_path)
    network = load(tmp_path / "digits_mlp_plain.onnx")
    assert code == Exit.HOLDS and (network.input_size, network.output_size) == (7, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "digits_mpl"), "digits_mlp"),
        (("train", "digits_mlp", "--steps", "0"), "at least one"),
        (("train", "digits_mlp", "--data", "nothing.npz"), "cannot be read"),
        (("train", "moons_mlp", "--trajectory", "1"), "at least 2"),
        (("list", "nothing"), "analyzers or fixtures"),
    ],
)
def test_bad_input(ask, arguments, words):
    code, out, err = ask(*arguments)
    assert code == Exit.BAD_INPUT and not out and words in err


def test_the_list(ask):
    code, out, _ = ask("list", "fixtures")
    assert code == Exit.HOLDS and [row.split()[0] for row in out.splitlines()] == list(fixtures.FIXTURES)
    assert {row.split()[0] for row in out.splitlines() if row.endswith("ships trained")} == set(fixtures.NAMES)
    _, out, _ = ask("list", "fixtures", "--json")
    assert json.loads(out.splitlines()[0])["architecture"] == "conv"

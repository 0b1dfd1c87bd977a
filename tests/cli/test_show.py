"""``ascertain bound`` and ``ascertain info``."""

import json
import signal
import subprocess
import sys

import numpy as np

from ascertain import fixtures, load


def test_bounds_contain_what_the_network_answers(ask):
    images = fixtures.digits()
    code, out, _ = ask("bound", "digits_mlp", "--data", "digits", "--eps", 0.03, "--count", 2, "--json", "--method", "zonotope")
    network = load(fixtures.path("digits_mlp"))
    rng = np.random.default_rng(0)
    for line, image in zip(out.splitlines(), images.x, strict=False):
        found = json.loads(line)["bounds"]
        points = image.reshape(1, 1, 64) + rng.uniform(-0.03, 0.03, (200, 1, 64))
        y = network(points).reshape(200, 10)
        assert (y >= found["lower"]).all() and (y <= found["upper"]).all()
        assert found["evidence"] == "PROVED" and found["method"] == "zonotope"
    assert code == 0 and out.count("\n") == 2


def test_bounds_over_a_property(ask, distance, query):
    code, out, _ = ask("bound", distance, query(1), "--method", "interval")
    assert code == 0 and out.splitlines()[0].startswith("case 0: interval bounds, evidence PROVED")
    assert out.splitlines()[1].split()[0] == "0"


def test_info(ask):
    code, out, _ = ask("info", "digits_conv", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["input"] == [1, 1, 8, 8] and facts["output"] == [1, 10]
    assert facts["numbers"] == fixtures.provenance("digits_conv")["parameters"]
    assert facts["hash"] == load(fixtures.path("digits_conv")).hash
    assert facts["operators"]["Relu"] == 2 and len(facts["nodes"]) == sum(facts["operators"].values())
    assert "Relu" in ask("info", "digits_conv")[1]


def test_help_names_every_command(ask):
    code, out, _ = ask("--help")
    assert code == 0
    for name in ("certify", "verify", "supports", "bound", "info"):
        assert name in out


def test_a_reader_that_leaves_early_gets_no_answer_code():
    command = [sys.executable, "-m", "ascertain", "certify", "digits_mlp", "--data", "digits", "--eps", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == -signal.SIGPIPE

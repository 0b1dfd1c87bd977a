"""``ascertain lipschitz``: the constant of |x0 - x1|, everywhere and on balls."""

import json

import numpy as np
import pytest

from ascertain.cli.main import run


@pytest.fixture
def points(tmp_path):
    file = tmp_path / "points.npz"
    np.savez(file, x=np.array([[0.9, 0.1], [0.5, 0.5]]), y=np.zeros(2, int))
    return str(file)


def test_everywhere(distance, capsys):
    assert run(["lipschitz", distance, "--norm", "inf", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["lipschitz"]
    assert 2 <= found["value"] < 4.001


def test_on_balls(distance, points, capsys):
    options = ["--local", points, "--eps", "0.1", "--norm", "inf", "--timeout", "2"]
    assert run(["lipschitz", distance, *options]) == 0
    assert capsys.readouterr().out.count("local Lipschitz constant (linf)") == 2
    assert run(["lipschitz", distance, *options, "--json", "--count", "1"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["local"]
    assert found["lower"] == pytest.approx(2) and found["upper"] == pytest.approx(2)


@pytest.mark.parametrize(
    "options", [["--local", "points"], ["--eps", "0.1"], ["--local", "points", "--eps", "0.1", "--layers", "0", "1"]]
)
def test_bad_options(distance, points, options, capsys):
    assert run(["lipschitz", distance, *(points if o == "points" else o for o in options)]) == 2
    assert "--" in capsys.readouterr().err


def test_audits_of_claims(ask):
    code, out, _ = ask("lipschitz", "digits_mlp", "--claim", 1, "--timeout", 5)
    assert code == 1 and out.startswith("violated: claimed 1 in norm 2")
    code, out, _ = ask("lipschitz", "digits_mlp", "--claim", 1000, "--json")
    assert code == 0 and json.loads(out)["audit"]["status"] == "holds"
    code, _, err = ask("lipschitz", "digits_mlp", "--claim", 1, "--eps", 0.1)
    assert code == 2 and "--claim" in err

"""``ascertain selftest``."""

import json

import pytest

from ascertain.certify import selftest
from ascertain.operators import Relu, Softmax


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(selftest, "every_operator", lambda: iter([(Relu(), ((3,),)), (Softmax(0), ((3,),))]))


def test_table(ask):
    code, out, _ = ask("selftest", "--boxes", 300)
    assert code == 0 and "Softmax" in out and "float32" in out
    assert out.splitlines()[-1] == "2 operators, 300 boxes each: no value passed a bound"


def test_lines(ask):
    code, out, _ = ask("selftest", "--boxes", 300, "--json", "--float32")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["operator"] for r in rows] == ["Relu", "Softmax"]
    assert all(r["precision"] == "float32" and r["violation"] == 0 and r["boxes"] == 300 for r in rows)


def test_violations_are_the_exit_code(ask, monkeypatch):
    true = selftest.own_bounds

    def wrong(plan):
        return lambda low, high: tuple(t * 0.5 for t in true(plan)(low, high))

    monkeypatch.setattr(selftest, "own_bounds", wrong)
    code, out, _ = ask("selftest", "--boxes", 300)
    assert code == 1 and out.splitlines()[-1].endswith("violated by Relu, Softmax")


@pytest.mark.parametrize("options", [["--boxes", 0], ["--device", "tpu"], ["--device", "cuda:99"]])
def test_bad_options(ask, options):
    code, _, err = ask("selftest", *options)
    assert code == 2 and err.startswith("error: ")

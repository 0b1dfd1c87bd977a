"""``ascertain analyze``."""

import json

import numpy as np
import pytest

from ascertain.analyze import read_record


def test_a_report_of_a_shipped_network(ask, tmp_path):
    file = tmp_path / "r.html"
    code, out, err = ask("analyze", "digits_mlp", "--data", "digits", "--count", 30, "--analyzers", "overview", "-o", file)
    assert code == 0 and err == "" and "1 of 1 questions answered" in out
    text = file.read_text()
    assert text.startswith("<!DOCTYPE html>") and "digits (first 30)" in text and len(text) < 3_000_000


def test_options_and_forms(ask, tmp_path):
    for form, start in (("json", '[{"'), ("md", "# digits_conv")):
        file = tmp_path / f"r.{form}"
        given = ("--analyzers", "robustness", "--set", "robustness.count=2", "--set", "robustness.limit=0.02")
        code, _, _ = ask("analyze", "digits_conv", "--data", "digits", *given, "-o", file)
        assert code == 0 and file.read_text().startswith(start)
    (record,) = (read_record(r) for r in json.loads((tmp_path / "r.json").read_text()))
    assert record["inputs"] == 2 and record.options["limit"] == 0.02


def test_two_networks(ask, tmp_path):
    file = tmp_path / "r.md"
    code, _, _ = ask("analyze", "digits_mlp", "--other", "digits_conv", "--analyzers", "overview", "-o", file)
    assert code == 0 and "### digits_conv" in file.read_text() and "### digits_mlp" in file.read_text()


def test_a_question_that_fails_does_not_stop_the_others(ask, tmp_path):
    file = tmp_path / "r.md"
    code, out, err = ask("analyze", "digits_mlp", "--analyzers", "robustness,overview", "-o", file)
    assert code == 3 and "needs data and labels" in err and "1 of 2 questions answered" in out
    assert "**failed**" in file.read_text() and "5962 parameters" in file.read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-o", "r.doc"), "no form of report"),
        (("-o", "absent/r.html"), "folder does not exist"),
        (("--analyzers", "overwiev"), "overview"),
        (("--analyzers", " ,"), "names none"),
        (("--set", "robustness"), "ANALYZER.OPTION=VALUE"),
        (("--analyzers", "overview", "--set", "robustness.count=3"), "ANALYZER.OPTION=VALUE"),
        (("--analyzers", "robustness", "--set", "robustness.count=many"), "wanted is int"),
        (("--analyzers", "robustness", "--set", "robustness.cuont=3"), "no option 'cuont'"),
        (("--data", "digits", "--count", "0"), "positive number"),
        (("--data", "absent.npz"), "absent.npz"),
    ],
)
def test_bad_input(ask, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = ask("analyze", "digits_mlp", *given)
    assert code == 2 and words in err and not list(tmp_path.iterdir())


def test_data_that_do_not_fit(ask, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 5)), y=np.zeros(3, int))
    code, _, err = ask("analyze", "digits_mlp", "--data", tmp_path / "d.npz", "-o", tmp_path / "r.html")
    assert code == 2 and "takes 64" in err

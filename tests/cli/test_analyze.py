"""``ascertain analyze``."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ascertain import fixtures
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


def test_words_that_look_like_numbers(ask, tmp_path):
    for text in ("2", '"2"'):
        given = ("--analyzers", "robustness", "--set", "robustness.count=1", "--set", f"robustness.norm={text}")
        code, _, err = ask("analyze", "digits_mlp", "--data", "digits", *given, "-o", tmp_path / "r.json")
        (record,) = (read_record(r) for r in json.loads((tmp_path / "r.json").read_text()))
        assert code == 0 and record.options["norm"] == "2", err


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
        (("--format", "docx"), "--format docx tells no form"),
        (("--seed", "-1"), "whole number from 0"),
        (("--processes", "0"), "at least 1"),
        (("--processes", "-2"), "at least 1"),
        (("--analyzers", "robustness", "--set", "robustness.limit=NaN"), "not finite"),
        (("--analyzers", "robustness", "--set", "robustness.limit=-Infinity"), "not finite"),
        (("--analyzers", "robustness", "--set", f"robustness.limit=1{'0' * 400}"), "not finite"),
        (("--analyzers", "robustness", "--set", f"robustness.limit={'[' * 100_000}"), "wanted is float"),
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


def test_questions_share_processes_and_come_in_their_order(ask, tmp_path):
    given = ("digits_mlp", "--data", "digits", "--count", 20, "--analyzers", "weights,similarity,overview")
    found = []
    for processes in (1, 2):
        code, out, err = ask("analyze", *given, "--processes", processes, "-o", tmp_path / "r.json")
        assert code == 0 and err == "" and "3 of 3" in out
        found.append([read_record(r) for r in json.loads((tmp_path / "r.json").read_text())])
    assert [r.analyzer for r in found[0]] == ["weights", "similarity", "overview"]
    assert [r.content for r in found[0]] == [r.content for r in found[1]]
    assert "data" not in found[0][0].inputs and "labels" in found[0][2].inputs


def test_a_network_beside_its_copy_answers_under_both_names(ask, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(fixtures.path("digits_mlp").read_bytes())
    code, out, _ = ask("analyze", "digits_mlp", "--other", copy, "--analyzers", "weights", "-o", tmp_path / "r.md")
    assert code == 0 and "2 of 2" in out
    assert "### digits_mlp" in (tmp_path / "r.md").read_text() and "### copy.onnx" in (tmp_path / "r.md").read_text()


def test_a_course_of_training(ask, tmp_path):
    code, _, _ = ask("train", "moons_mlp", "--steps", 20, "--trajectory", 3, "--out", tmp_path)
    assert code == 0
    given = (tmp_path / "trajectory-3", "--data", "moons", "--analyzers", "weights,convergence", "-o", tmp_path / "r.json")
    code, out, err = ask("analyze", *given, "--processes", 1)
    assert (code, err) == (0, "") and "4 of 4" in out
    records = [read_record(r) for r in json.loads((tmp_path / "r.json").read_text())]
    assert [r.names["model"] for r in records] == ["step-0", "step-1", "step-20", "step-0"]
    assert records[-1].names["trajectory"] == "step-0, step-1, step-20" and records[-1]["cka"].shape[0] == 3


def test_names_of_the_zoo(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("ASCERTAIN_CACHE", str(tmp_path / "cache"))
    for name in ("shapes", "vit_small"):
        given = ("shapes_resnet", "--data", name, "--count", 20, "--analyzers", "probing", "-o", tmp_path / "r.json")
        code, _, err = ask("analyze", *given)
        assert code == 0, err
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 1
    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = ask("analyze", "shapes_resnet", "--data", "shapes", "--count", 20, "--analyzers", "probing", "-o", "folder.json")
    assert code == 0, err
    suite = '[models]\nnet = "shapes_resnet"\n[data]\nfew = { file = "shapes", count = 5 }\n[[run]]\nanalyzer = "overview"\n'
    (tmp_path / "suite.toml").write_text(suite)
    code, _, err = ask("run", "suite.toml", "--store", "s.sqlite")
    assert code == 0, err
    for given, words in (
        (("digits_mpl",), "did you mean digits_mlp"),
        (("shapes_conv",), "run 'ascertain train shapes_conv' first"),
        (("digits_mlp", "--data", "digts"), "did you mean digits"),
        (("digits_mlp", "--data", "sine"), "read it without labels"),
        ((str(tmp_path / "cache"),), "takes two or more"),
        (("digits_mlp", "--data", str(tmp_path)), "there is no file"),
        (("digits_mlp", "--analyzers", "comparison"), "--other"),
        (("digits_mlp", "--other", "digits_conv", "--analyzers", "convergence"), "several networks"),
    ):
        code, _, err = ask("analyze", *given, "-o", tmp_path / "n.html")
        assert code == 2 and words in err and not (tmp_path / "n.html").exists()


def interrupted(file, *given, until):
    """Exit code, output and talk of an analysis that gets Ctrl-C once it has said some words to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ascertain", "analyze", "digits_mlp", "--data", "digits", "-o", str(file), *map(str, given)]
    # where the tests run in the background Ctrl-C is ignored, also by what they start
    ears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes = {"stdout": subprocess.PIPE, "stderr": theirs, "text": True, "cwd": Path(__file__).resolve().parents[2]}
    with subprocess.Popen(command, start_new_session=True, preexec_fn=ears, **pipes) as process:
        os.close(theirs)
        talk = ""
        while not all(words in talk for words in until):
            talk += os.read(ours, 4096).decode()
        # Ctrl-C reaches the whole group.
        os.killpg(process.pid, signal.SIGINT)
        out = process.stdout.read()
    try:
        while more := os.read(ours, 4096):
            talk += more.decode()
    except OSError:  # how Linux says that nobody holds the other end any more
        pass
    os.close(ours)
    return process.returncode, out, talk


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_leaves_a_report_of_what_is_answered(tmp_path, processes):
    given = ("--analyzers", "weights,tests.runs.asking:Swallows", "--processes", processes)
    until = ("1 of 2 questions answered", "swallows")
    code, out, talk = interrupted(tmp_path / "r.json", *given, until=until)
    assert code == 130 and "1 of 2 questions answered" in out, talk
    assert "interrupted; the report holds what was answered" in talk and "Traceback" not in talk
    (record,) = (read_record(r) for r in json.loads((tmp_path / "r.json").read_text()))
    assert record.analyzer == "weights" and not list(tmp_path.glob(".*"))


def test_ctrl_c_before_the_first_answer_writes_nothing(tmp_path):
    given = ("--analyzers", "tests.runs.asking:Swallows", "--processes", 1)
    code, out, talk = interrupted(tmp_path / "r.json", *given, until=["swallows"])
    assert code == 130 and out == "" and talk.endswith("error: interrupted.\r\n") and "Traceback" not in talk
    assert not list(tmp_path.iterdir())

"""``ascertain run``, ``show``, ``diff``, ``list`` and ``explain``."""

import csv
import json

import pytest
import torch

from ascertain.analyze import analyzers
from ascertain.runs import Store
from tests.cli.test_bad_input import refused
from tests.runs.test_store import failure, result

SUITE = """
[models]
mlp = "digits_mlp"
[data]
few = { file = "digits", count = 5 }
[[run]]
analyzer = "overview"
seeds = [0, 1]
[[run]]
analyzer = "tests.runs.asking:Raises"
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A suite that was run: two results and a failure."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "suite.toml").write_text(SUITE)
    return folder


def test_run_show_and_export(ask, stored):
    store = stored / "runs.sqlite"
    code, out, err = ask("run", stored / "suite.toml", "--store", store, "--json", "--processes", 1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 3 and len(lines) == 3 and "3 items: 2 measured, 0 stored before, 1 failed" in err
    assert [line["error"] for line in lines if "error" in line] == ["ZeroDivisionError: nothing is divided by nothing"]
    code, out, err = ask("run", stored / "suite.toml", "--store", store)
    assert code == 3 and out == "" and "0 measured, 3 stored before, 1 failed" in err, "failures are said again, not tried again"

    code, out, _ = ask("show", store)
    assert code == 0 and len(out.splitlines()) == 3 and "6 nodes, 5962 parameters, 5 layers deep. [EXACT]" in out
    assert "failed: ZeroDivisionError" in out
    key = next(line["key"] for line in lines if "error" not in line)
    code, out, _ = ask("show", store, key[:12])
    assert code == 0 and key in out and "spectral_norm" in out and "BOUNDED" in out and "MiB" in out
    code, out, _ = ask("show", store, "--json", "--check")
    assert code == 0 and {json.loads(line)["kind"] for line in out.splitlines()} == {"result", "failure"}
    code, out, _ = ask("show", store, "--export", stored / "r.csv")
    with (stored / "r.csv").open() as stream:
        assert code == 0 and {row["analyzer"] for row in csv.DictReader(stream)} == {"overview", "tests.runs.asking:Raises"}
    code, _, _ = ask("show", store, "--export", stored / "r.html")
    assert code == 0 and "<h1>runs</h1>" in (stored / "r.html").read_text()
    assert refused(ask("show", store, "zzz"), "0 results")
    assert refused(ask("show", store, "--export", stored / "r.xls"), ".parquet")


def test_diff(ask, tmp_path):
    for name, value in (("a", 1.5), ("b", 1.5), ("c", 2.5)):
        with Store(tmp_path / name) as store:
            store.put(result(0, value))
    assert ask("diff", tmp_path / "a", tmp_path / "b") == (0, "equal\n", "")
    code, out, _ = ask("diff", tmp_path / "a", tmp_path / "c")
    assert code == 1 and "made of m: value is 1.5 | 2.5" in out
    code, out, _ = ask("diff", tmp_path / "a", tmp_path / "c", "--json")
    assert code == 1 and json.loads(out)["words"] == "value is 1.5 | 2.5"
    assert refused(ask("diff", tmp_path / "a", tmp_path / "absent"), "absent")


def test_list_and_explain(ask):
    code, out, _ = ask("list", "analyzers")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(analyzers())
    code, out, _ = ask("list", "--json")
    assert code == 0 and all(json.loads(line)["options"]["type"] == "object" for line in out.splitlines())
    code, out, _ = ask("explain", "robustness")
    assert code == 0 and "PROVED" in out and "Szegedy" in out and "limit = 0.5" in out
    assert refused(ask("explain", "robust"), "robustness")
    assert refused(ask("list", "stars"), "stars")


def test_bad_input_of_run(ask, stored, tmp_path):
    assert refused(ask("run", stored / "absent.toml", "--store", tmp_path / "s"), "absent.toml")
    assert refused(ask("run", stored / "suite.toml", "--store", tmp_path / "no" / "s"), "folder")
    (tmp_path / "text").write_text("no store" * 200)
    assert refused(ask("run", stored / "suite.toml", "--store", tmp_path / "text"), "no store")
    assert refused(ask("run", stored / "suite.toml", "--store", tmp_path / "s", "--processes", "0"), "0 processes")
    (tmp_path / "suite.toml").write_text('[models]\na = "nothing"\n[[run]]\nanalyzer = "overview"\n')
    assert refused(ask("run", tmp_path / "suite.toml", "--store", tmp_path / "s"), "nothing", "suite.toml")


def test_names_cannot_rewrite_the_screen(ask, tmp_path):
    from dataclasses import replace

    with Store(tmp_path / "s") as store:
        store.put(replace(result(), names={"model": "\x1b[2Jevil\r"}))
        store.put(replace(failure(1), message="\x1b]0;evil\x07"))
    assert all("\x1b" not in ask("show", tmp_path / "s", *key)[1] for key in ((), (result().key,), (failure(1).key,)))


GPUS = """
[models]
mlp = "digits_mlp"
[data]
few = { file = "digits", count = 5 }
[[run]]
analyzer = "tests.runs.asking:Where"
options = { pause = 0.3 }
seeds = [0, 1, 2, 3]
"""


def test_a_suite_on_gpus(ask, tmp_path, monkeypatch):
    suite, store = tmp_path / "suite.toml", tmp_path / "s.sqlite"
    suite.write_text(GPUS)
    code, out, err = ask("run", suite, "--store", store, "--gpus", "all")
    assert code == 2 and err.count("\n") == 1 and "sees no CUDA device" in err and not store.exists()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for given, words in (
        (("--gpus", "0,2"), "no GPU 2; torch sees 2"),
        (("--gpus", "both"), "say all, or numbers"),
        (("--gpus", "all", "--processes", 2), "leave --dask and --processes out"),
        (("--gpus", "all", "--dask", "local"), "leave --dask and --processes out"),
    ):
        code, _, err = ask("run", suite, "--store", store, *given)
        assert code == 2 and err.count("\n") == 1 and words in err and not store.exists()
    code, _, err = ask("run", suite, "--store", store, "--gpus", "all")
    assert code == 0 and "4 measured" in err
    with Store(store, read_only=True) as stored:
        assert {r.device for r in stored} == {"cuda:0", "cuda:1"} and all(str(r["device"]) == r.device for r in stored)
        first = next(iter(stored))
    code, out, _ = ask("show", store, first.key[:12])
    assert code == 0 and f", on {first.device}" in out
    code, _, _ = ask("show", store, "--export", tmp_path / "r.md")
    assert code == 0 and "on cuda:0" in (tmp_path / "r.md").read_text()

"""``ascertain certify``: answers, exit codes, tables, files."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from ascertain import fixtures


def test_a_property_that_holds(ask, distance, query):
    code, out, _ = ask("certify", distance, query(1.5))
    assert code == 0 and out.startswith("holds: evidence PROVED")


def test_a_property_that_is_violated(ask, distance, query, tmp_path):
    code, out, _ = ask("certify", distance, query(0.5), "--witness", tmp_path / "w.npz", "--json")
    answer = json.loads(out)
    assert code == 1 and answer["verdict"]["status"] == "violated" and answer["verdict"]["evidence"] == "EXACT"
    with np.load(tmp_path / "w.npz") as saved:
        (x,) = saved["input"]
        assert abs(x[0, 0] - x[0, 1]) >= 0.5 and x.min() >= 0 and x.max() <= 1
        assert np.allclose(saved["output"][0], abs(x[0, 0] - x[0, 1]))
    assert answer["verdict"]["witness"]["replayed"] == "onnxruntime"


def test_time_that_runs_out_is_unknown(ask, tmp_path):
    x = fixtures.digits().x[:1]
    np.savez(tmp_path / "one.npz", x=x, y=fixtures.digits().y[:1])
    code, out, _ = ask("certify", "digits_conv", "--data", tmp_path / "one.npz", "--eps", "0.12", "--timeout", "1e-9")
    assert code == 3 and "unknown" in out.splitlines()[1] and "1 unknown of 1 images" in out


def test_a_table_of_images(ask):
    code, out, _ = ask("certify", "digits_mlp", "--data", "digits", "--eps", "0.02", "--count", "2")
    header, *rows, last = out.splitlines()
    assert code == 0 and header.split()[:3] == ["image", "label", "verdict"]
    for i, row in enumerate(rows):
        assert row.split()[:7] == [str(i), str(fixtures.digits().y[i]), "holds", "radius", ">=", "0.02", "PROVED"]
    assert last.startswith("2 holds of 2 images")


def test_images_as_json_lines_with_witnesses(ask, tmp_path):
    data = fixtures.digits()
    wrong = (data.y[:2] + 1) % 10
    np.savez(tmp_path / "wrong.npz", x=data.x[:2], y=wrong)
    code, out, _ = ask(
        "certify", "digits_conv", "--data", tmp_path / "wrong.npz", "--eps", 0.01, "--json", "--witness", tmp_path / "w.json"
    )
    first, second, summary = map(json.loads, out.splitlines())
    assert code == 1 and first["status"] == second["status"] == "violated"
    assert summary["counts"] == {"holds": 0, "violated": 2, "unknown": 0}
    for saved, image in zip(json.loads((tmp_path / "w.json").read_text()), data.x, strict=False):
        assert np.max(np.abs(np.array(saved["input"]) - image)) <= 0.01


def test_radius_is_between_proof_and_witness(ask):
    code, out, _ = ask(
        "certify", "digits_mlp", "--data", "digits", "--eps", 0.4, "--count", 1, "--radius", "--timeout", 4, "--json"
    )
    row = json.loads(out.splitlines()[0])
    low, high = row["radius"]
    assert code == 1 and row["status"] == "violated" and 0 < low < high <= 0.4


@pytest.mark.parametrize("norm", ["2", "1"])
def test_other_norms(ask, norm):
    code, out, _ = ask("certify", "digits_mlp", "--data", "digits", "--eps", 0.02, "--norm", norm, "--count", 1)
    assert code == 0 and f"{norm}-norm radius 0.02" in out


def test_interrupt_leaves_a_partial_answer():
    command = [sys.executable, "-m", "ascertain", "certify", "digits_conv", "--data", "digits", "--eps", "0.05"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    head = [process.stdout.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130 and err == ""
    assert head[1].split()[:2] == ["0", str(fixtures.digits().y[0])]
    assert "of 360 images not reached" in out.splitlines()[-1]


def test_small_dense_networks_do_not_wait_for_torch(distance, query):
    code = (
        "import sys; from ascertain.cli.main import run\n"
        f"codes = [run(['certify', {distance!r}, {query(1.5)!r}]), run(['certify', {distance!r}, {query(0.5)!r}])]\n"
        "print(codes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[0, 1] False", done.stderr

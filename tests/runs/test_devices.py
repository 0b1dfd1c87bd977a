"""One process for each device. No device but the CPU is needed: what is claimed are names."""

import json
import subprocess
import sys
from threading import Timer

import numpy as np
import pytest
import torch

from ascertain import fixtures, load, robust
from ascertain.analyze import Context, analyze, make, read_record
from ascertain.errors import InputError, ResourceError
from ascertain.runs import Store, cuda_devices, device_workers, devices, local_workers, run_item, run_suite
from tests.runs.asking import Dies, Quick, Where, item


def places(store):
    """Device by process, of the items that asked for it."""
    return {int(r["by"]): r.device for r in store if r.analyzer.endswith(":Where")}


def test_every_process_has_a_device_of_its_own(tmp_path):
    items = [item(Where(0.1), seed) for seed in range(12)]
    with Store(tmp_path / "s") as store:
        done = run_suite(items, store, device_workers(["left", "right"]))
        assert (done.stored, done.failed) == (12, 0)
        assert sorted(places(store).values()) == ["left", "right"]
        assert all(str(r["device"]) == r.device for r in store)
        one = store.get(items[0].key)
    assert (
        one.place == f"{one.machine}, on {one.device}" and read_record(json.loads(json.dumps(one.to_json()))).device == one.device
    )


def test_a_device_named_twice_is_shared_by_two(tmp_path):
    items = [*(item(Where(0.1), seed) for seed in range(8)), *(item(Quick(), seed) for seed in range(3))]
    found = []
    for name, workers in (("devices", device_workers(["cpu", "cpu"])), ("processes", local_workers(1))):
        with Store(tmp_path / name) as store:
            run_suite(items[8:], store, workers)
            found.append(store.contents())
    assert found[0] == found[1], "the same bits as anywhere"
    with Store(tmp_path / "devices") as store:
        run_suite(items, store, device_workers(["cpu", "cpu"]))
        assert list(places(store).values()) == ["cpu", "cpu"]
        assert store.get(items[0].key).place == store.get(items[0].key).machine


def test_after_a_process_died_its_device_is_taken_over(tmp_path):
    items = [item(Dies()), *(item(Where(0.05), seed) for seed in range(12))]
    with Store(tmp_path / "s") as store:
        done = run_suite(items, store, device_workers(["left", "right"]))
        assert (done.stored, done.failed) == (13, 1) and store.failures() == {items[0].key}
        last = sorted(places(store).values())
        assert {"left", "right"} == set(last) and len(last) <= 2 * 3, "each set of processes has both devices, once"


HOLDER = "import sys, time; from ascertain.runs import devices; print(devices._claim(1, sys.argv[1]), flush=True); time.sleep(60)"


def test_a_new_process_waits_for_a_device_until_its_holder_is_gone(tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "0\n"
        monkeypatch.setattr(devices, "_PATIENCE", 0.2)
        with pytest.raises(ResourceError, match="1 device is held"):
            devices._claim(1, tmp_path)
        monkeypatch.setattr(devices, "_PATIENCE", 30.0)
        Timer(0.2, holder.kill).start()
        assert devices._claim(1, tmp_path) == 0


def test_searches_go_to_the_device_and_everything_else_stays_on_the_cpu():
    net, images = load(fixtures.path("digits_mlp")), fixtures.digits()
    x, y = images.x[:1].reshape(1, -1).astype(float), np.array(images.y[:1])
    question = robust(x[0], 0.01, label=int(y[0]), classes=10)
    context = Context(net, x, y, question, device="abacus")
    for name in ("verify", "robustness"):
        with pytest.raises(InputError, match="'abacus' is no device"):
            analyze(make(name, {}), context)
    assert analyze(make("weights", {}), context).device == "cpu"


@pytest.mark.parametrize("name", ["verify", "robustness"])
def test_the_device_reaches_every_search(monkeypatch, name):
    from ascertain.certify import verify as calls

    seen, plain = [], calls._job

    def job(network, property, timeout, memory, threads, device, *rest):
        seen.append(device)
        return plain(network, property, timeout, memory, threads, "cpu", *rest)

    monkeypatch.setattr(calls, "_job", job)
    net, images = load(fixtures.path("digits_mlp")), fixtures.digits()
    x, y = images.x[:1].reshape(1, -1).astype(float), np.array(images.y[:1])
    context = Context(net, x, y, robust(x[0], 0.01, label=int(y[0]), classes=10), device="cuda:7")
    found = analyze(make(name, {"timeout": 2.0}), context)
    assert found.device == "cuda:7" and seen and set(seen) == {"cuda:7"}


def test_devices_are_no_part_of_the_question():
    asked = item(Where())
    one, other = (run_item(asked, 0.5, device) for device in ("left", "right"))
    assert one.key == other.key == asked.key and (one.device, other.device) == ("left", "right")


def test_no_devices():
    with pytest.raises(InputError, match="name at least one"):
        device_workers([])


@pytest.mark.parametrize(
    ("chosen", "found"),
    [("all", ("cuda:0", "cuda:1", "cuda:2")), ("1", ("cuda:1",)), ("2, 0", ("cuda:2", "cuda:0"))],
)
def test_names_of_gpus(monkeypatch, chosen, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert cuda_devices(chosen) == found


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("3", "no GPU 3; torch sees 3"),
        ("0,0", "different GPUs"),
        ("-1", "no list"),
        ("", "no list"),
        ("0,", "no list"),
        ("²", "no list"),
    ],
)
def test_lists_that_name_no_gpus(monkeypatch, chosen, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InputError, match=words):
        cuda_devices(chosen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="sees no CUDA device"):
        cuda_devices(chosen)

"""Suites: nothing is asked twice or lost, one bad item harms no other, and answers do not depend on where they are computed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import pytest

from ascertain.analyze.result import Failure
from ascertain.errors import InputError
from ascertain.runs import Store, Workers, local_workers, read_suite, run_item, run_suite, this_process
from tests.runs.asking import Dies, Leaves, Quick, Raises, Swallows, Undefined, item

ROOT = Path(__file__).resolve().parents[2]


def threads(count=2):
    """Workers of this process, which start at once."""
    executor = ThreadPoolExecutor(count)
    return Workers(lambda i: executor.submit(run_item, i), count, lambda kill: executor.shutdown(cancel_futures=kill))


def test_nothing_is_asked_twice(tmp_path):
    items = [item(Quick(), seed) for seed in range(5)]
    heard = []
    with Store(tmp_path / "s") as store:
        first = run_suite([*items, *items[:2]], store, threads(), notice=lambda i, r: heard.append(i.key))
        again = run_suite(items, store, threads(), notice=lambda i, r: heard.append(i.key))
        assert (first.items, first.stored, first.skipped, first.failed) == (5, 5, 0, 0)
        assert (again.items, again.stored, again.skipped) == (5, 0, 5)
        assert sorted(heard) == sorted(i.key for i in items) == sorted(store.contents())
        assert len(set(store.contents().values())) == 5, "seeds matter"


def test_analyzers_that_raise_are_reported_and_the_suite_goes_on(tmp_path):
    items = [item(Raises()), item(Quick()), item(Undefined()), item(Quick(), 1)]
    with Store(tmp_path / "s") as store:
        done = run_suite(items, store, threads())
        assert (done.stored, done.failed) == (4, 2) and store.failures() == {items[0].key, items[2].key}
        told = store.get(items[0].key)
        assert (told.error, told.message) == ("ZeroDivisionError", "nothing is divided by nothing")
        assert "NaN" in store.get(items[2].key).message
        assert run_suite(items, store, threads()).stored == 0, "failures are not repeated silently"
        assert run_suite(items, store, threads(), retry=True).stored == 2


def test_analyzers_that_leave_are_reported(tmp_path):
    items = [item(Leaves()), item(Quick())]
    with Store(tmp_path / "s") as store:
        assert run_suite(items, store, local_workers(1)).failed == 1
        assert store.get(items[0].key).error == "SystemExit"


def test_files_that_changed_are_noticed(tmp_path):
    changed = item(Quick())
    changed.inputs["data"] = "0" * 64
    answer = run_item(changed)
    assert isinstance(answer, Failure) and "changed" in answer.message and answer.key == changed.key


def test_processes_threads_and_order_give_the_same_bits(tmp_path):
    items = [item(Quick(), seed) for seed in range(6)]
    found = []
    for name, workers, order in (("a", threads(1), items), ("b", local_workers(2), items[::-1])):
        with Store(tmp_path / name) as store:
            run_suite(order, store, workers)
            found.append(store.contents())
    assert found[0] == found[1] and len(found[0]) == 6


def test_a_process_that_dies_costs_its_own_item_only(tmp_path):
    items = [item(Quick(0.05), 0), item(Dies()), *(item(Quick(0.05), seed) for seed in range(1, 6))]
    with Store(tmp_path / "s") as store:
        done = run_suite(items, store, local_workers(2))
        assert (done.stored, done.failed) == (7, 1) and store.failures() == {items[1].key}
        assert store.get(items[1].key).error == "WorkerDied"


def write(folder, body):
    file = folder / "suite.toml"
    file.write_text(body)
    return file


SUITE = """
seed = 3
[models]
mlp = "{model}"
[data]
few = {{ file = "{data}", count = 4 }}
more = {{ file = "{data}", count = 5, label = "none" }}
[[run]]
analyzer = "overview"
seeds = [1, 2]
[[run]]
analyzer = "robustness"
options = {{ limit = 0.1, tolerance = 0.5 }}
data = ["few"]
"""


@pytest.fixture
def files():
    from tests.runs.asking import DATA, MODEL

    return {"model": str(MODEL.file), "data": str(DATA.file)}


def test_items_of_a_suite_file(tmp_path, files):
    items = read_suite(write(tmp_path, SUITE.format(**files)))
    assert [str(i) for i in items] == [
        "overview of mlp, few (seed 1)",
        "overview of mlp, more (seed 1)",
        "overview of mlp, few (seed 2)",
        "overview of mlp, more (seed 2)",
        "robustness of mlp, few (seed 3)",
    ]
    assert len({i.key for i in items}) == 5
    assert "labels" in items[0].inputs and "labels" not in items[1].inputs
    again = read_suite(write(tmp_path, SUITE.format(**files).replace("mlp =", "other_name =")))
    assert [i.key for i in again] == [i.key for i in items], "names do not count"
    wider = read_suite(write(tmp_path, SUITE.format(**files).replace("0.5", "0.4")))
    assert [i.key == j.key for i, j in zip(items, wider, strict=True)] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed = 3", "seed = [", "no TOML"),
        ("seed = 3", "sed = 3", "sed"),
        ("seeds = [1, 2]", "seeds = [-1]", "seeds"),
        ('"overview"', '"overvue"', "overview"),
        ("limit = 0.1", "limits = 0.1", "limits"),
        ("limit = 0.1", 'limit = "far"', "limit"),
        ("limit = 0.1", "limit = nan", "limit of robustness is not finite"),
        ("limit = 0.1", "limit = -inf", "not finite"),
        ('data = ["few"]', 'data = ["none"]', "'none'"),
        ('data = ["few"]', 'data = ["more"]', "labels"),
        ('data = ["few"]', 'groups = ["few"]\nproperties = ["p"]', "properties"),
        ("count = 4", "count = 0", "count|cut"),
        ("count = 4", "count = 4.5", "wrong type"),
        ("count = 4", 'count = 4, label = "middle"', "middle"),
        ('analyzer = "overview"', "", "analyzer"),
        ('analyzer = "overview"', 'analyzer = "verify"', "properties"),
        ('analyzer = "overview"', 'analyzer = "os:path"', "no analyzer"),
        ('analyzer = "overview"', 'analyzer = "no_such_module:A"', "no_such_module"),
        ('mlp = "', 'mlp = { input_shape = ["a"], file = "x" }\n    other = "', "input_shape"),
        ("[[run]]", "[run]", "wrong type|TOML"),
    ],
)
def test_suites_that_are_wrong_are_refused_before_any_work(tmp_path, files, old, new, words):
    body = SUITE.format(**files)
    assert old in body
    with pytest.raises(InputError, match=words) as error:
        read_suite(write(tmp_path, body.replace(old, new)))
    assert "suite.toml" in str(error.value)


def test_data_that_do_not_fit_are_named(tmp_path, files):
    import numpy as np

    np.savez(tmp_path / "d.npz", x=np.zeros((3, 5)), y=np.zeros(3, int))
    with pytest.raises(InputError, match=r"suite\.toml: overview of mlp, few.*d\.npz has inputs of 5 numbers, .* 64"):
        read_suite(write(tmp_path, SUITE.format(model=files["model"], data="d.npz")))
    with pytest.raises(InputError, match="absent"):
        read_suite(write(tmp_path, SUITE.format(model=files["model"], data="absent.npz")))
    with pytest.raises(InputError, match="absent"):
        read_suite(tmp_path / "absent.toml")


GROUPS = """
[models]
a = "{onnx}"
b = {{ file = "{weights}", factory = "tests.runs.asking:factory", input_shape = [1, 64] }}
[data]
few = {{ file = "{data}", count = 4 }}
[[run]]
analyzer = "tests.runs.asking:Pair"
groups = [["a", "a"], ["a", "b"]]
[[run]]
analyzer = "tests.runs.asking:Course"
groups = [["b", "a", "b"]]
"""


def test_pairs_and_trajectories(tmp_path, files):
    given = {"onnx": files["model"], "weights": files["model"].replace(".onnx", ".safetensors"), "data": files["data"]}
    items = read_suite(write(tmp_path, GROUPS.format(**given)))
    assert [i.names for i in items] == [
        {"model": "a", "other": "a"},
        {"model": "a", "other": "b"},
        {"model": "b", "trajectory": "b, a, b"},
    ]
    assert "data" not in items[0].inputs
    with Store(tmp_path / "s") as store:
        done = run_suite(items, store, threads())
        assert (done.items, done.failed) == (2, 0), "two files of one network make one question"
        same, other, course = (store.get(i.key) for i in items)
        assert same["same"] and same.key == other.key
        assert course["length"] == 3 and course["weights"] == 5962
    for old, new, words in (
        ('["a", "a"]', '["a"]', "two names"),
        ('"b", "a", "b"', '"b"', "two or more"),
        ('"b", "a", "b"', '"a", "b"', "module"),
    ):
        with pytest.raises(InputError, match=words):
            read_suite(write(tmp_path, GROUPS.format(**given).replace(old, new)))


def test_properties_are_asked_of_models(tmp_path, files):
    box = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0.0))(assert (<= X_{i} 1.0))" for i in range(64))
    outs = "".join(f"(declare-const Y_{i} Real)" for i in range(10))
    (tmp_path / "p.vnnlib").write_text(f"{box}{outs}(assert (>= Y_0 1000.0))")
    body = f'[models]\nmlp = "{files["model"]}"\n[properties]\nsmall = "p.vnnlib"\n[[run]]\nanalyzer = "verify"\n'
    items = read_suite(write(tmp_path, body))
    with Store(tmp_path / "s") as store:
        run_suite(items, store, threads(1))
        (answer,) = store
    assert str(answer["status"]) == "holds" and str(answer.values["status"].evidence) == "PROVED"
    assert set(answer.inputs) == {"model", "property"} and answer.names["property"] == "small"


def start(folder, *options):
    command = [sys.executable, "-m", "ascertain", "run", str(folder / "suite.toml"), "--store", str(folder / "s"), *options]
    # where the tests run in the background Ctrl-C is ignored, also by what they start
    ears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=ears, **pipes)


SLOW = """
[models]
mlp = "digits_mlp"
[data]
few = {{ file = "digits", count = 4 }}
[[run]]
analyzer = "tests.runs.asking:Quick"
options = {{ pause = {pause} }}
seeds = {seeds}
"""


def test_ctrl_c_is_clean_and_the_next_run_goes_on(tmp_path):
    write(tmp_path, SLOW.format(pause=1.0, seeds=list(range(40))))
    process = start(tmp_path, "--json", "--processes", "2")
    process.stdout.readline()
    # Ctrl-C reaches the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130 and talk.startswith("interrupted; ") and "Traceback" not in talk, talk
    with Store(tmp_path / "s", read_only=True) as store:
        assert len(store) >= 1 and not store.failures()
    write(tmp_path, SLOW.format(pause=1.0, seeds=list(range(3))))
    process = start(tmp_path)
    _, talk = process.communicate(timeout=100)
    assert process.returncode == 0 and "stored before, 0 failed" in talk


def test_searches_in_this_process_do_not_keep_ctrl_c_for_themselves(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        items = [item(Quick()), item(Swallows()), item(Quick(), 1)]
        with Store(tmp_path / "s") as store:
            press = lambda i, r: Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()  # noqa: E731
            with pytest.raises(KeyboardInterrupt):
                run_suite(items, store, this_process(), notice=press)
            assert list(store.contents()) == [items[0].key]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert this_process().submit(item(Quick())).result() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_run_leaves_no_process_behind_and_loses_nothing_stored(tmp_path):
    write(tmp_path, SLOW.format(pause=1.0, seeds=list(range(40))))
    process = start(tmp_path, "--json", "--processes", "2")
    first = process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
    until = time.monotonic() + 30
    while group(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not group(process.pid), "workers outlive their parent"
    with Store(tmp_path / "s", read_only=True) as store:
        store.check()
        assert all(key in first for key in list(store.contents())[:1])


def group(leader):
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(stat.parent.name)
    return found

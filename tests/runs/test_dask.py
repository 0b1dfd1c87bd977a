"""A Dask cluster of two processes on loopback, one of them killed while the suite runs."""

import os
import signal

import pytest

from ascertain.errors import InputError, ResourceError
from ascertain.runs import Store, Workers, dask_workers, local_workers, run_suite
from tests.runs.asking import Dies, Quick, Raises, item

dask = pytest.importorskip("dask", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as running:
        yield running


def test_one_of_two_workers_is_killed_and_the_results_are_the_same(tmp_path, cluster):
    items = [*(item(Quick(0.1), seed) for seed in range(30)), item(Raises())]
    with Store(tmp_path / "undisturbed") as store:
        run_suite(items, store, local_workers(2))
        expected = store.contents()
    killed = []

    def kill(_, record):
        if len(killed) == 0 and record.seed > 3:
            with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
                killed.append(min(client.run(os.getpid).values()))
            os.kill(killed[0], signal.SIGKILL)

    with Store(tmp_path / "s") as store:
        done = run_suite(items, store, dask_workers(cluster.scheduler_address), notice=kill)
        assert store.contents() == expected and len(store.failures()) == 1
    assert len(killed) == 1 and (done.stored, done.failed) == (31, 1)


def test_an_item_that_kills_every_worker_is_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(dask.config.config["distributed"]["scheduler"], "allowed-failures", 1)
    items = [item(Dies()), *(item(Quick(), seed) for seed in range(3))]
    with Store(tmp_path / "s") as store:
        done = run_suite(items, store, dask_workers("local", 1))
        assert (done.stored, done.failed) == (4, 1)
        assert store.get(items[0].key).error == "WorkerDied"


def test_a_cluster_that_goes_away_is_named_and_nothing_stored_is_lost(tmp_path, cluster):
    items = [item(Quick(0.1), seed) for seed in range(20)]
    with Store(tmp_path / "s") as store:
        with pytest.raises(ResourceError, match="went away"):
            run_suite(items, store, dask_workers(cluster.scheduler_address), notice=lambda *_: cluster.close())
        assert 1 <= len(store) < 20 and not store.failures()
        assert run_suite(items, store, local_workers(2)).items == len(store) == 20


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("ascertain.runs.executors._PATIENCE", 0.5)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9"):
        dask_workers("tcp://127.0.0.1:9")
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(InputError, match="pip install distributed"):
        dask_workers("local")


def test_workers_are_plain_data():
    assert {"submit", "most", "close", "renew", "broken"} == set(Workers.__dataclass_fields__)

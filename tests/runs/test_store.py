"""The store keeps what it was given, tells what is wrong with files, and loses nothing when the disk is full."""

import json
import resource
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ascertain.analyze.result import Cost, Failure, Measured, Result
from ascertain.errors import InputError, ResourceError
from ascertain.evidence import Evidence
from ascertain.runs import Store, export
from ascertain.runs.comparison import compare


def result(seed=0, value=1.5, size=3):
    head = {"analyzer": "made", "version": 1, "options": {"a": 1}, "inputs": {"model": "0" * 64}, "names": {"model": "m"}}
    values = {
        "value": Measured(np.array(value), Evidence.PROVED, "a number", np.array(value - 1), np.array(np.inf)),
        "array": Measured(np.random.default_rng(seed).normal(size=(size, 2)), Evidence.ESTIMATED),
        "words": Measured(np.array(["é", "<b>", ""]), Evidence.EXACT),
        "empty": Measured(np.zeros((0, 4)), Evidence.EXACT),
    }
    rest = {"seed": seed, "versions": {"python": "3"}, "machine": "m", "started": "2020-01-01T00:00:00+00:00"}
    return Result(**head, **rest, cost=Cost(1.0, 2.0, 3), values=values)


def failure(seed=0):
    r = result(seed)
    names = ("analyzer", "version", "options", "inputs", "names", "seed", "versions", "machine", "started", "cost")
    return Failure(**{n: getattr(r, n) for n in names}, error="ValueError", message="no")


def test_records_come_back_to_the_bit_and_stay(tmp_path):
    with Store(tmp_path / "s") as store:
        assert store.put(result(size=100)) and store.put(failure(1))
        assert not store.put(result(value=7.0)), "a key is written once"
    with Store(tmp_path / "s", read_only=True) as store:
        store.check()
        first, second = list(store)
        assert first.to_json() == result(size=100).to_json() and first["array"].tobytes() == result(size=100)["array"].tobytes()
        assert second.to_json() == failure(1).to_json() and store.failures() == {second.key}
        assert len(store) == 2 and first.key in store and store.contents()[first.key] == first.content
        assert store.match(first.key[:12]).key == first.key
        with pytest.raises(InputError, match="2 results"):
            store.match("")
        with pytest.raises(InputError, match="read"):
            store.put(result(5))
    with Store(tmp_path / "s") as store:
        store.replace(result(1))
        assert len(store) == 2 and store.failures() == set()


def test_files_that_are_no_stores(tmp_path):
    (tmp_path / "text").write_text("not a database at all, but longer than a header of one" * 20)
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.close()
    for name in ("text", "other"):
        before = (tmp_path / name).read_bytes()
        for mode in (True, False):
            with pytest.raises(InputError, match=name):
                Store(tmp_path / name, read_only=mode)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(InputError, match="absent"):
        Store(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()
    with pytest.raises(InputError, match="folder"):
        Store(tmp_path / "no" / "s")
    with pytest.raises(InputError, match="folder"):
        Store(tmp_path)


def test_a_newer_store_is_refused(tmp_path):
    with Store(tmp_path / "s") as store:
        store.put(result())
    raw = sqlite3.connect(tmp_path / "s")
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(InputError, match=r"format 99.*newer ascertain"):
        Store(tmp_path / "s")


def test_a_newer_record_is_refused(tmp_path):
    with Store(tmp_path / "s") as store:
        store.put(replace(result(), schema=99))
        with pytest.raises(InputError, match="schema 99"):
            list(store)


def test_damage_is_found_or_does_no_harm(tmp_path):
    with Store(tmp_path / "s") as store:
        for seed in range(20):
            store.put(result(seed))
        kept = [r.to_json() for r in store]
    good = (tmp_path / "s").read_bytes()
    random, found = np.random.default_rng(0), 0
    for place in [0, 18, 40, 100, *random.integers(0, len(good) - 16, 60)]:
        data = bytearray(good)
        for k in range(16):
            data[place + k] ^= int(random.integers(1, 256))
        (tmp_path / "s").write_bytes(bytes(data))
        try:
            with Store(tmp_path / "s", read_only=True) as store:
                store.check()
                assert [r.to_json() for r in store] == kept, "damage passed unnoticed"
        except InputError:
            found += 1
    assert found > 30


def test_one_changed_letter_is_found(tmp_path):
    with Store(tmp_path / "s") as store:
        store.put(result())
        key = result().key
    raw = sqlite3.connect(tmp_path / "s")
    raw.execute("UPDATE record SET body = replace(body, '1.5', '1.6')")
    raw.commit()
    raw.close()
    with Store(tmp_path / "s") as store, pytest.raises(InputError, match=f"{key} is damaged"):
        store.check()


def test_a_full_disk_loses_nothing(tmp_path):
    with Store(tmp_path / "s") as store:
        store.put(result())
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(ResourceError, match=r"disk is full.*make room"):
            store.put(result(1, size=10_000))
        assert len(store) == 1 and store.get(result().key).content == result().content
        store.check()
        store._connection.execute("PRAGMA max_page_count = 100000")
        assert store.put(result(1, size=10_000)) and len(store) == 2


FILL = """
import resource, signal, sys
sys.path[:0] = {path!r}
from ascertain.errors import ResourceError
from ascertain.runs import Store
from tests.runs.test_store import result
with Store({file!r}) as store:
    store.put(result(0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    for seed in range(1, 100):
        try:
            store.put(result(seed, size=500))
        except ResourceError as error:
            print(seed, error)
            break
"""


def test_writes_that_the_system_refuses_lose_nothing(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    code = FILL.format(path=sys.path, file=str(tmp_path / "s"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stored = int(done.stdout.split()[0])
    assert "make room" in done.stdout and stored > 1
    with Store(tmp_path / "s") as store:
        store.check()
        assert [r.seed for r in store] == list(range(stored))


def test_two_writers_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr("ascertain.runs.store._WAIT", 0.05)
    with Store(tmp_path / "s") as one, Store(tmp_path / "s") as two:
        one._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResourceError, match="in use"):
            two.put(result())
        one._connection.execute("ROLLBACK")
        assert two.put(result()) and not one.put(result())


def test_exports_hold_the_same_numbers(tmp_path):
    records = [result(), failure(1), result(2, np.inf, 100)]
    assert export(records, tmp_path / "r.jsonl") == 3
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines == [r.to_json() for r in records]
    import csv

    export(records, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 9
    assert [row["value"] for row in table if row["name"] == "value"] == ["1.5", "inf"]
    assert [row["low"] for row in table if row["name"] == "value"] == ["0.5", "inf"]
    arrays = [json.loads(row["array"]) for row in table if row["name"] == "array"]
    assert arrays == [records[0]["array"].ravel().tolist(), records[2]["array"].ravel().tolist()]
    assert [row["text"] for row in table if row["name"] == "error"] == ["ValueError: no"]


def test_parquet_holds_the_same_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    records = [result(), failure(1), result(2, np.inf, 100)]
    export(records, tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet").to_pylist()
    assert len(table) == 9
    for record in (records[0], records[2]):
        rows = {row["name"]: row for row in table if row["key"] == record.key}
        assert rows["value"]["value"] == record["value"] and rows["value"]["high"] == np.inf
        assert np.array_equal(np.reshape(rows["array"]["array"], rows["array"]["shape"]), record["array"])
        assert rows["words"]["words"] == record["words"].tolist() and rows["empty"]["shape"] == [0, 4]


def test_exports_are_whole_or_not_there(tmp_path):
    for name, words in (("r.txt", "no known kind"), ("no/r.csv", "cannot be written")):
        with pytest.raises(InputError, match=words):
            export([result()], tmp_path / name)
    (tmp_path / "r.csv").write_text("old")

    def broken():
        yield result()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(broken(), tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_differences(tmp_path):
    with Store(tmp_path / "a") as a, Store(tmp_path / "b") as b:
        for store in (a, b):
            store.put(result(0))
        a.put(result(1))
        b.put(result(2))
        a.put(result(3))
        b.put(result(3, 2.5))
        a.put(failure(4))
        b.put(result(4))
        found = [d.words for d in compare(a, b)]
    assert len(found) == 4 and "only in" in found[0] and "value is 1.5 | 2.5" in found
    assert any(words.startswith("ValueError: no | measured") for words in found)
    assert any(words.endswith("/b") for words in found)

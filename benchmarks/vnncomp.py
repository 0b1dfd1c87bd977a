"""Runs the instances of a VNN-COMP style list, each cold in its own process, and compares with the expected verdicts.

``python -m benchmarks.vnncomp --instances FILE --out results.jsonl`` runs (and resumes); ``... summary results.jsonl`` shows.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.summary import read_records, summary

GRACE = 20.0
"""Seconds after the timeout until a process is killed."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Instance:
    """One line of the list."""

    network: Path
    property: Path
    name: str
    kind: str
    expected: str


def read_instances(file: Path, kinds: Sequence[str], match: str) -> list[Instance]:
    """The instances of a list (columns onnx, vnnlib, expected_verdict, kind; paths relative to the list), filtered."""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = [
        Instance(
            file.parent / row["onnx"],
            file.parent / row["vnnlib"],
            f"{row['onnx']}|{row['vnnlib']}",
            row.get("kind") or "all",
            row.get("expected_verdict") or "unknown",
        )
        for row in rows
    ]
    return [i for i in found if (not kinds or i.kind in kinds) and match in i.name]


def run_one(instance: Instance, timeout: float, threads: int | None) -> dict[str, Any]:
    """Runs one instance in a fresh process group, which is killed some time after the timeout."""
    command = [sys.executable, "-m", "benchmarks.one", str(instance.network), str(instance.property), str(timeout)]
    command += [] if threads is None else ["--threads", str(threads)]
    load, started = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as talk:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=talk, start_new_session=True)
        try:
            code = process.wait(timeout + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        wall = time.monotonic() - started
        for stream in (out, talk):
            stream.seek(0)
        record = _answer(out.read(), talk.read(), code)
    wrong = {record["verdict"], instance.expected} == {"sat", "unsat"}
    if not wrong:
        record.pop("witness", None)
    head = {"instance": instance.name, "kind": instance.kind, "expected": instance.expected, "verdict": record.pop("verdict")}
    tail = {"wall": wall, "timeout": timeout, "threads": threads, "load": load, "versions": _versions()}
    return {**head, "wrong": wrong, **record, **tail}


def _answer(out: str, talk: str, code: int) -> dict[str, Any]:
    """The worker's record, or what is known of one that died."""
    try:
        record: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return record
    except (IndexError, json.JSONDecodeError):
        last = talk.strip().splitlines()[-1:] or [""]
        return {"verdict": "killed" if code == -signal.SIGKILL else "crash", "reason": f"exit code {code}: {last[0][:500]}"}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("ascertain", "numba", "numpy", "torch")}


def run_all(instances: Sequence[Instance], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Runs what the results file lacks and appends to it, one line an instance."""
    done = set()
    if options.out.exists():
        done = {(r["instance"], r["timeout"]) for r in read_records(options.out)}
        if not options.out.read_bytes().endswith(b"\n"):
            # A kill cut the last line short: what follows must not be glued to it.
            with options.out.open("a") as stream:
                stream.write("\n")
    left = [i for i in instances if (i.name, options.timeout) not in done]
    lock = Lock()

    def work(instance: Instance) -> dict[str, Any]:
        record = run_one(instance, options.timeout, options.threads)
        with lock, options.out.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        return record

    print(f"{len(instances)} instances, {len(instances) - len(left)} done before", file=sys.stderr)
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            yield from pool.map(work, left)
        finally:
            pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str]) -> int:
    """Runs or summarises; exit code 1 if any verdict is wrong."""
    if arguments[:1] == ["summary"]:
        records = [record for file in arguments[1:] for record in read_records(Path(file))]
        print(summary(records))
        return int(any(record["wrong"] for record in records))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vnncomp", description=__doc__)
    parser.add_argument("--instances", type=Path, required=True, help="list of instances (.csv)")
    parser.add_argument("--kind", action="append", default=[], help="only this kind; may be repeated")
    parser.add_argument("--match", default="", help="only instances whose paths contain this text")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each instance, start-up included")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; more than one disturbs the times")
    parser.add_argument("--threads", type=int, help="threads of each process")
    parser.add_argument("--out", type=Path, required=True, help="results (.jsonl), appended to")
    options = parser.parse_args(arguments)
    for record in run_all(read_instances(options.instances, options.kind, options.match), options):
        flag = "WRONG " if record["wrong"] else ""
        words = f"{record['verdict']:<9} {record['expected']:<8} {record['wall']:>7.2f} s  {record.get('strategy', '')}"
        print(f"{flag}{record['kind']:<20} {words}  {record['instance']}", flush=True)
    records = read_records(options.out)
    print(summary(records))
    return int(any(record["wrong"] for record in records))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

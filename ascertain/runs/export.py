"""Stored results in files that other programs read: JSON lines with everything, CSV and Parquet with one row for each value."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ascertain.analyze.result import Failure, Measured, Result, canonical
from ascertain.errors import InputError

__all__ = ["COLUMNS", "export", "rows"]

COLUMNS = (
    *("key", "analyzer", "model", "data", "seed", "options", "model_hash", "data_hash", "started", "seconds"),
    *("name", "evidence", "shape", "value", "low", "high", "text", "array"),
)
"""``value`` (with ``low`` and ``high``) of scalar numbers; ``text`` of scalar words and of errors; ``array`` of all else, flat."""


def export(records: Iterable[Result | Failure], path: Path) -> int:
    """Writes records to a .jsonl, .csv or .parquet file, whole or not at all; returns how many."""
    writers = {".jsonl": _write_lines, ".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise InputError(f"{path} is of no known kind; give a name that ends in {', '.join(writers)}.")
    found = list(records)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writers[path.suffix](found, temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); check its folder and the room on disk.") from None
    finally:
        if temporary.is_file():
            temporary.unlink()
    return len(found)


def rows(record: Result | Failure) -> Iterator[dict[str, Any]]:
    """One row for each value, one for a failure; by `COLUMNS`, None where there is nothing to say."""
    head = dict.fromkeys(COLUMNS) | {
        "key": record.key,
        "analyzer": record.analyzer,
        "model": record.names.get("model", ""),
        "data": record.names.get("data", ""),
        "seed": record.seed,
        "options": canonical(dict(record.options)),
        "model_hash": record.inputs.get("model", ""),
        "data_hash": record.inputs.get("data", ""),
        "started": record.started,
        "seconds": record.cost.wall,
    }
    if isinstance(record, Failure):
        yield head | {"name": "error", "text": f"{record.error}: {record.message}"}
        return
    for name, measured in record.values.items():
        yield head | {"name": name, "evidence": str(measured.evidence), "shape": list(measured.value.shape)} | _cell(measured)


def _cell(measured: Measured) -> dict[str, Any]:
    value = measured.value
    if value.ndim:
        return {"array": value.reshape(-1).tolist()}
    if value.dtype.kind == "U":
        return {"text": str(value)}
    ends = {"low": measured.low, "high": measured.high}
    return {"value": float(value)} | {side: float(end) for side, end in ends.items() if end is not None}


def _write_lines(records: list[Result | Failure], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(canonical(record.to_json()) + "\n")


def _write_csv(records: list[Result | Failure], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for record in records:
            for row in rows(record):
                # Python's JSON writes infinities as Infinity, which is what a CSV cell may hold.
                listed = {name: json.dumps(row[name]) for name in ("shape", "array") if row[name] is not None}
                writer.writerow(row | listed)


def _write_parquet(records: list[Result | Failure], path: Path) -> None:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError("Parquet files need pyarrow; run 'pip install pyarrow', or export to .jsonl or .csv.") from None
    real, word, whole = arrow.float64(), arrow.string(), arrow.int64()
    kinds = dict.fromkeys(COLUMNS, word) | dict.fromkeys(("value", "low", "high", "seconds"), real)
    kinds |= {"seed": whole, "shape": arrow.list_(whole), "array": arrow.list_(real), "words": arrow.list_(word)}
    schema = arrow.schema(list(kinds.items()))
    table = [_typed(row) for record in records for row in rows(record)]
    parquet.write_table(arrow.Table.from_pylist(table, schema=schema), path)


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """Lists of words in a column of their own: a column of a Parquet file has one type."""
    array = row["array"]
    if array and isinstance(array[0], str):
        return row | {"array": None, "words": array}
    return row | {"array": None if array is None else [float(v) for v in array], "words": None}

"""One SQLite file that keeps results: write-ahead log, one transaction for each, nothing half written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from ascertain.analyze.result import Failure, Result, canonical, read_record, sha256
from ascertain.errors import InputError, ResourceError

__all__ = ["FORMAT", "Store"]

FORMAT = 1
"""Version of the tables; files of newer ones are refused."""
_APPLICATION = 0x41534352
"""Written in the header of the file, so that other databases are told apart."""
_WAIT = 30.0
"""Seconds to wait for another process that writes."""

_TABLES = """
CREATE TABLE record (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('result', 'failure')),
    analyzer TEXT NOT NULL,
    content TEXT NOT NULL,
    digest TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT
"""


class Store:
    """Records by key. Open it in one process at a time to write; any number may read.

    ``read_only`` stores must exist and are never changed. Raises InputError for files that are damaged, newer than this program,
    or no store; ResourceError when the disk is full. What was committed before stays.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        self.path = Path(path)
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise InputError(f"{self.path} cannot be a store, its folder does not exist or it is one; give the path of a file.")
        if read_only and not self.path.is_file():
            raise InputError(f"{self.path} does not exist; check the path.")
        with self._guarded():
            mode = "?mode=ro" if read_only else ""
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}{mode}", uri=True, timeout=_WAIT, isolation_level=None
            )
            try:
                self._open(read_only)
            except BaseException:
                self._connection.close()
                raise

    def _open(self, read_only: bool) -> None:
        run = self._connection.execute
        (application,) = run("PRAGMA application_id").fetchone()
        (version,) = run("PRAGMA user_version").fetchone()
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and version == 0 and tables == 0 and not read_only:
            run("PRAGMA journal_mode = WAL")
            with self._transaction():
                # Another process may have been here in between.
                if not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    run(_TABLES)
                    run(f"PRAGMA application_id = {_APPLICATION}")
                    run(f"PRAGMA user_version = {FORMAT}")
        elif application != _APPLICATION:
            raise InputError(f"{self.path} is a database of something else, not a store of results; give another path.")
        elif version > FORMAT:
            raise InputError(f"{self.path} has format {version}, known here are up to {FORMAT}; install a newer ascertain.")
        if not read_only:
            # A commit is on disk when it returns: also after a loss of power.
            run("PRAGMA synchronous = FULL")
        self.check(quick=True)

    def check(self, quick: bool = False) -> None:
        """Raises InputError unless the file is sound; reads all of it, and unless ``quick`` every record."""
        with self._guarded():
            (word,) = self._connection.execute("PRAGMA quick_check(1)" if quick else "PRAGMA integrity_check(1)").fetchone()
        if word != "ok":
            raise InputError(f"{self.path} is damaged ({word}); restore a copy of it, or run the suite into a new store.")
        if quick:
            return
        with self._guarded():
            for row in self._connection.execute("SELECT key, kind, analyzer, content, digest, body FROM record"):
                if row != _row(self._read(row[0], *row[4:])):
                    raise InputError(f"{self.path}: the columns of {row[0]} are damaged; run the suite into a new store.")

    def put(self, record: Result | Failure) -> bool:
        """Keeps a record, in one transaction; False when one with its key is there already, which then stays."""
        return self._write("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING", record)

    def replace(self, record: Result | Failure) -> None:
        """Keeps a record in place of one with its key, in one transaction."""
        self._write("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?)", record)

    def _write(self, statement: str, record: Result | Failure) -> bool:
        with self._guarded(), self._transaction():
            return self._connection.execute(statement, _row(record)).rowcount == 1

    def get(self, key: str) -> Result | Failure:
        """The record of a key; raises InputError when there is none, or when it is damaged."""
        with self._guarded():
            row = self._connection.execute("SELECT digest, body FROM record WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise InputError(f"{self.path} holds no result {key}; 'ascertain show' lists what it holds.")
        return self._read(key, *row)

    def match(self, start: str) -> Result | Failure:
        """The record whose key begins so; raises InputError unless there is exactly one."""
        with self._guarded():
            keys = self._connection.execute("SELECT key FROM record WHERE substr(key, 1, ?) = ?", (len(start), start)).fetchall()
        if len(keys) != 1:
            raise InputError(f"{self.path} holds {len(keys)} results whose keys begin with {start!r}; give more of one key.")
        return self.get(keys[0][0])

    def __iter__(self) -> Iterator[Result | Failure]:
        """All records in the order in which they came."""
        with self._guarded():
            for key, digest, body in self._connection.execute("SELECT key, digest, body FROM record ORDER BY rowid"):
                yield self._read(key, digest, body)

    def _read(self, key: str, digest: str, body: str) -> Result | Failure:
        if sha256(body) != digest:
            raise InputError(f"{self.path}: result {key} is damaged; delete the file, or restore a copy of it.")
        return read_record(json.loads(body), f"{self.path}: result {key}")

    def contents(self) -> dict[str, str]:
        """Content hash by key."""
        with self._guarded():
            return dict(self._connection.execute("SELECT key, content FROM record ORDER BY rowid").fetchall())

    def failures(self) -> set[str]:
        """Keys of failures."""
        with self._guarded():
            return {key for (key,) in self._connection.execute("SELECT key FROM record WHERE kind = 'failure'")}

    def __contains__(self, key: str) -> bool:
        with self._guarded():
            return self._connection.execute("SELECT 1 FROM record WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        with self._guarded():
            return int(self._connection.execute("SELECT count(*) FROM record").fetchone()[0])

    def close(self) -> None:
        """Closes the file; the write-ahead log is folded in where nobody else uses it."""
        with self._guarded():
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Errors of the database in words that say what to do."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            # The low byte is the kind of error, the others its details.
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR:
                words = "the disk is full" if code == sqlite3.SQLITE_FULL else "the disk cannot be written or read"
                raise ResourceError(
                    f"{self.path}: {words} ({error}); what was stored before is safe, make room and run again to go on."
                ) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise ResourceError(f"{self.path} is in use by another process; wait for it, then run again.") from error
            if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
                raise InputError(f"{self.path} cannot be opened ({error}); check permissions of file and folder.") from error
            raise InputError(f"{self.path} is damaged or no store ({error}); restore a copy, or give another path.") from error


def _row(record: Result | Failure) -> tuple[str, ...]:
    """The columns of a record."""
    kind, text = "failure" if isinstance(record, Failure) else "result", canonical(record.to_json())
    return record.key, kind, record.analyzer, record.content, sha256(text), text

"""What an analysis leaves behind: frozen data that survives a round trip through JSON to the last bit."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ascertain.errors import DataError, InputError
from ascertain.evidence import Evidence, weakest

__all__ = ["SCHEMA", "Cost", "Failure", "Measured", "Record", "Result", "canonical", "question_key", "read_record", "sha256"]

SCHEMA = 1
"""Version of the form of records; readers refuse newer ones."""
_LISTED = 64
"""Arrays up to this size are stored as lists that people can read, larger ones as base64 of their little-endian bytes."""


def canonical(value: Any) -> str:
    """JSON text that is the same for equal plain values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256(*parts: str) -> str:
    """SHA-256 of texts, each with its length in front, so that no two lists of parts collide."""
    return hashlib.sha256("".join(f"{len(p)}:{p}" for p in parts).encode()).hexdigest()


def question_key(analyzer: str, version: int, options: Mapping[str, Any], inputs: Mapping[str, str], seed: int) -> str:
    """SHA-256 of a question, by which its answer is kept."""
    return sha256(analyzer, str(version), canonical(dict(options)), canonical(dict(inputs)), str(seed))


def _frozen(name: str, value: Any) -> np.ndarray:
    """A read-only little-endian array of booleans, integers, reals or text; NaN raises DataError."""
    array = np.array(value)
    if array.dtype.kind not in "biufU":
        raise DataError(f"{name} is of type {array.dtype}, which no record holds; give numbers, truth values or text.")
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        bad = np.argwhere(np.isnan(array))
        if len(bad):
            raise DataError(f"{name}{bad[0].tolist() or ''} is NaN; leave out what is undefined, or measure it otherwise.")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Measured:
    """A scalar, array or list of words with what it is worth."""

    value: np.ndarray
    """Read-only; 0-dimensional for a scalar. Reals are float64 and may be infinite, never NaN."""
    evidence: Evidence
    about: str = ""
    """One clause that says what it is, with its unit."""
    low: np.ndarray | None = None
    """Interval of an estimate, of the shape of ``value``, at the ``confidence``."""
    high: np.ndarray | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else _frozen(name, given))
        object.__setattr__(self, "evidence", Evidence(self.evidence))
        if (self.low is None) != (self.high is None):
            raise DataError("an interval has one end only; give low and high.")
        if self.low is not None and self.high is not None:
            self._check_interval(self.low, self.high)

    def _check_interval(self, low: np.ndarray, high: np.ndarray) -> None:
        if not low.shape == high.shape == self.value.shape or "U" in (low.dtype.kind, high.dtype.kind, self.value.dtype.kind):
            raise DataError(f"an interval of shape {low.shape}, {high.shape} does not fit {self.value.shape}; give equal shapes.")
        if not (np.all(low <= self.value) and np.all(self.value <= high)):
            raise DataError("an interval does not contain its value; give low <= value <= high.")
        if not 0 < self.confidence < 1:
            raise DataError(f"a confidence of {self.confidence} is none; give a number between 0 and 1.")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        body: dict[str, Any] = {"value": _encode(self.value), "evidence": str(self.evidence), "about": self.about}
        if self.low is not None and self.high is not None:
            body |= {"low": _encode(self.low), "high": _encode(self.high), "confidence": self.confidence}
        return body

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> Measured:
        """The inverse of `to_json`."""
        ends = {k: _decode(body[k]) for k in ("low", "high") if k in body}
        return Measured(
            _decode(body["value"]), Evidence[body["evidence"]], body["about"], **ends, confidence=body.get("confidence", 0.95)
        )


def _encode(array: np.ndarray) -> dict[str, Any]:
    head = {"dtype": array.dtype.str, "shape": list(array.shape)}
    plain = array.dtype.kind == "U" or (array.size <= _LISTED and (array.dtype.kind != "f" or bool(np.isfinite(array).all())))
    if plain:
        return head | {"list": array.reshape(-1).tolist()}
    return head | {"base64": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")}


def _decode(body: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(body["dtype"]), tuple(body["shape"])
    if dtype.kind not in "biufU":
        raise ValueError(f"arrays of type {dtype} are not stored")
    if "list" in body:
        return np.array(body["list"], dtype=dtype).reshape(shape)
    return np.frombuffer(base64.b64decode(body["base64"], validate=True), dtype).reshape(shape)


@dataclass(frozen=True)
class Cost:
    """What the work took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds over all threads of the process."""
    peak: int
    """Largest resident memory of the process while it worked, bytes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """What was asked, of what, and where: common to results and failures."""

    analyzer: str
    version: int
    """Of the analyzer; it counts up when its numbers change their meaning."""
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    """SHA-256 by role: model, other, data, labels, property."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What people call the inputs, by role."""
    seed: int
    versions: Mapping[str, str]
    machine: str
    device: str = "cpu"
    """What it was computed on."""
    started: str
    """UTC, ISO 8601."""
    cost: Cost
    schema: int = SCHEMA

    @property
    def place(self) -> str:
        """The machine, and the device where it is not the CPU."""
        return self.machine if self.device == "cpu" else f"{self.machine}, on {self.device}"

    @property
    def key(self) -> str:
        """SHA-256 of the question: analyzer, version, options, hashes of inputs, seed."""
        return question_key(self.analyzer, self.version, self.options, self.inputs, self.seed)

    def _head(self) -> dict[str, Any]:
        words = ("schema", "analyzer", "version", "options", "inputs", "names", "seed", "versions", "machine", "device", "started")
        return {w: getattr(self, w) for w in words} | {"cost": vars(self.cost)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(Record):
    """What an analyzer measured, by name."""

    values: Mapping[str, Measured]

    def __getitem__(self, name: str) -> np.ndarray:
        """A value by name; raises InputError for an unknown one."""
        if name not in self.values:
            raise InputError(f"{self.analyzer} measured no {name!r}; there is {', '.join(self.values) or 'nothing'}.")
        return self.values[name].value

    def evidence(self, names: Sequence[str]) -> Evidence:
        """The weakest evidence of some values, that of all of them for none."""
        found = [self.values[n].evidence for n in (names or self.values)]
        return weakest(Evidence.EXACT, *found)

    @property
    def content(self) -> str:
        """SHA-256 of the values alone: equal for runs that found the same numbers, bit for bit."""
        return sha256(canonical({name: m.to_json() for name, m in self.values.items()}))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"kind": "result", **self._head(), "values": {name: m.to_json() for name, m in self.values.items()}}


@dataclass(frozen=True, eq=False, kw_only=True)
class Failure(Record):
    """An analyzer that raised, with what it said."""

    error: str
    """Class of the error."""
    message: str

    @property
    def content(self) -> str:
        """SHA-256 of the error."""
        return sha256(self.error, self.message)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"kind": "failure", **self._head(), "error": self.error, "message": self.message}


def read_record(body: Mapping[str, Any], source: str = "the record") -> Result | Failure:
    """The record in plain JSON values; raises InputError for newer schemas and for what is no record."""
    try:
        if body["schema"] > SCHEMA:
            raise InputError(f"{source} has schema {body['schema']}, known here are up to {SCHEMA}; install a newer ascertain.")
        words = ("schema", "analyzer", "version", "options", "inputs", "names", "seed", "versions", "machine", "started")
        # Records had no device at first, when everything was computed on the CPU.
        head = {w: body[w] for w in words} | {"device": body.get("device", "cpu"), "cost": Cost(**body["cost"])}
        if body["kind"] == "failure":
            return Failure(**head, error=body["error"], message=body["message"])
        return Result(**head, values={name: Measured.from_json(m) for name, m in body["values"].items()})
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is no record of a result ({type(error).__name__}: {error}); run it again.") from None

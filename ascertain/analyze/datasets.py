"""Labelled data from files: .npz with x and y, tables with the label in the first or last column."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ascertain.errors import DataError, InputError, ShapeError

__all__ = ["read_data"]

_LARGEST = 2**31


def read_data(
    name: str, size: int, classes: int, label: str = "first", divide: float = 1.0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs (N, size) float64, divided by ``divide``, and labels (N,) int64 in [0, classes), or None for label ``none``.

    ``name``: a .npz file with x and y, or a .csv, .csv.gz or .npy table. Raises InputError with the row at fault.
    """
    if label not in ("first", "last", "none"):
        raise InputError(f"label {label!r} is no place for labels; say first, last or none.")
    if not (np.isfinite(divide) and divide > 0):
        raise InputError(f"dividing by {divide} is no scale; give a positive number.")
    x, y = _read(name, label)
    if y is not None and len(x) != len(y):
        raise ShapeError(f"{name} has {len(x)} inputs and {len(y)} labels; give one label for each input.")
    if not len(x):
        raise DataError(f"{name} holds no data; check the file.")
    if x[0].size != size:
        raise ShapeError(f"{name} has inputs of {x[0].size} numbers, the network takes {size}; check that they belong together.")
    return _checked_inputs(name, x, divide), None if y is None else _checked_labels(name, y, classes)


def _checked_inputs(name: str, x: np.ndarray, divide: float) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    if flat.dtype.kind not in "biuf":
        raise DataError(f"{name} holds inputs of type {flat.dtype}; give numbers.")
    flat = flat.astype(np.float64) / divide
    bad = ~np.isfinite(flat).all(axis=1)
    if bad.any():
        raise DataError(f"{name}: input {int(np.argmax(bad))} has entries that are not finite; remove or mend it.")
    return flat


def _checked_labels(name: str, y: np.ndarray, classes: int) -> np.ndarray:
    flat = y.reshape(-1)
    good = (flat == np.floor(flat)) & (flat >= 0) & (flat < classes) if flat.dtype.kind in "biuf" else np.zeros(flat.shape, bool)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{name}: label {flat[row]} of input {row} is none of the network's {classes} classes; say where labels are (label)."
        )
    return flat.astype(np.int64)


def _read(name: str, label: str) -> tuple[np.ndarray, np.ndarray | None]:
    path = Path(name)
    plain = path.name.removesuffix(".gz")
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                _limit(name, sum(member.file_size for member in archive.infolist()))
            with np.load(path, allow_pickle=False) as data:
                wanted = ("x",) if label == "none" else ("x", "y")
                missing = [key for key in wanted if key not in data]
                if missing:
                    raise DataError(
                        f"{name} has no array {' or '.join(missing)}; save it with the names x and y, or read it without labels."
                    )
                return np.atleast_2d(data["x"]), None if label == "none" else np.atleast_1d(data["y"])
        if path.suffix == ".npy":
            return _split(name, np.load(path, allow_pickle=False), label)
        if plain.endswith(".csv"):
            return _split(name, _table(path), label)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}); check the path.") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise DataError(f"{name} is damaged or no such file ({error}); write it again.") from None
    raise InputError(f"{name} is no data file known here; give a .npz, .csv, .csv.gz or .npy file.")


def _limit(name: str, size: int) -> None:
    if size > _LARGEST:
        raise DataError(f"{name} unpacks to more than {_LARGEST >> 30} GiB; split it.")


def _table(path: Path) -> np.ndarray:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        data = stream.read(_LARGEST + 1)
    _limit(str(path), len(data))
    lines = data.decode("utf-8", "replace").splitlines()
    if lines and not _number(lines[0].split(",")[0]):
        lines = lines[1:]
    return np.loadtxt(lines, delimiter=",", ndmin=2, comments=None)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split(name: str, table: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray | None]:
    if table.ndim != 2 or (len(table) and table.shape[1] < 2):
        raise ShapeError(f"{name} has shape {table.shape}; give a table with a label and the inputs in every row.")
    if label == "none":
        return table, None
    return (table[:, 1:], table[:, 0]) if label == "first" else (table[:, :-1], table[:, -1])

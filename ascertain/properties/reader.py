"""One door for property files: VNN-LIB 1.0 or 2.0, plain or gzipped, told apart by content."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from ascertain.errors import PropertyError
from ascertain.properties.property import Property
from ascertain.properties.vnnlib1 import parse_vnnlib1

__all__ = ["read_property"]

_LARGEST = 2**29


def read_property(path: str | Path) -> Property:
    """Reads a ``.vnnlib`` or ``.vnnlib.gz`` file; raises PropertyError with file, line and column."""
    path = Path(path)
    text = _read(path)
    name = path.name.removesuffix(".gz").removesuffix(".vnnlib")
    if re.search(r"^[ \t]*+\((?:vnnlib-version|declare-network)\b", text, re.MULTILINE):
        from ascertain.properties.vnnlib2 import parse_vnnlib2

        return parse_vnnlib2(text, str(path), name)
    return parse_vnnlib1(text, str(path), name)


def _read(path: Path) -> str:
    try:
        raw = path.open("rb")
    except OSError as error:
        raise PropertyError(f"{path}: the property file cannot be opened ({error.strerror}); check the path.") from None
    with raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            # One byte over the limit is read, so that a small archive cannot unpack to fill the memory.
            with gzip.open(raw) if packed else raw as stream:
                data = stream.read(_LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise PropertyError(f"{path}: the property file is damaged ({error}); fetch it again.") from None
    if len(data) > _LARGEST:
        raise PropertyError(f"{path}: the property file is larger than {_LARGEST >> 20} MiB; split it.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PropertyError(f"{path}: byte {error.start} of the property file is no UTF-8 text; is this a VNN-LIB file?") from None

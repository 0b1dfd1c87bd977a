"""Reads files that may be truncated, huge or hostile."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from ascertain.errors import ModelError

__all__ = ["digest", "inside", "read_bytes"]

LIMIT = 2**31 - 1
"""Largest file read, in bytes after decompression: what a protobuf message may hold."""
_SMALL = 2**28
_RATIO = 100
_CHUNK = 2**22


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a file, decompressed when its name ends in ``.gz``; raises ModelError when it cannot be had safely."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise ModelError(f"{path} has {size} bytes, the limit is {limit}; store large weights as external data.")
        return _gunzip(path, min(limit, max(_SMALL, _RATIO * size))) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist; check the path.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ModelError(f"{path} is not a complete gzip file ({error}); fetch it again.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check its permissions.") from error


def _gunzip(path: Path, limit: int) -> bytes:
    parts, total = [], 0
    with gzip.open(path, "rb") as stream:
        while part := stream.read(_CHUNK):
            total += len(part)
            if total > limit:
                raise ModelError(f"{path} decompresses to more than {limit} bytes; decompress it yourself if you trust it.")
            parts.append(part)
    return b"".join(parts)


def digest(data: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def inside(folder: Path, location: str, owner: str) -> Path:
    """The regular file at a relative location that stays inside a folder, links followed; raises ModelError otherwise."""
    relative = Path(location)
    bad = not location or "\0" in location or relative.is_absolute() or ".." in relative.parts or "\\" in location
    if not bad:
        root, target = folder.resolve(), (folder / relative).resolve()
        bad = not target.is_relative_to(root)
    if bad:
        raise ModelError(f"{owner} points at {location!r}, outside the model's folder; move the data beside the model.")
    if not target.is_file():
        raise ModelError(f"{owner} needs the file {location!r} beside the model, and it is not there; copy it there.")
    return target

"""Arrays as small PNG images."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ascertain.analyze.report.numbers import short

__all__ = ["RAMP", "TWO_SIDED", "colours", "gallery", "png"]

RAMP = ("#f4f1e8", "#a9d5c5", "#45a29b", "#17687f", "#0b2f52")
"""From little to much."""
TWO_SIDED = ("#8f2d1c", "#d98a5f", "#f6f3ec", "#6da7c4", "#14517a")
"""From negative over nought to positive."""
_SHOWN = 24


def png(pixels: np.ndarray) -> str:
    """A data address of an image (H, W, 3) of bytes."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 9)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(whole).decode('ascii')}"


def colours(values: np.ndarray, low: float, high: float, ramp: tuple[str, ...]) -> np.ndarray:
    """Bytes (..., 3) for numbers between ``low`` and ``high``; infinite ones count as the ends."""
    stops = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in ramp], float)
    places = np.clip((np.clip(values, low, high) - low) / (high - low if high > low else 1.0), 0, 1)
    at = np.linspace(0, 1, len(ramp))
    return np.stack([np.interp(places, at, stops[:, k]) for k in range(3)], axis=-1).round().astype(np.uint8)


def gallery(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Images with their companions: ``items`` (title and pictures), ``notes`` on what colours mean, ``left`` out."""
    titles = [str(t) for t in arrays["title"]] if "title" in arrays else [""] * len(arrays["image"])
    pictures = {c: a[:_SHOWN].astype(float) for c, a in arrays.items() if c != "title"}
    ends = _range(pictures["image"])
    painted: dict[str, np.ndarray] = {}
    notes = []
    for channel, array in pictures.items():
        painted[channel], note = _paint(channel, array, ends)
        notes += [note] if note else []
    items = [
        {"title": title, "pictures": [{"name": c, "source": png(p[i])} for c, p in painted.items()]}
        for i, title in enumerate(titles[:_SHOWN])
    ]
    return {"items": items, "notes": notes, "left": max(0, len(titles) - _SHOWN)}


def _range(array: np.ndarray) -> tuple[float, float]:
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _paint(channel: str, array: np.ndarray, ends: tuple[float, float]) -> tuple[np.ndarray, str]:
    """Bytes (N, H, W, 3) and a note on the colours, empty where they are those of the original."""
    low, high = _range(array)
    span = ends[1] - ends[0]
    like = low >= ends[0] - span / 2 and high <= ends[1] + span / 2 and high - low >= span / 2
    top = max(abs(low), abs(high)) or 1.0
    if array.ndim == 4:
        if like:
            return colours(array[..., :3], *ends, ("#000000", "#ffffff"))[..., 0], ""
        return colours(array[..., :3], -top, top, ("#000000", "#ffffff"))[..., 0], f"{channel}: grey is 0, ends are ±{short(top)}"
    if like:
        return colours(array, *ends, ("#000000", "#ffffff")), ""
    if low < 0:
        return colours(array, -top, top, TWO_SIDED), f"{channel}: red −{short(top)}, white 0, blue {short(top)}"
    return colours(array, 0.0, top, RAMP), f"{channel}: light 0, dark {short(top)}"

"""Resampling by the nearest neighbour, as selections along single axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ascertain.operators.arguments import argument, constant, integers, unsupported, variable
from ascertain.operators.base import Ref
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.selection import picked

__all__: list[str] = []


def _source(call: Call, size: int, out: int, scale: np.float32) -> np.ndarray:
    """The input index of each output index, in the runtime's own single precision."""
    get = call.attributes.get
    old = call.operator == "Upsample" or call.opset < 11
    mode = "asymmetric" if old else get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else get("nearest_mode", "round_prefer_floor")
    i = np.arange(out, dtype=np.float32)
    if mode == "asymmetric":
        x = i / scale
    elif mode in ("half_pixel", "pytorch_half_pixel"):
        x = (i + np.float32(0.5)) / scale - np.float32(0.5)
        x = x * 0 if mode == "pytorch_half_pixel" and out == 1 else x
    elif mode == "align_corners":
        x = i * np.float32(size - 1) / np.float32(max(out - 1, 1))
    else:
        raise unsupported(call, f"coordinates {mode}", "Use half_pixel, asymmetric or align_corners.")
    half = np.float32(0.5)
    up = {"ceil": np.ceil(x), "round_prefer_floor": np.ceil(x - half), "round_prefer_ceil": np.floor(x + half)}
    return np.asarray(np.clip(up.get(str(rounding), np.floor(x)), 0, size - 1), dtype=np.int64)


@onnx("Resize", "Upsample")
def _resize(call: Call) -> Ref:
    x = variable(call)
    if call.attributes.get("mode", "nearest") != "nearest" or call.attributes.get("antialias", 0):
        raise unsupported(call, f"mode {call.attributes.get('mode')}", "Use mode nearest.")
    place = 1 if call.operator == "Upsample" or call.opset < 11 else 2
    scales, sizes = constant(call, place, "scales"), integers(call, 3, "sizes")
    axes = call.attributes.get("axes") or range(len(x.shape))
    if scales is not None and scales.size:
        factors = [np.float32(f) for f in scales.reshape(-1)]
        wanted = [int(np.floor(np.float32(x.shape[i]) * f)) for i, f in zip(axes, factors, strict=True)]
    elif sizes:
        wanted, factors = list(sizes), [np.float32(n) / np.float32(x.shape[i]) for i, n in zip(axes, sizes, strict=True)]
    else:
        raise unsupported(call, "neither scales nor sizes", "Give one of them as a constant.")
    if call.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise unsupported(call, "a kept aspect ratio", "Give the sizes that result.")
    if place == 1 and min(factors) < 1:
        raise unsupported(call, "a scale below 1", "Export with opset 11 or later, which defines it.")
    return _selected(call, x, {i: _source(call, x.shape[i], n, f) for i, n, f in zip(axes, wanted, factors, strict=True)})


@aten("upsample_nearest1d.default", "upsample_nearest2d.default", "upsample_nearest3d.default")
@aten("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def _upsample_nearest(call: Call) -> Ref:
    x, sizes = variable(call), argument(call, 1, "output_size")
    first = 2
    given: Sequence[float | None] = (None,) * (len(x.shape) - first)
    if call.operator.endswith(".vec"):
        given = argument(call, 2, "scale_factors") or given
    else:
        given = [*call.inputs[2:], *given][: len(given)]
    chosen = {}
    for i, (size, scale) in enumerate(zip(x.shape[first:], given, strict=True)):
        out = int(sizes[i]) if sizes is not None else int(size * float(scale or 1.0))
        step = np.float32(1.0 / scale) if scale else np.float32(size) / np.float32(out)
        index = np.floor(np.arange(out, dtype=np.float32) * step).astype(np.int64)
        chosen[first + i] = np.minimum(index, size - 1)
    return _selected(call, x, chosen)


def _selected(call: Call, x: Ref, chosen: dict[int, np.ndarray]) -> Ref:
    for axis, index in chosen.items():
        if not np.array_equal(index, np.arange(x.shape[axis])):
            x = picked(call.emit, x, axis, index)
    return x

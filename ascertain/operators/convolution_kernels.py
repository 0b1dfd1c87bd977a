"""Convolutions and their transposes on CPU tensors as sums over shifted copies of a padded grid. Import when used: it loads numba.

Why not torch: its float64 convolutions and its transposed ones run at a twentieth of the machine. Here both are one loop:

- A stride s splits a grid into its s * s phases (every s-th row and column). The input of a convolution and the output of a
  transposed one are split, and what is left between phases has stride 1: each tap (ky, kx) reads one phase at a fixed shift.
- A block of the batch is copied into a zero-padded scratch grid, small enough for the cache, in which a shift is one offset
  for all positions. The product with the weights then needs no copies of patches, and is a matrix product in registers.
- Input channels that are all zero in a block, and output rows that no nonzero row reaches, cost nothing: backward bounds start
  from unit vectors, and rows of a pruned relaxation are sparse.

Every output is a plain sum of its products in some order, each product rounded at most once: gamma(terms) bounds its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["convolve", "transpose_convolve"]

_intrinsic: Any = intrinsic
_jit: Any = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy")
_line: Any = numba.njit(inline="always", error_model="numpy")  # a call on every line of a small map would cost more than the line
_FEATURES = llvmlite.binding.get_host_cpu_features()
# A tile of _ROWS output channels by three vectors is summed in registers: 24 + 3 of the 32 that AVX-512 and ARM have, 12 + 3 of
# the 16 of older x86. (Measured with AVX-512: 97 GFLOP/s in float64; one fewer vector 88, half the channels 88.)
_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16
_ROWS = 8 if _FEATURES.get("avx512f") or "sse2" not in _FEATURES else 4
_VECTORS = 3
# Terms summed at once: their tiles (24 kB) stay in the first-level cache for all output channels.
_TERMS = 128


class Layout(NamedTuple):
    """Where entry (row of the block, y, x) of a scratch channel lies, and which grid it is."""

    rows: int
    stride_row: int
    stride_y: int
    stride_x: int
    height: int
    width: int
    length: int
    origin_y: int
    origin_x: int


class Shifts(NamedTuple):
    """The taps (ky, kx, input phase, row shift, offset), grouped by output phase (first tap, last tap + 1, y, x, rows, columns)."""

    step_in: tuple[int, int]
    step_out: tuple[int, int]
    inputs: np.ndarray
    outputs: np.ndarray
    taps: np.ndarray


def _tile(rows: int) -> Any:
    """A compiled ``out[i, :] (+)= sum_k weight[k, i] * grid[offset[k]:]`` over ``rows`` channels and one tile of positions."""

    @_intrinsic
    def tile(context, grid, offset, weight, count, out, stride, more):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            grid, offset, weight, count, out, stride, more = args
            kind = context.get_value_type(signature.args[0].dtype)
            size = 8 if isinstance(kind, ir.DoubleType) else 4
            lanes, index = _BYTES // size, ir.IntType(64)
            vector = ir.VectorType(kind, lanes)
            splat = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            empty = ir.Constant(vector, ir.Undefined)

            def place(base: Any, j: int) -> Any:
                return builder.bitcast(builder.gep(base, [index(j * lanes)]), vector.as_pointer())

            spots = [(builder.gep(out, [builder.mul(stride, index(i))]), j) for i in range(rows) for j in range(_VECTORS)]
            start, resume, loop, end = builder.block, *(builder.append_basic_block(name) for name in ("resume", "sum", "store"))
            builder.cbranch(more, resume, loop)
            builder.position_at_end(resume)
            kept = [builder.load(place(*spot), align=size) for spot in spots]
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(index)
            sums = [builder.phi(vector) for _ in range(rows * _VECTORS)]
            base = builder.gep(grid, [builder.load(builder.gep(offset, [k]))])
            parts = [builder.load(place(base, j), align=size) for j in range(_VECTORS)]
            column = builder.gep(weight, [builder.mul(k, index(rows))])
            new = []
            for i in range(rows):
                one = builder.insert_element(empty, builder.load(builder.gep(column, [index(i)])), ir.IntType(32)(0))
                all_lanes = builder.shuffle_vector(one, empty, splat)
                for j in range(_VECTORS):
                    product = builder.fmul(all_lanes, parts[j], flags=("contract",))
                    new.append(builder.fadd(product, sums[i * _VECTORS + j], flags=("contract",)))
            following = builder.add(k, index(1))
            for value, block in ((index(0), start), (index(0), resume), (following, loop)):
                k.add_incoming(value, block)
            for total, old, after in zip(sums, kept, new, strict=True):
                for value, block in ((ir.Constant(vector, [0.0] * lanes), start), (old, resume), (after, loop)):
                    total.add_incoming(value, block)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
            builder.position_at_end(end)
            for value, spot in zip(new, spots, strict=True):
                builder.store(value, place(*spot), align=size)
            return context.get_dummy_value()

        return types.void(grid, offset, weight, count, out, stride, more), generate

    return tile


@_intrinsic
def _at(context, array, position):  # type: ignore[no-untyped-def]
    """Pointer to an entry of a contiguous array."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    pointer: Any = types.CPointer
    return pointer(array.dtype)(array, position), generate


_tile1, _tile2, _tile4, _tile8 = _tile(1), _tile(2), _tile(4), _tile(8)


@_jit
def _block(left):  # type: ignore[no-untyped-def]
    """Channels of the next tile: the last ones fill the smallest power of two."""
    size = _ROWS
    while size // 2 >= left:
        size //= 2
    return size


@_jit
def _pack(weight, shifts):  # type: ignore[no-untyped-def]
    """The weights in the order of the sums: by output phase, block of channels, input channel, tap, channel of the block."""
    channels, inputs = weight.shape[0], weight.shape[1]
    width = -(-channels // _ROWS) * _ROWS
    packed = np.zeros(shifts.taps.shape[0] * inputs * width, weight.dtype)
    for q in range(shifts.outputs.shape[0]):
        first, last = shifts.outputs[q, 0], shifts.outputs[q, 1]
        base = first * inputs * width
        row = 0
        while row < channels:
            size = _block(channels - row)
            for c in range(inputs):
                for t in range(first, last):
                    for i in range(min(size, channels - row)):
                        packed[base + i] = weight[row + i, c, shifts.taps[t, 0], shifts.taps[t, 1]]
                    base += size
            row += size
    return packed


@_line
def _load(source, at, jump, step, grid, to, stride, size):  # type: ignore[no-untyped-def]
    """Copies one line of a channel, of each of the rows of a block, into the grid; how many entries are nonzero (NaN is).

    Slices, so that no index can be negative and the loops stay simple; four rows at once where they lie side by side.
    """
    seen = 0
    columns, count = size
    if step == 1 and stride == 1:
        for r in range(count):
            line, cells = source[at + r * jump : at + r * jump + columns], grid[to : to + columns]
            for j in range(columns):
                cells[j] = line[j]
                seen += line[j] != 0
    else:
        for r in range(0, count - 3, 4):
            a, b = source[at + r * jump :], source[at + (r + 1) * jump :]
            c, d = source[at + (r + 2) * jump :], source[at + (r + 3) * jump :]
            cells = grid[to + r :]
            for j in range(columns):
                e, f, g, h = a[j * step], b[j * step], c[j * step], d[j * step]
                cells[j * stride], cells[j * stride + 1], cells[j * stride + 2], cells[j * stride + 3] = e, f, g, h
                seen += (e != 0) | (f != 0) | (g != 0) | (h != 0)
        for r in range(count // 4 * 4, count):
            line, cells = source[at + r * jump :], grid[to + r :]
            for j in range(columns):
                cells[j * stride] = line[j * step]
                seen += line[j * step] != 0
    return seen


@_line
def _store(sums, at, stride, bias, out, to, jump, step, size):  # type: ignore[no-untyped-def]
    """The way back from `_load`: copies one line of sums, plus the bias, to the output."""
    columns, count = size
    if step == 1 and stride == 1:
        for r in range(count):
            line, cells = sums[at : at + columns], out[to + r * jump : to + r * jump + columns]
            for n in range(columns):
                cells[n] = line[n] + bias
    else:
        for r in range(0, count - 3, 4):
            a, b = out[to + r * jump :], out[to + (r + 1) * jump :]
            c, d = out[to + (r + 2) * jump :], out[to + (r + 3) * jump :]
            line = sums[at + r :]
            for n in range(columns):
                e, f, g, h = line[n * stride], line[n * stride + 1], line[n * stride + 2], line[n * stride + 3]
                a[n * step], b[n * step], c[n * step], d[n * step] = e + bias, f + bias, g + bias, h + bias
        for r in range(count // 4 * 4, count):
            line, cells = sums[at + r :], out[to + r * jump :]
            for n in range(columns):
                cells[n * step] = line[n * stride] + bias


@_jit
def _fill(x, first, count, layout, shifts, grid, active):  # type: ignore[no-untyped-def]
    """Copies rows of a batch into the grid; marks its nonzero channels, returns its first and last nonzero line."""
    low, high = layout.height, -1
    active[:] = False
    flat = x.reshape(-1)
    _, inputs, height, width = x.shape
    ys, xs = shifts.step_in
    for p in range(shifts.inputs.shape[0]):
        y0, x0 = layout.origin_y * ys + shifts.inputs[p, 0], layout.origin_x * xs + shifts.inputs[p, 1]
        left = max(0, -(x0 // xs))
        columns = min(layout.width, (width - 1 - x0) // xs + 1) - left
        for c in range(inputs):
            channel = p * inputs + c
            for i in range(max(0, -(y0 // ys)), min(layout.height, (height - 1 - y0) // ys + 1)):
                at = ((first * inputs + c) * height + y0 + i * ys) * width + x0 + left * xs
                to = channel * layout.length + i * layout.stride_y + left * layout.stride_x
                if _load(flat, at, inputs * height * width, xs, grid, to, layout.stride_x, (columns, count)):
                    active[channel] = True
                    low, high = min(low, i), max(high, i)
    return low, high


@_jit
def _drain(sums, bias, out, first, count, layout, place, rows):  # type: ignore[no-untyped-def]
    """Writes the sums of one output phase at place = (y, x, step y, step x, lines, columns); beyond ``rows`` the bias alone."""
    y0, x0, ys, xs, lines, columns = place
    _, channels, height, width = out.shape
    flat, target = sums.reshape(-1), out.reshape(-1)
    jump = channels * height * width
    for c in range(channels):
        for m in range(lines):
            to = ((first * channels + c) * height + y0 + m * ys) * width + x0
            at = c * layout.length + m * layout.stride_y
            if rows[0] <= m < rows[1]:
                _store(flat, at, layout.stride_x, bias[c], target, to, jump, xs, (columns, count))
            else:
                for r in range(count):
                    for n in range(columns):
                        target[to + r * jump + n * xs] = bias[c]


@_jit
def _multiply(grid, offsets, weights, base, sums, segment):  # type: ignore[no-untyped-def]
    """Fills the sums of the positions of segment = (first, last + 1, channels)."""
    start, stop, channels = segment
    count, stride = np.int64(offsets.size), np.int64(sums.shape[1])
    step = _VECTORS * _BYTES // sums.itemsize
    flat = sums.reshape(-1)
    for t in range(start, stop, step):
        for k in range(0, count, _TERMS):
            row, terms, at = 0, min(_TERMS, count - k), _at(offsets, k)
            while row < channels:
                size = _block(channels - row)
                source, target = _at(grid, t), _at(flat, row * stride + t)
                weight = _at(weights, base + row * count + k * size)
                if size == 8:
                    _tile8(source, at, weight, terms, target, stride, k > 0)
                elif size == 4:
                    _tile4(source, at, weight, terms, target, stride, k > 0)
                elif size == 2:
                    _tile2(source, at, weight, terms, target, stride, k > 0)
                else:
                    _tile1(source, at, weight, terms, target, stride, k > 0)
                row += size


@_jit
def _choose(packed, base, channels, chosen, total, few):  # type: ignore[no-untyped-def]
    """The packed weights of the chosen terms of a sum."""
    to, row = 0, 0
    while row < channels:
        size = _block(channels - row)
        for k in chosen:
            for i in range(size):
                few[to + i] = packed[base + k * size + i]
            to += size
        base += total * size
        row += size


@_jit
def _phase(q, shape, layout, shifts, grid, active, packed, sums, rows):  # type: ignore[no-untyped-def]
    """Sums of one output phase on the rows (first, last + 1) that can be nonzero; whether there are any."""
    channels, inputs = shape
    first, last = shifts.outputs[q, 0], shifts.outputs[q, 1]
    total = (last - first) * inputs
    offsets, chosen = np.empty(total, np.int64), np.empty(total, np.int64)
    count = 0
    for c in range(inputs):
        for t in range(first, last):
            channel = shifts.taps[t, 2] * inputs + c
            if active[channel]:
                offsets[count] = channel * layout.length + shifts.taps[t, 4]
                chosen[count] = c * (last - first) + t - first
                count += 1
    if count == 0:
        return False
    base = first * inputs * (-(-channels // _ROWS) * _ROWS)
    weights = packed
    if count < total:
        weights = np.empty(-(-channels // _ROWS) * _ROWS * count, packed.dtype)
        _choose(packed, base, channels, chosen[:count], total, weights)
        base = 0
    columns = shifts.outputs[q, 5]
    if layout.rows == 1:
        segment = (rows[0] * layout.stride_y, (rows[1] - 1) * layout.stride_y + columns, channels)
        _multiply(grid, offsets[:count], weights, base, sums, segment)
    else:
        for m in range(rows[0], rows[1]):
            at = m * layout.stride_y
            _multiply(grid, offsets[:count], weights, base, sums, (at, at + columns * layout.stride_x, channels))
    return True


@_jit
def _part(x, weight, bias, out, packed, layout, shifts, part, parts):  # type: ignore[no-untyped-def]
    """The blocks part, part + parts, ... of the batch."""
    grid = np.zeros(shifts.inputs.shape[0] * x.shape[1] * layout.length, x.dtype)
    sums = np.empty((-(-weight.shape[0] // _ROWS) * _ROWS, layout.length), x.dtype)
    active = np.zeros(shifts.inputs.shape[0] * x.shape[1], np.bool_)
    for first in range(part * layout.rows, x.shape[0], parts * layout.rows):
        count = min(layout.rows, x.shape[0] - first)
        low, high = _fill(x, first, count, layout, shifts, grid, active)
        for q in range(shifts.outputs.shape[0]):
            begin, end, ahead, left, height, width = shifts.outputs[q]
            rows = (height, 0)
            for t in range(begin, end):
                rows = (min(rows[0], max(0, low - shifts.taps[t, 3])), max(rows[1], min(height, high + 1 - shifts.taps[t, 3])))
            if rows[0] >= rows[1] or not _phase(q, weight.shape[:2], layout, shifts, grid, active, packed, sums, rows):
                rows = (0, 0)
            steps = shifts.step_out
            _drain(sums, bias, out, first, count, layout, (ahead, left, steps[0], steps[1], height, width), rows)


class Geometry(NamedTuple):
    """All that fixes the loops, but for the batch: sizes (y, x) of input and output, and the attributes of the convolution."""

    source: tuple[int, int]
    target: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    dilation: tuple[int, int]
    transposed: bool


Tap = tuple[int, int, int, int]


def _axis(g: Geometry, axis: int) -> list[Tap]:
    """The taps (k, input phase, output phase, shift) of an axis: position m of the output reads m + shift of the input."""
    s, before, d = g.stride[axis], g.before[axis], g.dilation[axis]
    taps = range(g.kernel[axis])
    if not g.transposed:
        return [(k, (k * d - before) % s, 0, (k * d - before) // s) for k in taps]
    reach = [(k, a, a + before - k * d) for a in range(min(s, g.target[axis])) for k in taps]
    return [(k, 0, a, n // s) for k, a, n in reach if n % s == 0]


@lru_cache(maxsize=512)
def _plan(g: Geometry, channels: int, batch: int, itemsize: int, parts: int) -> tuple[Layout, Shifts]:
    """The loops for a geometry with this many input channels, and rows of a batch.

    Small maps are stored with the batch innermost, so that tiles are full whatever the width; large ones row by row, which
    copies faster, where at most a fifth of the work is lost to the padding between rows.
    """
    ys, xs = _axis(g, 0), _axis(g, 1)
    out_steps = g.stride if g.transposed else (1, 1)
    low = [min((t[3] for t in taps), default=0) for taps in (ys, xs)]
    high = [max((t[3] for t in taps), default=0) for taps in (ys, xs)]
    sizes = [-(-n // s) for n, s in zip(g.target, out_steps, strict=True)]
    height, width = (n + b - a for n, a, b in zip(sizes, low, high, strict=True))
    tile = _VECTORS * _BYTES // itemsize
    inputs = sorted({(y[1], x[1]) for y in ys for x in xs})
    line = (sizes[0] - 1) * width + sizes[1]
    rows = 1
    if prod(sizes) < 0.8 * -(-line // tile) * tile:
        # Scratch of at most 1 MB: it is written, read by every tap and must stay in the second-level cache.
        most = max(1, min(2 * tile, 2**20 // (height * width * itemsize * max(1, channels * len(inputs)))))
        rows = -(-batch // (parts * -(-batch // (most * parts))))
    order = (1, width * rows, rows) if rows > 1 else (0, width, 1)
    # One line of padding moves the channels off each other's cache sets.
    length = (-(-(height * width * rows + 2 * tile) * itemsize // 64) | 1) * 64 // itemsize
    layout = Layout(rows, *order, height, width, length, low[0], low[1])
    taps: list[tuple[int, ...]] = []
    outputs: list[tuple[int, ...]] = []
    for a in range(min(out_steps[0], g.target[0])):
        for b in range(min(out_steps[1], g.target[1])):
            first = len(taps)
            for ky, py, qy, dy in ys:
                for kx, px, qx, dx in xs:
                    if (qy, qx) == (a, b):
                        shift = (dy - low[0]) * order[1] + (dx - low[1]) * order[2]
                        taps.append((ky, kx, inputs.index((py, px)), dy - low[0], shift))
            extent = (-(-(n - p) // s) for n, p, s in zip(g.target, (a, b), out_steps, strict=True))
            outputs.append((first, len(taps), a, b, *extent))
    lists = [np.array(table, dtype=np.int64).reshape(-1, n) for table, n in ((inputs, 2), (outputs, 6), (taps, 5))]
    return layout, Shifts((1, 1) if g.transposed else g.stride, out_steps, *lists)


def _run(x: Any, weight: Any, bias: Any, g: Geometry) -> Any:
    import torch

    # Numpy asks for huge pages, which torch does not: first touching ordinary ones would take as long as the sums.
    out = torch.from_numpy(np.empty((len(x), len(weight), *g.target), dtype=np.float64 if x.dtype == torch.float64 else np.float32))
    if out.numel() == 0:
        return out
    # One thread more for every 20 million products, which take it longer than starting it.
    work = len(x) * prod(g.source if g.transposed else g.target) * weight.numel()
    parts = max(1, min(torch.get_num_threads(), work // 20_000_000, len(x)))
    layout, shifts = _plan(g, x.shape[1], len(x), x.element_size(), parts)
    offset = torch.zeros(len(weight), dtype=x.dtype) if bias is None else bias
    arrays = [t.detach().contiguous().numpy() for t in (x, weight, offset, out)]
    packed = _pack(arrays[1], shifts)
    if parts == 1:
        _part(*arrays, packed, layout, shifts, 0, 1)
        return out
    with ThreadPoolExecutor(parts) as pool:
        for _ in pool.map(lambda part: _part(*arrays, packed, layout, shifts, part, parts), range(parts)):
            pass
    return out


def _pair(values: Sequence[int], fill: int) -> tuple[int, int]:
    """One or two numbers as two; the missing first axis is of size 1."""
    return (fill, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def _geometry(
    x: Any, weight: Any, stride: Sequence[int], before: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> Geometry:
    shapes = (_pair(x.shape[2:], 1), _pair(size, 1), _pair(weight.shape[2:], 1))
    return Geometry(*shapes, _pair(stride, 1), _pair(before, 0), _pair(dilation, 1), False)


def convolve(
    x: Any, weight: Any, bias: Any, stride: Sequence[int], before: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> Any:
    """Cross-correlation of ``(M, C, *S)`` with ``(O, C, *K)`` as ``(M, O, *size)``; S follows ``before`` zeros."""
    g = _geometry(x, weight, stride, before, dilation, size)
    y = _run(x.reshape(*x.shape[:2], *g.source), weight.reshape(*weight.shape[:2], *g.kernel), bias, g)
    return y.reshape(*y.shape[:2], *size)


def transpose_convolve(
    x: Any, weight: Any, bias: Any, stride: Sequence[int], before: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> Any:
    """Transpose of `convolve`: ``(M, O, *T)`` with ``(O, C, *K)`` to ``(M, C, *size)``."""
    g = _geometry(x, weight, stride, before, dilation, size)._replace(transposed=True)
    turned = weight.transpose(0, 1).reshape(weight.shape[1], weight.shape[0], *g.kernel)
    y = _run(x.reshape(*x.shape[:2], *g.source), turned, bias, g)
    return y.reshape(*y.shape[:2], *size)

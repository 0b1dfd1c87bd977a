"""The compiled convolutions agree with torch and with exact sums, wherever they run and wherever torch still does."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascertain.operators import Conv, ConvTranspose
from ascertain.operators.convolution import compiled, crop_or_pad
from ascertain.operators.convolution_kernels import convolve, transpose_convolve

DTYPES = [torch.float64, torch.float32]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation = each(1, 4), each(1, 3), each(1, 2)
    pads = tuple(zip(each(0, 3), each(0, 3), strict=True))
    least = [max(1, d * (k - 1) + 1 - a - b) for d, k, (a, b) in zip(dilation, kernel, pads, strict=True)]
    size = tuple(n + extra for n, extra in zip(least, each(0, 9), strict=True))
    rows, channels, out = draw(st.sampled_from([1, 2, 5, 31, 60])), draw(st.integers(1, 11)), draw(st.integers(1, 11))
    r = np.random.default_rng(draw(st.integers(0, 99)))
    operator = Conv(r.normal(size=(out, channels, *kernel)), r.normal(size=out), stride, pads, dilation)
    shape = (1, channels, *size)
    x, g = r.normal(size=(rows, *shape)), r.normal(size=(rows, *operator.infer(shape)))
    for values in (x, g):
        if draw(st.booleans()):  # a patch of some channels, as the gradient of a single neuron
            values[:, :, 1:] = 0
            values[:, :, :, : draw(st.integers(0, 4))] = 0
    return {"operator": operator, "x": x, "g": g, "threads": draw(st.integers(1, 2)), "dtype": draw(st.sampled_from(DTYPES))}


def reference(operator: Conv, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient by torch's own convolution in float64."""
    x = x.double().requires_grad_()
    weight, bias = torch.from_numpy(operator.weight), torch.from_numpy(operator.bias)
    apply = getattr(torch.nn.functional, f"conv{len(operator.pads)}d")
    y = apply(crop_or_pad(x[:, 0], operator.pads), weight, bias, operator.stride, 0, operator.dilation)
    return y[:, None].detach(), torch.autograd.grad((y * g[:, 0].double()).sum(), x)[0]


@settings(max_examples=100, deadline=None)
@given(cases())
def test_agree_with_torch(case: dict[str, Any]) -> None:
    operator, dtype = case["operator"], case["dtype"]
    x, g = (torch.from_numpy(case[name]).to(dtype) for name in ("x", "g"))
    weight, bias = (torch.from_numpy(a).to(dtype) for a in (operator.weight, operator.bias))
    before = [a for a, _ in operator.pads]
    y, gradient = reference(operator, x, g)
    threads = torch.get_num_threads()
    torch.set_num_threads(case["threads"])
    try:
        found = convolve(x[:, 0], weight, bias, operator.stride, before, operator.dilation, y.shape[3:])
        back = transpose_convolve(g[:, 0], weight, None, operator.stride, before, operator.dilation, x.shape[3:])
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[:, None].double(), y, rtol=0, atol=TOLERANCE[dtype] * 10)
    torch.testing.assert_close(back[:, None].double(), gradient, rtol=0, atol=TOLERANCE[dtype] * 10)


def large(dtype: torch.dtype, stride: int, groups: int = 1) -> tuple[Conv, tuple[int, ...], torch.Tensor, torch.Tensor]:
    """An operator on which the compiled loops run, with an input and a gradient."""
    r = np.random.default_rng(3)
    conv = Conv(r.normal(size=(12, 6 // groups, 4, 3)), r.normal(size=12), (stride, stride), ((1, 2), (0, 1)), (1, 1), groups)
    shape = (1, 6, 12, 10)
    x, g = r.normal(size=(64, *shape)), r.normal(size=(64, *conv.infer(shape)))
    return (
        conv.convert(lambda a: torch.from_numpy(a).to(dtype)),
        shape,
        torch.from_numpy(x).to(dtype),
        torch.from_numpy(g).to(dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_where_they_run(dtype: torch.dtype, stride: int) -> None:
    conv, _, x, _ = large(dtype, stride)
    x = x[:, 0]
    assert compiled(x, conv.weight, conv.bias, conv, 30) == (dtype == torch.float64)
    assert compiled(x, conv.weight, None, conv, 30, single=True)
    assert not compiled(x[:0], conv.weight, None, conv, 30, single=True)
    assert not compiled(x, conv.weight.clone().requires_grad_(), None, conv, 30, single=True)
    assert not compiled(x, conv.weight[:, :, :1, :1], None, conv, 10**6, single=True)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_operator_in_any_split(dtype: torch.dtype, stride: int, groups: int) -> None:
    conv, shape, x, g = large(dtype, stride, groups)
    y, (back,) = conv.forward(x), conv.adjoint(g, shape)
    for cut in (1, 7, 64):
        firsts = range(0, len(x), cut)
        parts = torch.cat([conv.forward(x[i : i + cut]) for i in firsts])
        torch.testing.assert_close(parts, y, rtol=0, atol=10 * TOLERANCE[dtype])
        parts = torch.cat([conv.adjoint(g[i : i + cut], shape)[0] for i in firsts])
        torch.testing.assert_close(parts, back, rtol=0, atol=10 * TOLERANCE[dtype])
    torch.testing.assert_close((conv.linear(x).double() * g).sum(), (back.double() * x).sum(), rtol=1e-4, atol=0)
    assert conv.forward(x[:0]).shape == (0, *conv.infer(shape)) and conv.adjoint(g[:0], shape)[0].shape == (0, *shape)


def test_not_contiguous() -> None:
    conv, shape, x, g = large(torch.float64, 2)
    turned = x.transpose(3, 4).contiguous().transpose(3, 4)
    assert not turned.is_contiguous()
    assert torch.equal(conv.forward(turned), conv.forward(x))
    assert torch.equal(conv.adjoint(g.repeat(2, 1, 1, 1, 1)[::2], shape)[0][:32], conv.adjoint(g[::2], shape)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("rows", [3, 64])
def test_what_is_not_a_number_reaches_what_it_touches(bad: float, stride: int, rows: int) -> None:
    conv, shape, x, g = large(torch.float64, stride)
    x, g = x[:rows], g[:rows]
    x[1, 0, 2, 5, 4] = g[1, 0, 3, 1, 2] = bad
    for part in (x, g):  # alone in its channel, where a skipped zero channel would lose it
        kept = part[1].clone()
        part[1] = torch.where(torch.isfinite(kept), 0.0, kept)
    touched, back = torch.zeros_like(x), torch.zeros_like(g)
    touched[1, 0, 2, 5, 4] = back[1, 0, 3, 1, 2] = 1
    apply = (conv.stride, [1, 0], (1, 1))
    y = convolve(x[:, 0], conv.weight, None, *apply, g.shape[3:])
    z = transpose_convolve(g[:, 0], conv.weight, None, *apply, shape[2:])
    assert torch.equal(torch.isfinite(y), convolve(touched[:, 0], conv.weight, None, *apply, g.shape[3:]) == 0)
    assert torch.equal(torch.isfinite(z), transpose_convolve(back[:, 0], conv.weight, None, *apply, shape[2:]) == 0)


def exact(x: np.ndarray, weight: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """The convolution of one map, in fractions."""
    of = np.vectorize(Fraction, otypes=[object])
    padded = of(np.pad(x, ((0, 0), (pad, pad), (pad, pad))))
    w, size = of(weight), weight.shape[2]
    spots = range(0, padded.shape[1] - size + 1, stride)
    y = np.empty((len(weight), len(spots), len(spots)), dtype=object)
    for o, (i, a), (j, b) in product(range(len(weight)), enumerate(spots), enumerate(spots)):
        y[o, i, j] = (w[o] * padded[:, a : a + size, b : b + size]).sum()
    return y


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("stride", [1, 2])
def test_rounding_stays_within_gamma(scale: float, stride: int) -> None:
    r = np.random.default_rng(5)
    weight = r.normal(size=(3, 4, 3, 3)) * 10.0 ** r.integers(-6, 7, size=(3, 4, 3, 3))
    x = r.normal(size=(4, 6, 6)) * scale * 10.0 ** r.integers(-6, 7, size=(4, 6, 6))
    conv = Conv(weight, None, (stride, stride), ((1, 1), (1, 1)), (1, 1))
    n = conv.terms((1, 4, 6, 6))
    gamma = Fraction(n, 2**53) / (1 - Fraction(n, 2**53))
    true, size = exact(x, weight, stride, 1), exact(abs(x), abs(weight), stride, 1)
    found = convolve(torch.from_numpy(x)[None], torch.from_numpy(weight), None, conv.stride, (1, 1), (1, 1), true.shape[1:])[
        0
    ].numpy()
    assert all(abs(Fraction(float(f)) - t) <= gamma * s for f, t, s in zip(found.flat, true.flat, size.flat, strict=True))

    # The transpose, row by row of the matrix of the convolution.
    g = r.normal(size=true.shape) * scale
    unit = torch.eye(x.size, dtype=torch.float64).reshape(-1, *x.shape)
    matrix = torch.nn.functional.conv2d(unit, torch.from_numpy(weight), None, stride, 1).reshape(x.size, -1).numpy()
    back = transpose_convolve(torch.from_numpy(g)[None], torch.from_numpy(weight), None, conv.stride, (1, 1), (1, 1), x.shape[1:])
    for value, row in zip(back.numpy().ravel(), matrix, strict=True):
        terms = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, g.flat, strict=True) if a != 0]
        assert abs(Fraction(float(value)) - sum(terms)) <= gamma * sum(map(abs, terms))


def test_transposed_operator() -> None:
    r = np.random.default_rng(7)
    operator = ConvTranspose(r.normal(size=(6, 5, 4, 3)), r.normal(size=5), (2, 3), ((1, 2), (0, 1)), (1, 1), (1, 0))
    operator = operator.convert(torch.from_numpy)
    shape = (1, 6, 7, 6)
    x, g = torch.from_numpy(r.normal(size=(40, *shape))), torch.from_numpy(r.normal(size=(40, *operator.infer(shape))))
    assert prod((40, 42, *operator.weight.shape)) >= 2**19
    y = torch.nn.functional.conv_transpose2d(x[:, 0], operator.weight, operator.bias, operator.stride)
    y = torch.nn.functional.pad(y, (0, -1, -1, -1))[:, None]
    torch.testing.assert_close(operator.forward(x), y, rtol=0, atol=1e-11)
    back = operator.adjoint(g, shape)[0]
    torch.testing.assert_close((operator.linear(x) * g).sum(), (back * x).sum(), rtol=1e-10, atol=0)

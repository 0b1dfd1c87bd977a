"""Scaled dot-product attention, in products and softmax."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np

from ascertain.operators.affine import combined, scaled, times
from ascertain.operators.arguments import argument, array, real, unsupported
from ascertain.operators.base import Ref, Shape
from ascertain.operators.bilinear import matrix_product
from ascertain.operators.masking import masked
from ascertain.operators.movement import reshaped, transposed
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.selection import picked
from ascertain.operators.softmax import softmax

__all__: list[str] = []


def _shape(value: object) -> Shape:
    return value.shape if isinstance(value, Ref) else tuple(np.shape(array(value)))


def _swapped(call: Call, value: object) -> object:
    """A value or constant with its last two axes exchanged."""
    if not isinstance(value, Ref):
        return array(value).swapaxes(-1, -2)
    rank = len(value.shape)
    return transposed(call, value, (*range(rank - 2), rank - 1, rank - 2))


def _repeated(call: Call, value: object, heads: int) -> object:
    """Keys or values with each head repeated, so that there are as many as queries have."""
    own = _shape(value)[-3]
    if heads % own:
        raise unsupported(call, f"{heads} heads of queries for {own} of keys or values", "Let the second divide the first.")
    index = np.repeat(np.arange(own), heads // own)
    if not isinstance(value, Ref):
        return array(value).take(index, axis=-3)
    return value if heads == own else picked(call.emit, value, len(value.shape) - 3, index)


def attention(call: Call, query: object, key: object, value: object, mask: object, causal: bool, scale: float | None) -> Ref:
    """softmax(scale query key^T + mask) value; ``(..., L, E)``, ``(..., S, E)``, ``(..., S, V)``, any of them constant.

    The mask broadcasts to ``(..., L, S)``: true or false for what is shown, or numbers to add. ``causal`` shows the first i + 1
    keys to query i. The scale is 1 / sqrt(E) unless given.
    """
    if min(len(_shape(v)) for v in (query, key, value)) < 2:
        raise unsupported(call, "queries, keys or values of one axis", "Give each positions and features.")
    factor = 1 / sqrt(_shape(query)[-1]) if scale is None else scale
    query = scaled(call.emit, query, factor) if isinstance(query, Ref) else times(query, factor)
    turned = _swapped(call, key)
    if not isinstance(query, Ref) and not isinstance(turned, Ref):
        raise unsupported(call, "constant queries and keys", "Replace the attention by a product with its constant weights.")
    scores = matrix_product(call, query, turned)
    if isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
        if np.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise unsupported(call, f"a mask of shape {mask.shape} for scores {scores.shape}", "Give it the shape of the scores.")
        scores = masked(scores, ~mask)
    elif mask is not None:
        scores = combined(call, scores, mask)
    if causal:
        length, keys = scores.shape[-2:]
        scores = masked(scores, np.tri(length, keys) == 0)
    return matrix_product(call, softmax(call, scores, len(scores.shape) - 1), value)


@aten("scaled_dot_product_attention.default")
def _scaled_dot_product_attention(call: Call) -> Ref:
    query, key, value = call.inputs[:3]
    if float(argument(call, 4, "dropout_p", 0.0)):
        raise unsupported(call, "dropout", "Export the model in evaluation mode.")
    if call.attributes.get("enable_gqa", False):
        heads = _shape(query)[-3]
        key, value = _repeated(call, key, heads), _repeated(call, value, heads)
    mask, causal = argument(call, 3, "attn_mask"), bool(argument(call, 5, "is_causal", False))
    return attention(call, query, key, value, mask, causal, real(call, 7, "scale", None))


@aten(
    "_scaled_dot_product_attention_math.default",
    "_scaled_dot_product_flash_attention_for_cpu.default",
)
def _math_attention(call: Call) -> tuple[Ref, ...]:
    if "flash" in call.operator:
        rest = (call.attributes.get("attn_mask"), *call.inputs[3:])
        call = replace(call, inputs=(*call.inputs[:3], *rest))
    elif argument(call, 6, "dropout_mask") is not None:
        raise unsupported(call, "dropout", "Export the model in evaluation mode.")
    return (_scaled_dot_product_attention(call),)


@onnx("Attention")
def _attention_onnx(call: Call) -> Ref:
    get = call.attributes.get
    query, key, value, mask, *past = (*call.inputs, None, None, None)[:7]
    if any(p is not None for p in past) or call.outputs > 1:
        raise unsupported(call, "past keys and values", "Give it all keys and values at once.")
    if float(get("softcap", 0.0)) or int(get("qk_matmul_output_mode", 0)):
        raise unsupported(call, "softcap or an output of scores", "Export the model without them.")
    flat = len(_shape(query)) == 3
    if flat:
        heads, own = int(get("q_num_heads", 0)), int(get("kv_num_heads", 0))
        query, key, value = (_heads(call, v, n) for v, n in ((query, heads), (key, own), (value, own)))
    heads = _shape(query)[-3]
    key, value = _repeated(call, key, heads), _repeated(call, value, heads)
    y = attention(call, query, key, value, mask, bool(get("is_causal", 0)), real(call, 7, "scale", None))
    if not flat:
        return y
    batch, heads, length, size = y.shape
    return reshaped(call, transposed(call, y, (0, 2, 1, 3)), (batch, length, heads * size))


def _heads(call: Call, value: object, heads: int) -> object:
    """``(B, L, heads * E)`` as ``(B, heads, L, E)``."""
    batch, length, width = _shape(value)
    if heads < 1 or width % heads:
        raise unsupported(call, f"{heads} heads for {width} features", "Let the number of heads divide the features.")
    shape = (batch, length, heads, width // heads)
    if not isinstance(value, Ref):
        return array(value).reshape(shape).swapaxes(1, 2)
    return transposed(call, reshaped(call, value, shape), (0, 2, 1, 3))

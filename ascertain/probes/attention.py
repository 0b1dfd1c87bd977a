"""Where attention looks: entropy per head, and the energy landscape of attention as an associative memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import t as student
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ascertain.errors import DataError, ModelError
from ascertain.evidence import Evidence
from ascertain.probes.capture import forward, unknown, untouched

__all__ = ["AttentionEntropy", "Metastability", "attention_entropy", "attention_weights", "hopfield_energy", "hopfield_states"]

SOFTMAX = frozenset({functional.softmax, torch.softmax, torch.Tensor.softmax})


@dataclass(frozen=True, eq=False)
class AttentionEntropy:
    """Entropy of the attention of each head, in nats and as a share of the largest there can be."""

    nats: np.ndarray
    """(heads,) mean over queries and samples."""
    error: np.ndarray
    """Half the width of the 95 % interval over samples."""
    relative: np.ndarray
    """(heads,) mean over queries of the entropy over log of the number of keys they may see: 0 one key, 1 uniform."""
    samples: int
    evidence: Evidence = Evidence.ESTIMATED


def attention_weights(
    net: nn.Module, data: Any, layers: Sequence[str] | None = None, *, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Attention (n, heads, queries, keys) of every part of a network, or of the named ones, by the part that attends.

    Seen are `torch.nn.MultiheadAttention`, `scaled_dot_product_attention`, and softmax over the last of four axes; ``name#2`` is
    the second call in one pass. The network computes what it always does. Raises ModelError, DataError, ShapeError.
    """
    if not getattr(data, "shape", ()) or len(data) < 4:
        raise DataError("attention needs data of shape (n, ...) with n >= 4; give more samples.")
    kept: dict[str, list[np.ndarray]] = {}
    with untouched(net), ExitStack() as hooks:
        watch = _Watch()
        for name, part in net.named_modules():
            hooks.callback(part.register_forward_pre_hook(partial(watch.enter, name or "output")).remove)
            hooks.callback(part.register_forward_hook(watch.leave).remove)
        for start in range(0, len(data), batch_size):
            batch = data[start : start + batch_size]
            with watch:
                forward(net, batch)
            for name, value in watch.taken(len(batch)).items():
                kept.setdefault(name, []).append(value)
    for name in layers or ():
        if name not in kept:
            raise unknown(name, tuple(kept), f"the attention of {type(net).__name__}")
    if not kept:
        raise ModelError(f"no attention was seen in {type(net).__name__}; give attention_entropy() its weights.")
    return {name: np.concatenate(kept[name]) for name in layers or kept}


class _Watch(TorchFunctionMode):
    """Records attention as it is computed, by the innermost module that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.found: dict[str, torch.Tensor] = {}

    def enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        self.running.append(name)

    def leave(self, module: nn.Module, inputs: Any, result: Any) -> None:
        self.running.pop()

    def taken(self, samples: int) -> dict[str, np.ndarray]:
        """What one pass over so many samples gave."""
        found, self.found = self.found, {}
        return {name: value.float().cpu().numpy() for name, value in found.items() if len(value) == samples}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            asked = {**kwargs, "need_weights": True, "average_attn_weights": False}
            result, weights = cast(tuple[torch.Tensor, torch.Tensor], func(*args, **asked))
            self.record(weights if weights.ndim == 4 else weights[None])
            if not kwargs.get("need_weights", True):
                return result, None
            return result, weights.mean(-3) if kwargs.get("average_attn_weights", True) else weights
        result = func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            self.record(_dot_product(*args, **kwargs))
        elif func in SOFTMAX and result.ndim == 4 and (kwargs.get("dim", args[1] if len(args) > 1 else None)) in (-1, 3):
            self.record(result)
        return result

    def record(self, weights: torch.Tensor) -> None:
        name, count = self.running[-1], 2
        while name in self.found:
            name, count = f"{self.running[-1]}#{count}", count + 1
        self.found[name] = weights.detach().clone()


def _dot_product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The weights (n, heads, queries, keys) that scaled_dot_product_attention uses with these arguments."""
    if query.ndim == 3:
        query, key = query[:, None], key[:, None]
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    if attn_mask is not None:
        if attn_mask.ndim == 3:
            attn_mask = attn_mask[:, None]
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1)


def attention_entropy(weights: Any) -> AttentionEntropy:
    """Entropy -sum a log a of attention (n, heads, queries, keys) whose rows sum to 1; keys masked for all samples do not count.

    A causal query i sees i keys and its entropy is at most log(i); a query that sees one key has relative entropy 0.
    """
    a = np.asarray(weights, dtype=np.float64)
    if a.ndim != 4 or len(a) < 2:
        raise DataError(f"attention of shape {a.shape} is not (n >= 2, heads, queries, keys); reshape it.")
    if not np.isfinite(a).all() or (a < 0).any() or np.abs(a.sum(-1) - 1).max() > 1e-3:
        raise DataError("attention holds negative numbers, NaN, or rows that do not sum to 1; give weights after the softmax.")
    entropy = -(a * np.log(np.where(a > 0, a, 1.0))).sum(-1)
    seen = (a > 0).any((0, 1)).sum(-1)
    most = np.log(np.maximum(seen, 2))
    per = entropy.mean(2)
    error = student.ppf(0.975, len(a) - 1) * per.std(0, ddof=1) / np.sqrt(len(a))
    relative = (entropy / most)[:, :, seen > 1].mean((0, 2)) if (seen > 1).any() else np.zeros(a.shape[1])
    return AttentionEntropy(per.mean(0), error, relative, len(a))


def hopfield_energy(patterns: Any, states: Any, beta: float = 1.0) -> np.ndarray:
    """Energy (n,) of states (n, d) among patterns (N, d) (Ramsauer et al., 2021); no update ever raises it.

    E = -logsumexp(beta X x) / beta + |x|^2 / 2 + log(N) / beta + M^2 / 2, with M the largest norm of a pattern.
    """
    x, s = _memory(patterns, states, beta)
    largest = (x * x).sum(1).max()
    return np.asarray(-logsumexp(beta * s @ x.T, axis=1) / beta + (s * s).sum(1) / 2 + np.log(len(x)) / beta + largest / 2)


@dataclass(frozen=True, eq=False)
class Metastability:
    """Where the update x -> X softmax(beta X x) ends when it starts at every pattern."""

    states: np.ndarray
    """(k, d) distinct fixed points."""
    members: np.ndarray
    """(N,) which of them each pattern ends at."""
    patterns_per_state: np.ndarray
    """(k,) how many patterns hold 90 % of the softmax at a fixed point: 1 stored, N the global average, between metastable."""
    energies: np.ndarray
    """(k,)"""
    converged: np.ndarray
    """(N,) whether the update came to rest."""
    evidence: Evidence = Evidence.BOUNDED


def hopfield_states(patterns: Any, beta: float = 1.0, *, steps: int = 1000, tolerance: float = 1e-9) -> Metastability:
    """Fixed points of the Hopfield update from all patterns (N, d); two that differ by less than 1e-4 of the patterns are one."""
    x, s = _memory(patterns, patterns, beta)
    scale = float(np.linalg.norm(x, axis=1).max()) or 1.0
    moved = np.full(len(x), np.inf)
    for _ in range(steps):
        following = softmax(beta * s @ x.T, axis=1) @ x
        moved, s = np.linalg.norm(following - s, axis=1), following
        if moved.max() <= tolerance * scale:
            break
    found: list[int] = []
    members = np.zeros(len(x), dtype=np.int64)
    for i in range(len(x)):
        near = [k for k, j in enumerate(found) if np.linalg.norm(s[i] - s[j]) < 1e-4 * scale]
        members[i] = near[0] if near else len(found)
        if not near:
            found.append(i)
    states = s[found]
    shares = -np.sort(-softmax(beta * states @ x.T, axis=1), axis=1)
    needed = (np.cumsum(shares, axis=1) < 0.9).sum(1) + 1
    return Metastability(states, members, needed, hopfield_energy(x, states, beta), moved <= tolerance * scale)


def _memory(patterns: Any, states: Any, beta: float) -> tuple[np.ndarray, np.ndarray]:
    x, s = np.asarray(patterns, dtype=np.float64), np.asarray(states, dtype=np.float64)
    if x.ndim != 2 or s.ndim != 2 or x.shape[1] != s.shape[1] or not len(x) or not beta > 0:
        raise DataError(f"patterns {x.shape}, states {s.shape} and beta={beta} do not fit; give (N, d), (n, d) and beta > 0.")
    if not np.isfinite(x).all() or not np.isfinite(s).all():
        raise DataError("patterns or states hold NaN or infinite numbers; leave them out.")
    return x, s

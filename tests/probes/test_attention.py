"""Entropy of attention and the Hopfield energy, against closed forms."""

from math import log

import numpy as np
import pytest
import torch
from torch import nn

from ascertain.errors import DataError, ModelError
from ascertain.probes.attention import attention_entropy, attention_weights, hopfield_energy, hopfield_states


def test_entropy_of_uniform_sharp_and_causal_heads():
    t = 6
    uniform, sharp = np.full((t, t), 1 / t), np.eye(t)
    causal = np.tril(np.ones((t, t)))
    causal /= causal.sum(1, keepdims=True)
    found = attention_entropy(np.stack([np.stack([uniform, sharp])] * 4))
    np.testing.assert_allclose(found.nats, [log(t), 0.0], atol=1e-12)
    np.testing.assert_allclose(found.relative, [1.0, 0.0], atol=1e-12)
    found = attention_entropy(np.stack([causal[None]] * 4))
    assert found.relative[0] == pytest.approx(1.0) and found.error[0] == pytest.approx(0.0, abs=1e-12)
    assert found.nats[0] == pytest.approx(np.mean(np.log(np.arange(1, t + 1))))
    assert attention_entropy(np.ones((3, 2, 1, 1))).relative.tolist() == [0.0, 0.0]
    for wrong in (uniform, np.full((2, 1, 3, 3), 0.5), np.full((2, 1, 2, 2), np.nan), np.ones((1, 1, 1, 1))):
        with pytest.raises(DataError):
            attention_entropy(wrong)


def test_weights_of_modules_that_do_not_hand_them_out():
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).train()
    x = torch.randn(7, 5, 8)
    found = attention_weights(net, x.double().numpy(), batch_size=3)
    assert list(found) == ["layers.0.self_attn", "layers.1.self_attn"]
    layer = net.layers[0].self_attn.eval()
    with torch.no_grad():
        wanted = layer(x, x, x, average_attn_weights=False)[1]
    layer.train()
    np.testing.assert_allclose(found["layers.0.self_attn"], wanted, atol=1e-6)
    assert net.training and not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn"):
        attention_weights(net, x, ["layers.0.attn"])
    with pytest.raises(ModelError, match="no attention was seen"):
        attention_weights(nn.Linear(8, 2), x)
    with pytest.raises(DataError):
        attention_weights(net, x[:3])


class Attends(nn.Module):
    """Attention in one of the ways that people write it; returns outputs and, for some, averaged weights."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True) if kind.startswith("module") else nn.Linear(8, 8)

    def forward(self, x):
        if self.kind.startswith("module"):
            y, weights = self.inner(x, x, x, need_weights=self.kind.endswith("weights"))
            assert (weights is None) != self.kind.endswith("weights")
            return y if weights is None else y + weights.sum(-1, keepdim=True)
        q = self.inner(x).reshape(len(x), -1, 2, 4).transpose(1, 2)
        k = x.reshape(len(x), -1, 2, 4).transpose(1, 2)
        if self.kind == "causal":
            return nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True).flatten(1)
        if self.kind == "masked":
            mask = torch.arange(5) < torch.arange(1, 6)[:, None]
            return nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask).flatten(1)
        if self.kind == "added":
            mask = torch.zeros(5, 5).masked_fill(torch.arange(5) > torch.arange(5)[:, None], -torch.inf)
            return nn.functional.scaled_dot_product_attention(q, k, k, mask, scale=0.5).flatten(1)
        if self.kind == "grouped":
            return nn.functional.scaled_dot_product_attention(q, k[:, :1], k[:, :1], scale=0.5, enable_gqa=True).flatten(1)
        scores = q @ k.transpose(-2, -1) / 2
        return (scores.softmax(-1) @ k if self.kind == "softmax" else torch.softmax(scores, dim=3) @ k).flatten(1)


@pytest.mark.parametrize("kind", ["module", "module weights", "causal", "masked", "added", "grouped", "softmax", "torch.softmax"])
def test_attention_is_seen_however_it_is_written(kind):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Identity(), Attends(kind)).eval(), torch.randn(6, 5, 8)
    before = net(x)
    found = attention_weights(net, x, batch_size=4)
    (name,) = found
    assert name == ("1.inner" if kind.startswith("module") else "1") and found[name].shape == (6, 2, 5, 5)
    np.testing.assert_allclose(found[name].sum(-1), 1.0, atol=1e-5)
    assert torch.equal(before, net(x)) and not any(p._forward_hooks or p._forward_pre_hooks for p in net.modules())
    if not kind.startswith("module"):
        q = net[1].inner(x).reshape(6, 5, 2, 4).transpose(1, 2)
        k = x.reshape(6, 5, 2, 4).transpose(1, 2)
        scores = q @ (k[:, :1] if kind == "grouped" else k).transpose(-2, -1) / 2
        if kind in ("causal", "masked", "added"):
            scores = scores.masked_fill(torch.arange(5) > torch.arange(5)[:, None], -torch.inf)
        np.testing.assert_allclose(found[name], scores.softmax(-1).detach(), atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0, 20.0])
def test_no_update_raises_the_energy(beta):
    rng = np.random.default_rng(0)
    patterns, s = rng.normal(size=(15, 6)), rng.normal(size=(50, 6)) * 3
    for _ in range(10):
        weights = np.exp(beta * (s @ patterns.T - (s @ patterns.T).max(1, keepdims=True)))
        following = weights / weights.sum(1, keepdims=True) @ patterns
        assert (hopfield_energy(patterns, following, beta) <= hopfield_energy(patterns, s, beta) + 1e-12).all()
        s = following
    direct = -np.log(np.exp(beta * patterns @ s[0]).sum()) / beta + s[0] @ s[0] / 2
    direct += log(15) / beta + (patterns**2).sum(1).max() / 2
    assert hopfield_energy(patterns, s[:1], beta)[0] == pytest.approx(direct)


def test_stored_metastable_and_global_states():
    """Two far clusters: each pattern alone at large beta, one state for each cluster between, the mean at small beta."""
    rng = np.random.default_rng(0)
    centres = np.zeros((2, 8))
    centres[0, 0], centres[1, 1] = 5.0, 5.0
    patterns = (centres[:, None] + 0.05 * rng.normal(size=(2, 4, 8))).reshape(8, 8)
    middle = hopfield_states(patterns, 1.0)
    assert len(middle.states) == 2 and middle.members.tolist() == [0] * 4 + [1] * 4 and middle.patterns_per_state.tolist() == [4, 4]
    for k, state in enumerate(middle.states):
        np.testing.assert_allclose(state, patterns[middle.members == k].mean(0), atol=0.3)
    far = rng.normal(size=(8, 30))
    stored = hopfield_states(far, 5.0)
    assert len(stored.states) == 8 and (stored.patterns_per_state == 1).all() and stored.converged.all()
    np.testing.assert_allclose(stored.states, far, atol=1e-3)
    mean = hopfield_states(patterns, 1e-3)
    assert len(mean.states) == 1 and mean.patterns_per_state[0] == 8
    np.testing.assert_allclose(mean.states[0], patterns.mean(0), atol=0.05)
    assert not hopfield_states(patterns, 1.0, steps=1).converged.all()
    for wrong in ((patterns[0], 1.0), (patterns, 0.0), (patterns * np.nan, 1.0)):
        with pytest.raises(DataError):
            hopfield_states(*wrong)

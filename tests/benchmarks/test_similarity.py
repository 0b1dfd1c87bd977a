"""The benchmark's plain loops give the numbers that they are timed against."""

import numpy as np

from ascertain.probes.activations import Activations
from ascertain.probes.canonical import SVCCA
from ascertain.probes.kernels import CKA
from benchmarks.similarity import BATCH, compare, pairs, plain_cka


def test_plain_and_own_maps_agree():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * BATCH, 5))
    layers = {"a": x, "b": np.maximum(x @ rng.normal(size=(5, 8)), 0), "c": rng.normal(size=(2 * BATCH, 3))}
    captured = Activations(layers, dict.fromkeys(layers, 1), np.arange(2 * BATCH, dtype=np.uint64), "flattened")
    for measure, plain in ((SVCCA(), pairs), (CKA(batch=BATCH), plain_cka)):
        assert compare(captured, measure, plain, 1).deviation < 1e-9

"""Every measure of similarity, and rows to try it on."""

import numpy as np

from ascertain.probes.canonical import CCA, PWCCA, SVCCA
from ascertain.probes.geometry import RSA, LinearPredictivity, MutualNeighbours, Procrustes
from ascertain.probes.kernels import CKA
from ascertain.probes.similarity import similarity

MEASURES = [
    CCA(),
    SVCCA(),
    PWCCA(),
    CKA(),
    CKA(debiased=False),
    CKA("rbf"),
    CKA("rbf", debiased=False),
    CKA(batch=20),
    Procrustes(),
    Procrustes(alpha=0.3),
    RSA(),
    RSA("euclidean", "pearson"),
    MutualNeighbours(5),
    LinearPredictivity(),
]
names = [measure.name for measure in MEASURES]


def number(measure, x, y):
    return similarity(x, y, measure, groups=0, shuffles=0).value


def pair(n=80, p=6, q=9, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    x = shared @ rng.normal(size=(3, p)) + 0.7 * rng.normal(size=(n, p))
    y = shared @ rng.normal(size=(3, q)) + 0.7 * rng.normal(size=(n, q))
    return x, y

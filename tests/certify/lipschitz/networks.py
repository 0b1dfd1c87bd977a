"""Small networks as graphs, and what is obviously right about them: sampled Jacobians, regions enumerated by linear programs."""

from itertools import pairwise, product

import numpy as np
from scipy.optimize import linprog

from ascertain.graph import Builder
from ascertain.operators import Dense, GroupSort, Relu


def mlp(weights, activation=Relu, biases=None, last=False):
    """Dense layers with an activation between them (and after the last)."""
    builder = Builder()
    x = y = builder.input((1, weights[0].shape[1]))
    for i, w in enumerate(weights):
        y = builder(Dense(w, None if biases is None or i >= len(biases) else biases[i]), y)
        if i + 1 < len(weights) or last:
            y = builder(activation(), y)
    return builder.graph(x, y)


def maxmin():
    return GroupSort(1, 2, descending=True)


def gaussian(sizes, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(sizes)]


def square(width, depth, outputs=10, seed=0):
    """The random networks of the tables: N(0, 1 / fan in), all layers of one width."""
    return gaussian([width] * (depth + 1) + [outputs], seed)


def orthogonal(rows, columns, rng):
    q, _ = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    return q if rows >= columns else q.T


def jacobians(network, count, seed=0, scale=3.0):
    """Jacobians (count, n_out, n_in) at random points, by autograd."""
    import torch

    x = scale * torch.randn((count, *network.input_shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x.requires_grad_(True)
    y = network(x).reshape(count, -1)
    rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0].reshape(count, -1) for i in range(y.shape[1])]
    return torch.stack(rows, 1).numpy()


def operator_norm(jacobian, p, q):
    """Exact norm of a small matrix from l_p to l_q."""
    if (p, q) == (2, 2):
        return np.linalg.norm(jacobian, 2)
    if p == 1:
        return np.linalg.norm(jacobian, q, axis=0).max()
    if q == np.inf:
        return np.linalg.norm(jacobian, {2: 2, np.inf: 1}[p], axis=1).max()
    if p == np.inf:
        return max(np.linalg.norm(jacobian @ np.array(s), q) for s in product([-1, 1], repeat=jacobian.shape[1]))
    return max(np.linalg.norm(jacobian.T @ np.array(s), 2) for s in product([-1, 1], repeat=len(jacobian)))  # l2 to l1


def exact(weights, biases, p=2, q=2):
    """The Lipschitz constant of a rectifier network on few inputs."""
    return max(operator_norm(j, p, q) for j in regions(weights, biases))


def regions(weights, biases, box=50.0):
    """Jacobians of a rectifier network on all activation regions with an interior."""
    n = weights[0].shape[1]

    def inside(rows, limits):
        sizes = np.linalg.norm(rows, axis=1)
        cost = np.append(np.zeros(n), -1.0)
        found = linprog(cost, np.column_stack([rows, sizes]), limits, bounds=[(-box, box)] * n + [(None, 1)], method="highs")
        return found.status == 0 and -found.fun > 1e-9

    def visit(layer, jacobian, offset, rows, limits):
        if layer == len(weights) - 1:
            return [weights[-1] @ jacobian]
        a, b = weights[layer] @ jacobian, weights[layer] @ offset + biases[layer]
        cells = [(rows, limits, [])]
        for i in range(len(a)):
            grown = []
            for r, h, pattern in cells:
                for on in (True, False):
                    r2, h2 = np.vstack([r, -a[i] if on else a[i]]), np.append(h, b[i] if on else -b[i])
                    if inside(r2, h2):
                        grown.append((r2, h2, [*pattern, float(on)]))
            cells = grown
        return [j for r, h, s in cells for j in visit(layer + 1, a * np.array(s)[:, None], b * np.array(s), r, h)]

    return visit(0, np.eye(n), np.zeros(n), np.zeros((0, n)), np.zeros(0))

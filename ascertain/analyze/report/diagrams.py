"""Graphs as drawings: circuits in layers, interactions by forces."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["diagram"]

_WIDTH, _HEIGHT, _DOWN, _ACROSS = 190, 44, 24, 22
"""Of boxes, and the room between them."""
_NODES = 600
_EDGES = 3000
_NAMED = 60
"""Drawings of at most so many points have their names beside them."""


def diagram(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Positions of nodes and paths of edges: boxes in rows without weights, points in rows with, by forces if there is a circle."""
    names = [str(n) for n in arrays["node"]]
    edges = arrays["edge"].astype(int)
    layers = _layers(len(names), edges)
    if len(names) > _NODES:
        return {
            "nodes": [],
            "edges": [],
            "layered": False,
            "note": f"{len(names)} nodes are too many to draw; the numbers are below.",
        }
    groups = [str(g) for g in arrays["group"]] if "group" in arrays else [""] * len(names)
    order = list(dict.fromkeys(groups))
    details = [str(d) for d in arrays["detail"]] if "detail" in arrays else [""] * len(names)
    nodes = [
        {"name": n, "group": g, "detail": d, "colour": order.index(g) % 8} for n, g, d in zip(names, groups, details, strict=True)
    ]
    if layers is not None and "weight" not in arrays:
        return _circuit(nodes, edges, layers)
    weights = np.abs(arrays["weight"].astype(float)) if "weight" in arrays else np.ones(len(edges))
    drawn = _points(nodes, edges, weights, layers)
    return drawn | {"groups": [{"name": g, "colour": i % 8} for i, g in enumerate(order) if g][:16]}


def _layers(count: int, edges: np.ndarray) -> list[int] | None:
    """Length of the longest path to each node; None if there is a circle."""
    into = np.bincount(edges[:, 1], minlength=count) if len(edges) else np.zeros(count, int)
    after: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        after[a].append(int(b))
    depth, ready, done = [0] * count, [i for i in range(count) if not into[i]], 0
    while ready:
        i = ready.pop()
        done += 1
        for j in after[i]:
            depth[j] = max(depth[j], depth[i] + 1)
            into[j] -= 1
            if not into[j]:
                ready.append(j)
    return depth if done == count else None


def _circuit(nodes: list[dict[str, Any]], edges: np.ndarray, depth: list[int]) -> dict[str, Any]:
    """Boxes in rows, each near the middle of those that feed it."""
    rows: list[list[int]] = [[] for _ in range(max(depth, default=0) + 1)]
    feeds: list[list[int]] = [[] for _ in nodes]
    for a, b in edges:
        feeds[b].append(int(a))
    for i, d in enumerate(depth):
        rows[d].append(i)
    middle = [0.0] * len(nodes)
    for row in rows:
        row.sort(key=lambda i: (float(np.mean([middle[j] for j in feeds[i]])) if feeds[i] else 0.0, i))
        for place, i in enumerate(row):
            middle[i] = (place - (len(row) - 1) / 2) * (_WIDTH + _ACROSS)
    bent = any(depth[b] - depth[a] > 1 for a, b in edges)
    half = max((abs(m) for m in middle), default=0.0) + _WIDTH / 2 + (90 if bent else 8)
    for i, node in enumerate(nodes):
        node |= {"x": middle[i] + half - _WIDTH / 2, "y": depth[i] * (_HEIGHT + _DOWN) + 4, "short": _tail(node["name"], 24)}
        node["small"] = _cut(" · ".join(t for t in (node["group"], node["detail"]) if t), 30)
    drawn = []
    for a, b in edges:
        x0, x1 = middle[a] + half, middle[b] + half
        y0, y1 = nodes[a]["y"] + _HEIGHT, nodes[b]["y"] - 5
        # Edges that skip rows go around the boxes between.
        side = 165 if depth[b] - depth[a] > 1 else 0
        lift = max(12.0, min(60.0, (y1 - y0) / 2))
        drawn.append(
            {"path": f"M{x0:.1f},{y0:.1f} C{x0 + side:.1f},{y0 + lift:.1f} {x1 + side:.1f},{y1 - lift:.1f} {x1:.1f},{y1:.1f}"}
        )
    height = len(rows) * (_HEIGHT + _DOWN) - _DOWN + 8
    return {
        "layered": True,
        "nodes": nodes,
        "edges": drawn,
        "width": round(2 * half),
        "height": height,
        "box": (_WIDTH, _HEIGHT),
        "note": "",
    }


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _tail(text: str, most: int) -> str:
    """The end of a long name: paths of layers differ there."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _points(nodes: list[dict[str, Any]], edges: np.ndarray, weights: np.ndarray, layers: list[int] | None) -> dict[str, Any]:
    """Nodes as points, the strongest edges between them."""
    weights = np.where(np.isfinite(weights), weights, 0.0)
    strong = np.sort(np.argsort(-weights, kind="stable")[:_EDGES])
    note = f"The strongest {_EDGES} of {len(edges)} edges are drawn." if len(edges) > _EDGES else ""
    edges, weights = edges[strong], weights[strong] / (weights.max() if weights.size and weights.max() > 0 else 1.0)
    few = len(nodes) <= _NAMED
    shape: dict[str, Any] = {"layered": False, "width": 640, "height": 460, "radius": 7 if few else 4, "note": note, "rows": []}
    if layers is not None and nodes:
        shape |= _rows(nodes, _settled(layers, edges))
    else:
        for node, (x, y) in zip(nodes, _forces(len(nodes), [n["colour"] for n in nodes], edges, weights), strict=True):
            node |= {"x": round(float(x), 1), "y": round(float(y), 1), "short": _cut(node["name"], 14) if few else ""}
    drawn = []
    for (a, b), w in zip(edges, weights, strict=True):
        (x0, y0), (x1, y1) = ((nodes[k]["x"], nodes[k]["y"]) for k in (a, b))
        half = (y1 - y0) / 2 if layers is not None else 0
        path = f"M{x0:g},{y0:g} C{x0:g},{y0 + half:g} {x1:g},{y1 - half:g} {x1:g},{y1:g}"
        # Roots, because a few edges are often much stronger than all others.
        drawn.append({"path": path, "strength": round(0.16 + 0.72 * float(np.sqrt(w)), 3), "wide": round(0.6 + 2.4 * float(w), 2)})
    return shape | {"nodes": nodes, "edges": drawn}


def _settled(layers: list[int], edges: np.ndarray) -> list[int]:
    """Rows that never go back where nodes come in the order of their layers: those without a source stay with their neighbours."""
    if any(a >= b for a, b in edges):
        return layers
    sources: list[list[int]] = [[] for _ in layers]
    for a, b in edges:
        sources[b].append(int(a))
    found: list[int] = []
    for feeds in sources:
        found.append(max([*found[-1:], *(found[a] + 1 for a in feeds)], default=0))
    return found


def _shared(names: list[str]) -> str:
    """The beginning that all names have, without digits at its end."""
    first, last = min(names), max(names)
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same].rstrip("0123456789")


def _rows(nodes: list[dict[str, Any]], depth: list[int]) -> dict[str, Any]:
    """Points in rows, modules side by side; what the names of a row have in common is said once."""
    rows = [[i for i, d in enumerate(depth) if d == row] for row in range(min(depth), max(depth) + 1)]
    left, gap = 110, min(120.0, 420 / max(1, len(rows) - 1))
    said = []
    for k, row in enumerate(rows):
        common = _shared([nodes[i]["name"] for i in row]) if len(row) > 1 else ""
        y = 26 + k * gap
        said.append({"y": y + 4, "name": _cut(common.strip(), 14)})
        row.sort(key=lambda i: (nodes[i]["colour"], i))
        step = (640 - left - 24) / max(1, len(row))
        for place, i in enumerate(row):
            short = nodes[i]["name"][len(common) :] if step > 26 else ""
            nodes[i] |= {"x": round(left + (place + 0.5) * step, 1), "y": round(y, 1), "short": _cut(short, max(2, int(step / 7)))}
    return {"rows": said, "height": round(52 + gap * (len(rows) - 1))}


def _forces(count: int, groups: list[int], edges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if not count:
        return np.zeros((0, 2))
    order = np.argsort(groups, kind="stable")
    angle = np.empty(count)
    angle[order] = np.linspace(0, 2 * np.pi, count, endpoint=False)
    at = np.stack([np.cos(angle), np.sin(angle)], 1)
    k = 1.6 / np.sqrt(count)
    for step in np.linspace(0.12, 0.004, 160):
        gap = at[:, None] - at[None]
        far = np.maximum((gap**2).sum(-1), 1e-6)
        move = (gap * (k**2 / far)[..., None]).sum(1) - 0.3 * at
        if len(edges):
            pull = (at[edges[:, 0]] - at[edges[:, 1]]) * (weights * np.sqrt(far[edges[:, 0], edges[:, 1]]) / k)[:, None]
            np.add.at(move, edges[:, 0], -pull)
            np.add.at(move, edges[:, 1], pull)
        size = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        at = at + move / size * np.minimum(size, step)
    low, high = at.min(0), at.max(0)
    places: np.ndarray = np.array([40.0, 30.0]) + (at - low) / np.where(high > low, high - low, 1.0) * np.array([560.0, 400.0])
    return places

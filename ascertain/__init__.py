"""Certify, probe and analyse trained neural networks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ascertain import analyze, certify, errors, graph, operators, probes, properties, runs
    from ascertain.certify.lipschitz import Lipschitz, lipschitz, lipschitz_pairs
    from ascertain.certify.result import Bounds, Progress, Status, Verdict, Witness
    from ascertain.certify.verify import Radius, bound, falsify, radius, verify
    from ascertain.evidence import Evidence
    from ascertain.graph.graph import Graph
    from ascertain.graph.load import load
    from ascertain.properties import (
        Box,
        LpBall,
        Polytope,
        Property,
        equivalent,
        monotone,
        output_range,
        read_property,
        robust,
        write_vnnlib,
    )

__version__ = "0.1.0"

__all__ = [
    "Bounds",
    "Box",
    "Evidence",
    "Graph",
    "Lipschitz",
    "LpBall",
    "Polytope",
    "Progress",
    "Property",
    "Radius",
    "Status",
    "Verdict",
    "Witness",
    "analyze",
    "bound",
    "certify",
    "equivalent",
    "errors",
    "falsify",
    "graph",
    "lipschitz",
    "lipschitz_pairs",
    "load",
    "monotone",
    "operators",
    "output_range",
    "probes",
    "properties",
    "radius",
    "read_property",
    "robust",
    "runs",
    "verify",
    "write_vnnlib",
]

# Names are imported when they are first used, so that `import ascertain` costs nothing.
_HOMES = {
    "ascertain.certify.lipschitz": ("Lipschitz", "lipschitz", "lipschitz_pairs"),
    "ascertain.certify.result": ("Bounds", "Progress", "Status", "Verdict", "Witness"),
    "ascertain.certify.verify": ("Radius", "bound", "falsify", "radius", "verify"),
    "ascertain.evidence": ("Evidence",),
    "ascertain.graph": ("Graph", "load"),
    "ascertain.properties": (
        "Box",
        "LpBall",
        "Polytope",
        "Property",
        "equivalent",
        "monotone",
        "output_range",
        "read_property",
        "robust",
        "write_vnnlib",
    ),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    if name in __all__:
        return import_module(f"ascertain.{name}")
    raise AttributeError(f"module 'ascertain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

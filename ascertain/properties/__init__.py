"""Sets of inputs, properties over them, and their files."""

from __future__ import annotations

from ascertain.properties.builders import equivalent, monotone, output_range, robust
from ascertain.properties.product import join
from ascertain.properties.property import Atoms, Case, Network, Property
from ascertain.properties.reader import read_property
from ascertain.properties.sets import Box, InputSet, LpBall, Polytope
from ascertain.properties.writer import format_vnnlib, write_vnnlib

__all__ = [
    "Atoms",
    "Box",
    "Case",
    "InputSet",
    "LpBall",
    "Network",
    "Polytope",
    "Property",
    "equivalent",
    "format_vnnlib",
    "join",
    "monotone",
    "output_range",
    "read_property",
    "robust",
    "write_vnnlib",
]

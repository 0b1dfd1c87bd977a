"""Sets of inputs, properties over them, and their files."""

from __future__ import annotations

from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.reader import read_property
from ascertain.properties.sets import Box, InputSet, LpBall, Polytope

__all__ = ["Atoms", "Box", "Case", "InputSet", "LpBall", "Polytope", "Property", "read_property"]

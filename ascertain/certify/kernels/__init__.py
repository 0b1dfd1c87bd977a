"""Compiled bounds of small piecewise-linear networks, one sub-problem after the other. Import when used: it loads numba."""

"""Certify, probe and analyse trained neural networks."""

"""Measurements of a network on data: arrays in, arrays out, no opinion."""

"""A network as data: loading, legality, passes, evaluation."""

from ascertain.graph.graph import Builder, Graph, Node, Source
from ascertain.graph.load import load
from ascertain.graph.passes import lower

__all__ = ["Builder", "Graph", "Node", "Source", "load", "lower"]

"""A graph as a torch module with trainable parameters, so that what needs a module can measure any loaded file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ascertain.errors import ShapeError
from ascertain.graph import Graph
from ascertain.operators import Dense
from ascertain.operators.base import Operator

__all__ = ["GraphModule"]


class GraphModule(nn.Module):
    """The network of a graph in float64; its submodules are the nodes, named by their positions ('3' is node 3).

    Dense nodes become linear layers, those of the same arrays one layer. Arrays of floats are parameters, one for each array
    object, however many nodes hold it; a copy of an array is a parameter of its own. Takes inputs (B, *input_shape).
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        shared: dict[int, nn.Parameter] = {}
        layers: dict[tuple[int, ...], nn.Linear] = {}
        users: dict[int, set[tuple[int, ...]]] = {}
        for node in graph.nodes:
            for array in node.operator.arrays().values():
                users.setdefault(id(array), set()).add(_key(node.operator))
        for i, node in enumerate(graph.nodes):
            if not node.inputs:
                continue
            # Only where nothing else uses its weights is a linear layer all that there is to say of them.
            alone = all(len(users[id(array)]) == 1 for array in node.operator.arrays().values())
            if isinstance(node.operator, Dense) and alone:
                part = layers.get(_key(node.operator)) or _linear(node.operator, shared)
                self.add_module(str(i), layers.setdefault(_key(node.operator), part))
            else:
                self.add_module(str(i), _Step(node.operator, shared))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[1:]) != self.graph.input_shape:
            raise ShapeError(f"inputs have shape {tuple(x.shape[1:])}, the network takes {self.graph.input_shape}; reshape them.")
        found: list[torch.Tensor] = []
        for i, node in enumerate(self.graph.nodes):
            if i == self.graph.input:
                found.append(x)
            elif node.inputs:
                found.append(self.get_submodule(str(i))(*(found[j] for j in node.inputs)))
            else:
                value = torch.as_tensor(np.array(node.operator.arrays()["value"]))
                value = value.to(x.dtype) if value.is_floating_point() else value
                found.append(value.to(x.device).expand(len(x), *node.shape))
        return found[self.graph.output]


def _parameter(array: np.ndarray, shared: dict[int, nn.Parameter]) -> nn.Parameter:
    if id(array) not in shared:
        shared[id(array)] = nn.Parameter(torch.tensor(np.asarray(array), dtype=torch.float64))
    return shared[id(array)]


def _key(operator: Operator) -> tuple[int, ...]:
    return (id(type(operator)), *map(id, operator.arrays().values()))


def _linear(operator: Dense, shared: dict[int, nn.Parameter]) -> nn.Linear:
    rows, columns = operator.weight.shape
    # Without memory at first: no random numbers are drawn for weights that are replaced at once.
    part = nn.Linear(columns, rows, bias=operator.bias is not None, device="meta")
    part.weight = _parameter(operator.weight, shared)
    if operator.bias is not None:
        part.bias = _parameter(operator.bias, shared)
    return part


class _Step(nn.Module):
    """One operator that is no dense layer."""

    def __init__(self, operator: Operator, shared: dict[int, nn.Parameter]) -> None:
        super().__init__()
        self.operator = operator
        self.fields = tuple(operator.arrays())
        for name, array in operator.arrays().items():
            if np.asarray(array).dtype.kind == "f":
                self.register_parameter(name, _parameter(array, shared))
            else:
                self.register_buffer(name, torch.tensor(np.asarray(array)))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        now = replace(self.operator, **{name: getattr(self, name) for name in self.fields}) if self.fields else self.operator
        result: torch.Tensor = now.forward(*inputs)
        return result

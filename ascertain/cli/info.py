"""``ascertain info``: what a network is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from typer import Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import ModelOptions
from ascertain.cli.talk import emit_json

__all__ = ["Info"]


@dataclass(frozen=True, kw_only=True)
class Info(ModelOptions):
    """Show the nodes, operators, sizes and hash of a network."""

    json: Annotated[bool, Option("--json", help="One JSON document on standard output.")] = False

    def run(self) -> int:
        """Prints the description."""
        network = self.network()
        operators = Counter(node.operator.name for node in network.nodes)
        numbers = sum(array.size for node in network.nodes for array in node.operator.arrays().values())
        nodes = [
            {"index": i, "name": n.name, "operator": n.operator.name, "inputs": n.inputs, "shape": n.shape}
            for i, n in enumerate(network.nodes)
        ]
        facts = {
            "model": self.model,
            "kind": network.source.kind,
            "hash": network.hash,
            "input": network.input_shape,
            "output": network.output_shape,
            "numbers": int(numbers),
        }
        if self.json:
            emit_json({**facts, "operators": operators, "nodes": nodes})
            return Exit.HOLDS
        for name, value in facts.items():
            print(f"{name:<10} {value}")
        print(f"{'operators':<10} {', '.join(f'{name} {count}' for name, count in sorted(operators.items()))}")
        for node in nodes:
            print(f"{node['index']:>5}  {node['operator']!s:<16} {node['shape']!s:<20} from {node['inputs']!s:<12} {node['name']}")
        return Exit.HOLDS

"""``ascertain bound``: how large and small the outputs can get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import DataOptions, ModelOptions
from ascertain.cli.talk import emit_json
from ascertain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ascertain.graph import Graph
    from ascertain.properties import InputSet

__all__ = ["Bound"]


@dataclass(frozen=True, kw_only=True)
class Bound(DataOptions, ModelOptions):
    """Bound every output of a network over the input sets of a property or around images."""

    property: Annotated[str | None, Argument(help="Property file whose input sets are used.", show_default=False)] = None
    count: Annotated[int, Option(help="Only the first so many images.")] = 1
    method: Annotated[str, Option(help="interval, zonotope, crown or alpha.")] = "crown"
    json: Annotated[bool, Option("--json", help="JSON lines on standard output.")] = False

    def run(self) -> int:
        """Prints the bounds of one set after the other."""
        from ascertain.certify.verify import bound

        if (self.property is None) == (self.data is None):
            raise InputError("bound needs a property file or --data, and not both; give one of them.")
        network = self.network()
        for name, inputs in self._sets(network):
            found = bound(network, inputs, method=self.method)
            if self.json:
                emit_json({"model": self.model, "hash": network.hash, "set": name, "bounds": found})
            else:
                print(f"{name}: {found}")
        return Exit.HOLDS

    def _sets(self, network: Graph) -> Iterator[tuple[str, InputSet]]:
        from ascertain.properties import LpBall, read_property

        if self.property is not None:
            for i, case in enumerate(read_property(self.property).cases):
                yield f"case {i}", case.set
            return
        eps, norm = self.radius_of_balls(), self.norm_of_balls()
        for i, (image, label) in enumerate(zip(*self.read(network, self.count), strict=True)):
            yield f"image {i} (label {label})", LpBall(image, eps, norm)

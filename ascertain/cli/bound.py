"""``ascertain bound``: how large and small the outputs can get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ascertain.cli.certify import parse_norm
from ascertain.cli.datasets import read_data
from ascertain.cli.exits import Exit
from ascertain.cli.options import ModelOptions
from ascertain.cli.talk import emit_json
from ascertain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ascertain.graph import Graph
    from ascertain.properties import InputSet

__all__ = ["Bound"]


@dataclass(frozen=True, kw_only=True)
class Bound(ModelOptions):
    """Bound every output of a network over the input sets of a property or around images."""

    property: Annotated[str | None, Argument(help="Property file whose input sets are used.", show_default=False)] = None
    data: Annotated[str | None, Option(help="Data instead of a property: .npz with x and y, .csv(.gz), .npy, or digits.")] = None
    eps: Annotated[float | None, Option(help="Radius of the ball around each image.")] = None
    norm: Annotated[str, Option(help="Norm of the ball: inf, 2 or 1.")] = "inf"
    count: Annotated[int, Option(help="Only the first so many images.")] = 1
    label: Annotated[str, Option(help="Column of the label in .csv and .npy tables: first or last.")] = "first"
    divide: Annotated[float, Option(help="Divide the data by this number, such as 255.")] = 1.0
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
        if self.eps is None:
            raise InputError("bound with --data needs a radius; give --eps.")
        x, y = read_data(self.data or "", network.input_size, network.output_size, self.label, self.divide)
        norm = parse_norm(self.norm)
        for i, image in enumerate(x[: self.count]):
            yield f"image {i} (label {y[i]})", LpBall(image, self.eps, norm)

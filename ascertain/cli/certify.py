"""``ascertain certify``: one property file, or robustness of every image of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ascertain.cli.exits import Exit, exit_code, interrupted
from ascertain.cli.options import DataOptions, ModelOptions, SearchOptions
from ascertain.cli.talk import StatusLine, emit_json, stoppable
from ascertain.errors import InputError

if TYPE_CHECKING:
    from ascertain.graph import Graph

__all__ = ["Certify"]


@dataclass(frozen=True, kw_only=True)
class Certify(SearchOptions, DataOptions, ModelOptions):
    """Decide whether a network has a property, or is robust at every image of a data set."""

    property: Annotated[str | None, Argument(help="Property file (.vnnlib, .vnnlib.gz).", show_default=False)] = None
    count: Annotated[int | None, Option(help="Only the first so many images.")] = None
    radius: Annotated[bool, Option("--radius", help="Find the largest certified radius up to --eps.")] = False
    witness: Annotated[Path | None, Option(help="Save witnesses to this .npz or .json file.")] = None
    json: Annotated[bool, Option("--json", help="JSON lines on standard output.")] = False

    def run(self) -> int:
        """Certifies and returns the exit code."""
        if (self.property is None) == (self.data is None):
            raise InputError("certify needs a property file or --data, and not both; give one of them.")
        from ascertain.cli.images import certify_images
        from ascertain.cli.witnesses import check_target

        check_target(self.witness)
        network = self.network()
        return certify_images(self, network) if self.property is None else self._one(network, self.property)

    def options(self) -> dict[str, Any]:
        """What shaped the answer, for the record."""
        from ascertain import __version__

        names = ("eps", "norm", "timeout", "memory", "threads", "device", "seed")
        return {"options": {name: getattr(self, name) for name in names}, "version": __version__}

    def _one(self, network: Graph, file: str) -> int:
        from ascertain.certify.verify import verify
        from ascertain.cli.witnesses import save_witnesses
        from ascertain.properties import join, read_property

        property = read_property(file)
        if len(property.networks) > 1:
            raise InputError(f"{file} is about {len(property.networks)} networks; use 'ascertain verify' with --network for each.")
        network = join(property, {n.name: network for n in property.networks}) if property.networks else network
        line = StatusLine()
        with stoppable() as stop:
            verdict = verify(network, property, **self.search(line, stop))
        line.clear()
        if self.json:
            emit_json({"model": self.model, "hash": network.hash, "property": file, **self.options(), "verdict": verdict})
        else:
            print(verdict)
        save_witnesses(self.witness, [(0, verdict.witness)])
        return Exit.INTERRUPTED if interrupted(verdict) else exit_code([verdict.status])

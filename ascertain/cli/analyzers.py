"""``ascertain list`` and ``ascertain explain``: which analyzers there are, and what they measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Argument, Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import Command
from ascertain.cli.talk import emit_json
from ascertain.errors import InputError

__all__ = ["Explain", "List"]


@dataclass(frozen=True, kw_only=True)
class List(Command):
    """List what there is to choose from: analyzers or fixtures."""

    what: Annotated[str, Argument(help="analyzers or fixtures")] = "analyzers"
    json: Annotated[bool, Option("--json", help="JSON lines with the schemas of their options.")] = False

    def run(self) -> int:
        """Prints one line for each."""
        lists = {"analyzers": self._analyzers, "fixtures": self._fixtures}
        if self.what not in lists:
            raise InputError(f"there is no list of {self.what!r}; say analyzers or fixtures.")
        lists[self.what]()
        return Exit.HOLDS

    def _analyzers(self) -> None:
        from ascertain.analyze import analyzers
        from ascertain.analyze.registry import schema

        for name, kind in analyzers().items():
            if self.json:
                emit_json({"name": name, "title": kind.title, "needs": sorted(kind.needs), "options": schema(kind)})
            else:
                print(f"{name:<16} {(kind.__doc__ or '').strip().splitlines()[0]}")

    def _fixtures(self) -> None:
        from ascertain.fixtures import FIXTURES, NAMES

        for name, fixture in FIXTURES.items():
            if self.json:
                emit_json({**vars(fixture), "options": dict(fixture.options), "ships": name in NAMES})
            else:
                ships = "ships trained" if name in NAMES else ""
                print(f"{name:<26} {fixture.architecture:<12} {fixture.task:<16} {fixture.recipe.loss:<12} {ships}".rstrip())


@dataclass(frozen=True, kw_only=True)
class Explain(Command):
    """Explain an analyzer: what it measures, formula, evidence, options, references."""

    name: Annotated[str, Argument(help="Name of an analyzer, from 'ascertain list analyzers'.", show_default=False)]

    def run(self) -> int:
        """Prints the explanation."""
        from ascertain.analyze import explain, find

        print(explain(find(self.name)))
        return Exit.HOLDS

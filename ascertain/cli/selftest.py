"""``ascertain selftest``: whether bounds of every operator hold on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import Command
from ascertain.cli.talk import StatusLine, emit_json
from ascertain.errors import InputError

if TYPE_CHECKING:
    from ascertain.certify.selftest import Findings

__all__ = ["Selftest"]


@dataclass(frozen=True, kw_only=True)
class Selftest(Command):
    """Try to break the bounds of every operator on random boxes. The exit code is 1 when a value passes a bound."""

    boxes: Annotated[int, Option(min=1, help="Random boxes for each operator.")] = 10_000
    device: Annotated[str, Option(help="cpu, cuda or cuda:N.")] = "cpu"
    float32: Annotated[bool, Option("--float32", help="Single precision only (otherwise double and single).")] = False
    json: Annotated[bool, Option("--json", help="JSON lines on standard output.")] = False

    def run(self) -> int:
        """Prints a table of what was found."""
        import torch

        from ascertain.certify.selftest import every_operator, examine

        kind = self.device.partition(":")[0]
        if kind != "cpu" and not (kind == "cuda" and torch.cuda.is_available()):
            raise InputError(f"there is no device {self.device!r} here; choose cpu, or cuda where there is one.")
        precisions = {"float64": torch.float64, "float32": torch.float32}
        if self.float32:
            del precisions["float64"]
        line = StatusLine()
        found: dict[str, dict[str, Findings]] = {}
        for operator, shapes in every_operator():
            for name, dtype in precisions.items():
                line.show(f"{operator.name}, {name}")
                findings = examine(operator, shapes, self.boxes, dtype, self.device)
                found.setdefault(operator.name, {})[name] = findings
                if self.json:
                    emit_json({"precision": name, **asdict(findings)})
        line.clear()
        broken = [o for o, several in found.items() if any(f.violation > 0 for f in several.values())]
        if not self.json:
            self._print(found, list(precisions))
            words = f"violated by {', '.join(broken)}" if broken else "no value passed a bound"
            print(f"{len(found)} operators, {self.boxes} boxes each: {words}")
        return Exit.VIOLATED if broken else Exit.HOLDS

    def _print(self, found: dict[str, dict[str, Findings]], precisions: list[str]) -> None:
        from rich.console import Console
        from rich.table import Table

        heads = [f"{what} {p}" for p in precisions for what in ("violation", "looseness")]
        table = Table("operator", "boxes", *heads)
        for operator, several in found.items():
            pairs = [(f"{f.violation:.2g}", "" if f.looseness is None else f"{f.looseness:.3f}") for f in several.values()]
            table.add_row(operator, str(self.boxes), *(cell for pair in pairs for cell in pair))
        Console().print(table)

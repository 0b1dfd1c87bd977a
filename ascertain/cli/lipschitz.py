"""``ascertain lipschitz``: how much faster than its input the output can change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from typer import Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import ModelOptions
from ascertain.cli.talk import emit_json
from ascertain.errors import InputError

__all__ = ["Lipschitz"]


@dataclass(frozen=True, kw_only=True)
class Lipschitz(ModelOptions):
    """Prove a Lipschitz constant of a network."""

    norm: Annotated[str, Option(help="Norm of input differences: 1, 2 or inf.")] = "2"
    output_norm: Annotated[str | None, Option(help="Norm of output differences; the same if not given.")] = None
    pair: Annotated[tuple[int, int] | None, Option(help="Of output A minus output B.", show_default=False)] = None
    layers: Annotated[
        tuple[str, str] | None, Option(help="Between two nodes, by name or number in `info`.", show_default=False)
    ] = None
    method: Annotated[str, Option(help="auto, interior, first-order, layer, product, clarabel, scs or mosek.")] = "auto"
    timeout: Annotated[float, Option(help="Seconds; then the best so far is proved.")] = 600.0
    certificate: Annotated[str | None, Option(help="File (.npz) for the proof.", show_default=False)] = None
    json: Annotated[bool, Option("--json", help="One JSON document on standard output.")] = False

    def run(self) -> int:
        """Prints the constant."""
        from ascertain.certify.lipschitz import lipschitz

        network = self.network()
        found = lipschitz(
            network,
            _number(self.norm),
            output_norm=None if self.output_norm is None else _number(self.output_norm),
            pair=self.pair,
            layers=self.layers,
            method=self.method,
            timeout=self.timeout,
        )
        if self.certificate is not None:
            if found.certificate is None:
                raise InputError(
                    f"{found.method} leaves no single proof to save; ask for one output norm 2 and input norm 2 or inf."
                )
            found.certificate.save(self.certificate)
        if self.json:
            emit_json({"model": self.model, "hash": network.hash, "lipschitz": replace(found, certificate=None)})
        else:
            print(found)
        return Exit.HOLDS


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"the norm {text!r} is no number; give 1, 2 or inf.") from None

"""``ascertain lipschitz``: how much faster than its input the output can change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import ModelOptions, data_file
from ascertain.cli.talk import emit_json
from ascertain.errors import InputError

if TYPE_CHECKING:
    from ascertain.graph.graph import Graph

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
    method: Annotated[
        str,
        Option(help="auto, interior, first-order, layer, product, clarabel, scs, mosek; --local: bounds, program, search, milp."),
    ] = "auto"
    local: Annotated[str | None, Option(help="On balls around these inputs: .npz with x, .csv(.gz), .npy, or digits.")] = None
    claim: Annotated[
        float | None, Option(help="Audit a claimed constant: prove it, or find two inputs against it.", show_default=False)
    ] = None
    eps: Annotated[float | None, Option(help="Radius of the balls, in the same norm.", show_default=False)] = None
    count: Annotated[int, Option(help="Only the first so many inputs.")] = 10
    label: Annotated[str, Option(help="Column of the label in .csv and .npy tables: first, last or none.")] = "first"
    divide: Annotated[float, Option(help="Divide the data by this number, such as 255.")] = 1.0
    timeout: Annotated[float, Option(help="Seconds; then the best so far is proved.")] = 600.0
    certificate: Annotated[str | None, Option(help="File (.npz) for the proof.", show_default=False)] = None
    json: Annotated[bool, Option("--json", help="One JSON document on standard output.")] = False

    def run(self) -> int:
        """Prints the constant."""
        from ascertain.certify.lipschitz import lipschitz

        network = self.network()
        if self.claim is not None:
            return self._audited(network, self.claim)
        if self.local is not None:
            return self._locally(network, self.local)
        if self.eps is not None:
            raise InputError("--eps is the radius of balls around data; give them with --local.")
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

    def _audited(self, network: Graph, claim: float) -> int:
        """Prints whether a claim holds."""
        from ascertain.certify.lipschitz import audit_lipschitz

        others = (self.local, self.eps, self.output_norm, self.pair, self.layers, self.certificate)
        if any(v is not None for v in others) or self.method != "auto":
            raise InputError("--claim is about the whole network in one norm; leave out options other than --norm and --timeout.")
        found = audit_lipschitz(network, claim, _number(self.norm), timeout=self.timeout)
        if self.json:
            upper = None if found.upper is None else replace(found.upper, certificate=None)
            audit = {"status": found.status, "claim": claim, "slope": found.slope, "pair": found.pair, "upper": upper}
            emit_json({"model": self.model, "hash": network.hash, "audit": audit})
        else:
            print(found)
        return {"holds": Exit.HOLDS, "violated": Exit.VIOLATED}.get(found.status, Exit.UNKNOWN)

    def _locally(self, network: Graph, data: str) -> int:
        """Prints the constant on the ball around each input."""
        from ascertain.analyze.datasets import read_data
        from ascertain.certify.lipschitz import local_lipschitz
        from ascertain.properties.sets import LpBall

        if self.eps is None or not 0 < self.eps < float("inf") or self.count < 1:
            raise InputError(f"--local needs a positive radius and count, not {self.eps} and {self.count}; give --eps and --count.")
        if self.output_norm is not None or self.layers is not None or self.certificate is not None:
            raise InputError("--local knows neither --output-norm nor --layers nor --certificate; leave them out.")
        norm = _number(self.norm)
        inputs, _ = read_data(str(data_file(data)), network.input_size, network.output_size, self.label, self.divide)
        every = []
        for i, x in enumerate(inputs[: self.count]):
            ball = LpBall(x, self.eps, norm)
            ball_or_box = ball.box() if norm == float("inf") else ball
            found = local_lipschitz(network, ball_or_box, norm, pair=self.pair, method=self.method, timeout=self.timeout)
            every.append(found)
            if not self.json:
                print(f"input {i}: {found}", flush=True)
        if self.json:
            emit_json({"model": self.model, "hash": network.hash, "eps": self.eps, "local": every})
        return Exit.HOLDS


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"the norm {text!r} is no number; give 1, 2 or inf.") from None

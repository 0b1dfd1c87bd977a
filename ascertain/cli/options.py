"""Options that commands share; a command is a frozen dataclass whose fields become its arguments and flags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ascertain.cli.names import data_file, model_file
from ascertain.errors import InputError

if TYPE_CHECKING:
    from ascertain.certify.result import Progress
    from ascertain.graph import Graph

__all__ = ["Command", "DataOptions", "ModelOptions", "SearchOptions", "data_file", "load_model"]


@dataclass(frozen=True)
class Command(ABC):
    """Something the user can ask for."""

    @abstractmethod
    def run(self) -> int:
        """Does it and returns the exit code."""


def load_model(name: str, factory: str | None = None, shape: tuple[int, ...] | None = None) -> Graph:
    """The network in a file, or one of the zoo by its name."""
    from ascertain.graph import load

    return load(model_file(name), factory=factory, input_shape=shape)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Command):
    """Which network."""

    model: Annotated[
        str,
        Argument(help="Model file (.onnx, .onnx.gz, .pt2, .safetensors, .pt), or a network of the zoo.", show_default=False),
    ]
    factory: Annotated[str | None, Option(help="For weights without code: package.module:function that builds the network.")] = None
    input_shape: Annotated[str | None, Option(help="Input shape where the file leaves it open, such as 1,3,32,32.")] = None

    def network(self) -> Graph:
        """The network that was named."""
        return load_model(self.model, self.factory, self.shape())

    def shape(self) -> tuple[int, ...] | None:
        """The input shape that was given."""
        if self.input_shape is None:
            return None
        try:
            return tuple(int(n) for n in self.input_shape.split(","))
        except ValueError:
            raise InputError(f"--input-shape {self.input_shape!r} is no list of whole numbers; write it as 1,3,32,32.") from None


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Command):
    """How long and where to search."""

    timeout: Annotated[float, Option(help="Seconds for each property.")] = 60.0
    memory: Annotated[float, Option(help="Share of the machine's memory that may be used.")] = 0.5
    threads: Annotated[int | None, Option(help="Threads; all cores if not given.")] = None
    device: Annotated[str, Option(help="cpu, cuda or cuda:N.")] = "cpu"
    seed: Annotated[int, Option(help="Seed of the attacks.")] = 0

    def search(self, progress: Callable[[Progress], None], stop: Callable[[], bool]) -> dict[str, Any]:
        """The keyword arguments of `ascertain.verify`."""
        return {
            "timeout": self.timeout,
            "memory": self.memory,
            "threads": self.threads,
            "device": self.device,
            "seed": self.seed,
            "progress": progress,
            "stop": stop,
        }


@dataclass(frozen=True, kw_only=True)
class DataOptions(Command):
    """Balls around labelled data."""

    data: Annotated[str | None, Option(help="Data instead of a property: .npz with x and y, .csv(.gz), .npy, or digits.")] = None
    eps: Annotated[float | None, Option(help="Radius of the ball around each image.")] = None
    norm: Annotated[str, Option(help="Norm of the ball: inf, 2 or 1.")] = "inf"
    label: Annotated[str, Option(help="Column of the label in .csv and .npy tables: first or last.")] = "first"
    divide: Annotated[float, Option(help="Divide the data by this number, such as 255.")] = 1.0

    def radius_of_balls(self) -> float:
        """The radius; raises InputError if there is none."""
        if self.eps is None or not 0 < self.eps < float("inf"):
            raise InputError(f"--data needs a positive radius, not {self.eps}; give --eps.")
        return self.eps

    def norm_of_balls(self) -> float:
        """The norm as a number."""
        known = {"inf": float("inf"), "linf": float("inf"), "2": 2.0, "l2": 2.0, "1": 1.0, "l1": 1.0}
        if self.norm.lower() not in known:
            raise InputError(f"--norm {self.norm!r} is not known; give inf, 2 or 1.")
        return known[self.norm.lower()]

    def read(self, network: Graph, count: int | None) -> tuple[Any, Any]:
        """Inputs and labels, the first so many."""
        from ascertain.analyze.datasets import read_data

        if count is not None and count < 1:
            raise InputError(f"--count {count} asks for no images; give a positive number.")
        size, classes = network.input_size, network.output_size
        x, y = read_data(str(data_file(self.data or "")), size, classes, self.label, self.divide)
        if y is None:
            raise InputError(f"{self.data} is read without labels, which are needed here; give --label first or last.")
        return x[:count], y[:count]

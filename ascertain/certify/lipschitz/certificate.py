"""What proves a constant again without solving: multipliers, output weights and storage matrices, with the network's hash."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from ascertain.errors import DataError

__all__ = ["Certificate", "read_certificate"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """|f(x) - f(y)| <= value |x - y|, with the storage matrices of all states, input first."""

    hash: str
    input_norm: float
    output_norm: float
    value: float
    factors: tuple[np.ndarray, ...]
    """Multipliers of each stage, in the order of the nonlinearities; those with one slope have none."""
    weights: np.ndarray
    """(k,) of the squared outputs."""
    tau: np.ndarray
    """(n0,) of the squared inputs, for the maximum norm; else empty."""
    storage: tuple[np.ndarray, ...]
    directions: np.ndarray
    """(k, n_out): the outputs are these combinations of the network's."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything into one .npz file."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("weights", "tau", "directions")}
        arrays["hash"] = np.array(self.hash)
        arrays["numbers"] = np.array([self.input_norm, self.output_norm, self.value])
        arrays |= {f"factors_{i}": a for i, a in enumerate(self.factors)}
        arrays |= {f"storage_{i}": a for i, a in enumerate(self.storage)}
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)


def read_certificate(path: str | os.PathLike[str]) -> Certificate:
    """A certificate from its file; raises DataError where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
        stages = sum(name.startswith("factors_") for name in found)
        factors = tuple(found[f"factors_{i}"] for i in range(stages))
        storage = tuple(found[f"storage_{i}"] for i in range(stages + 1))
        a, b, c = (float(x) for x in found["numbers"])
        return Certificate(str(found["hash"]), a, b, c, factors, found["weights"], found["tau"], storage, found["directions"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no Lipschitz certificate ({error}); write a new one with Certificate.save.") from None

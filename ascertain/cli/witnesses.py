"""Saves witnesses to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ascertain.certify.result import Witness, to_json
from ascertain.errors import InputError

__all__ = ["check_target", "save_witnesses"]


def check_target(file: Path | None) -> None:
    """Raises InputError for a file that could not be written, before any work is done."""
    if file is None:
        return
    if file.suffix not in (".npz", ".json"):
        raise InputError(f"witnesses are saved as .npz or .json, {file} is neither; change the name.")
    if not file.resolve().parent.is_dir():
        raise InputError(f"the folder of {file} does not exist; create it.")


def save_witnesses(file: Path | None, found: Sequence[tuple[int, Witness | None]]) -> None:
    """Writes the witnesses with the images (or 0) they belong to; nothing if there are none."""
    kept = [(index, witness) for index, witness in found if witness is not None]
    if file is None or not kept:
        return
    if file.suffix == ".json":
        file.write_text(json.dumps([{"image": index, **to_json(witness)} for index, witness in kept]) + "\n")
        return
    inputs = np.stack([witness.input for _, witness in kept])
    outputs = np.stack([witness.output for _, witness in kept])
    np.savez_compressed(file, image=np.array([index for index, _ in kept]), input=inputs, output=outputs)

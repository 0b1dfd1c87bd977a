"""What names on the command line stand for: files, networks and data of the zoo, folders of checkpoints."""

from __future__ import annotations

import io
import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ascertain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ascertain.fixtures import Task
    from ascertain.runs.items import ModelSource

__all__ = ["checkpoints", "data_file", "model_file"]

_KINDS = (".onnx", ".onnx.gz", ".pt2", ".safetensors", ".pt", ".pth")


def model_file(name: str) -> Path:
    """The file of a network: the name itself, or that of a network of the zoo which ships or was trained here."""
    from ascertain import fixtures
    from ascertain.fixtures.running import cached

    path = Path(name)
    if name in fixtures.NAMES:
        return fixtures.path(name)
    if name in fixtures.FIXTURES and not path.is_file():
        if not (cached(fixtures.fixture(name), 0) / f"{name}.json").exists():
            raise InputError(f"{name} is a network of the zoo that does not ship trained; run 'ascertain train {name}' first.")
        return fixtures.path(name)
    if not path.suffix and not path.is_file():
        raise _unknown(name, "network", fixtures.FIXTURES, "ascertain list fixtures")
    return path


def data_file(name: str) -> Path:
    """The file of a data set: the name itself, or the test data of a task or network of the zoo, written to the cache once."""
    from ascertain.fixtures.tasks.digits import FILE

    path = Path(name)
    if name == "digits":
        return FILE
    # A folder may well be called as a task is.
    if path.suffix or path.is_file():
        return path
    from ascertain.fixtures import FIXTURES, load_task
    from ascertain.fixtures.tasks import task_names

    task = FIXTURES[name].task if name in FIXTURES else name
    if task == "digits":
        return FILE
    if not isinstance(task, str) or task not in task_names():
        raise _unknown(name, "data set", [*task_names(), *FIXTURES], "ascertain list fixtures")
    return _written(task, load_task(task))


def _unknown(name: str, what: str, known: Iterable[str], where: str) -> InputError:
    near = get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"check the path, or see '{where}'."
    return InputError(f"there is no file {name}, and no {what} of the zoo is called so; {hint}")


def _written(name: str, task: Task) -> Path:
    """The test data as a .npz file with x, and y where it holds classes."""
    import numpy as np

    from ascertain.fixtures.store import cache, write_file

    file = cache() / "data" / f"{name}-{task.hash[:12]}.npz"
    if file.exists():
        return file
    whole = io.BytesIO()
    arrays: dict[str, Any] = {"x": task.test.x} | ({"y": task.test.y} if task.ask == "classes" else {})
    np.savez(whole, **arrays)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, whole.getvalue())
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror or error}); make room, or set ASCERTAIN_CACHE.") from None
    return file


def checkpoints(folder: Path, factory: str | None, shape: tuple[int, ...] | None) -> list[ModelSource]:
    """The networks in a folder in the order of their names; those that ``ascertain train --trajectory`` keeps need no factory."""
    from ascertain.runs.items import ModelSource

    kept = folder / "trajectory.json"
    files = [f for f in folder.iterdir() if f.name.endswith(_KINDS) and not f.name.startswith(".")]
    if kept.is_file() and factory is None:
        fixture = _fixture(kept)
        # Beside the steps lies the finished network.
        files = [f for f in files if f.stem.startswith("step-")]
        factory, shape = f"ascertain.cli.zoo:{fixture.name}", (1, *fixture.input_shape)
    if len(files) < 2:
        raise InputError(f"{folder} holds {len(files)} model files, a course of training takes two or more; give a file instead.")
    return [ModelSource(_short(f), f, factory, shape) for f in sorted(files, key=lambda f: _natural(f.name))]


def _fixture(kept: Path) -> Any:
    from ascertain.fixtures import fixture

    try:
        return fixture(json.loads(kept.read_text())["fixture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{kept} is no record of a trajectory ({error}); train it again, or give --factory.") from None


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in names count as numbers: 9 comes before 10."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"([0-9]+)", name) if t]


def _short(file: Path) -> str:
    """The name without ending and leading noughts: step-00000040.safetensors is step-40."""
    name = next(file.name.removesuffix(kind) for kind in _KINDS if file.name.endswith(kind))
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", name)

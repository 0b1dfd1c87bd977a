"""Reads files written by torch without running any code that they bring along."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ascertain.errors import InputError, ModelError
from ascertain.graph.files import LIMIT, read_bytes
from ascertain.graph.fold import FAILURES, failure

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["build", "read_archive", "read_weights"]

_REFUSED = "a pickle that wants to run code is refused; save the plain state_dict, or safetensors"
# Names in an exported program end up in generated Python source, and sizes in an expression evaluator.
_NAME = re.compile(r"[\w.:,\-+> ]*")
_SIZE = re.compile(r"(?:[a-z]+\d+|Symbol\('[a-z]+\d+'(?:, [a-z]+=True)*\)|\d+|Max|Min|Mod|FloorDiv|CeilDiv|[-+*/(), ])*")
_TREE = re.compile(r"[\w.:,\-> \[\]{}\"\\]*")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name of a ``.safetensors`` or ``.pt`` file; a dict under ``state_dict`` is found too."""
    data = read_bytes(path, limit=64 * LIMIT)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return dict(load(data))
        except (SafetensorError, *FAILURES) as error:
            raise ModelError(f"{path} is not a complete safetensors file ({failure(error)}); fetch it again.") from error
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} does not hold plain tensors: {_REFUSED}.") from error
    except (*FAILURES, EOFError, OSError) as error:
        raise ModelError(f"{path} is not a complete torch checkpoint ({failure(error)}); fetch it again.") from error
    for key in ("state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ModelError(f"{path} holds no state_dict (names to tensors); save module.state_dict().")
    return {str(name): tensor for name, tensor in content.items()}


def build(factory: str | Callable[[], Any], weights: dict[str, torch.Tensor], path: Path) -> torch.nn.Module:
    """The module that a factory (callable or ``package.module:function``) makes, with the weights of a file."""
    module = _resolve(factory)()
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"the factory {factory!r} returns {type(module).__name__}, not a torch module; return the bare network.")
    try:
        module.load_state_dict(weights)
    except (RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ModelError(f"the weights of {path} do not fit the module of {factory!r} ({reason}); give its own factory.") from error
    return module


def _resolve(factory: str | Callable[[], Any]) -> Callable[[], Any]:
    if callable(factory):
        return factory
    name, _, function = factory.partition(":")
    try:
        found = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"the factory {factory!r} cannot be found ({error}); give 'package.module:function'.") from error
    if not callable(found):
        raise ModelError(f"the factory {factory!r} is no function; give 'package.module:function'.")
    return found  # type: ignore[no-any-return]


def read_archive(path: Path) -> ExportedProgram:
    """The exported program of a ``.pt2`` file; refuses archives that bring code, pickled objects or odd names."""
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _inspect(archive, path)
        with _tensors_only():
            return torch.export.load(io.BytesIO(data))
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} does not hold plain tensors: {_REFUSED}.") from error
    except (*FAILURES, zipfile.BadZipFile, EOFError, OSError, AssertionError) as error:
        raise ModelError(
            f"{path} is not a complete exported program ({failure(error)}); save it again with torch.export.save."
        ) from error


def _inspect(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    if sum(m.file_size for m in members) > LIMIT:
        raise ModelError(f"{path} unpacks to more than {LIMIT} bytes; decompress it yourself if you trust it.")
    for member in members:
        if "aotinductor" in member.filename or member.filename.endswith((".so", ".pyd", ".dll", ".dylib", ".cubin")):
            raise ModelError(f"{path} brings compiled code ({member.filename}); save the exported program alone.")
        if member.filename.endswith(".json"):
            for text, allowed in _strings(json.loads(archive.read(member)), ""):
                if not allowed.fullmatch(text) or ("__" in text and "(" in text):
                    raise ModelError(
                        f"{path} has the odd text {text[:60]!r} in {member.filename}, which could run code; export it again."
                    )


def _strings(value: Any, key: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Every text of a JSON value outside of free comments, with the pattern it must match."""
    if key == "metadata":
        return
    if isinstance(value, str):
        yield value, _SIZE if key == "expr_str" else _TREE if key in ("in_spec", "out_spec") else _NAME
    elif isinstance(value, dict):
        for name, part in value.items():
            yield name, _NAME
            yield from _strings(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part, key)


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Makes every torch.load refuse code, also those inside torch that ask for it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

"""The one door by which networks come in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ascertain.operators  # noqa: F401  (registers the readers)
from ascertain.errors import ModelError
from ascertain.graph.files import digest, read_bytes
from ascertain.graph.graph import Graph, Source
from ascertain.graph.legality import check
from ascertain.operators.base import Shape

if TYPE_CHECKING:
    import torch

__all__ = ["load"]


def load(
    source: str | os.PathLike[str] | torch.nn.Module,
    *,
    factory: str | Callable[[], torch.nn.Module] | None = None,
    input_shape: tuple[int, ...] | None = None,
    example: Any = None,
    output: str | None = None,
) -> Graph:
    """The graph of a network, checked; shapes include the batch axis, which is 1 where the model leaves it open.

    ``source`` is a ``.onnx``, ``.onnx.gz`` or ``.pt2`` file, a torch module, or a ``.safetensors``, ``.pt`` or ``.pth`` file of
    weights with the ``factory`` (a callable, or ``package.module:function``) of their module. ``input_shape``, or an
    ``example`` input whose first entry counts, is needed for modules, and for files that leave more than the batch size open.
    ``output`` names one of several outputs. Raises ModelError, UnsupportedError (all unknown operators), ShapeError, DataError.
    """
    shape = _shape(input_shape, example)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        return check(_module(source, shape, output, Source("module")))
    if not isinstance(source, (str, os.PathLike)):
        raise ModelError(f"a network cannot be loaded from {type(source).__name__}; give a file or a torch module.")
    path = Path(source)
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a model file; give the file inside it.")
    if path.name.removesuffix(".gz").endswith(".onnx"):
        from ascertain.graph.onnx_model import read_onnx

        return check(read_onnx(path, shape, output))
    if path.suffix == ".pt2":
        return check(_program(path, shape, output))
    if path.suffix in (".safetensors", ".pt", ".pth"):
        return check(_checkpoint(path, factory, shape, output))
    raise ModelError(f"{path} is of no known kind; give a .onnx, .onnx.gz, .pt2, .safetensors, .pt or .pth file.")


def _shape(input_shape: tuple[int, ...] | None, example: Any) -> Shape | None:
    if input_shape is not None and example is not None:
        raise ModelError("input_shape and example are both given; give one of them.")
    if example is not None:
        if not getattr(example, "shape", ()):
            raise ModelError("the example is no array with a batch axis; give an input of shape (1, ...).")
        return (1, *(int(n) for n in example.shape[1:]))
    if input_shape is None:
        return None
    if not input_shape or not all(int(n) == n and n > 0 for n in input_shape):
        raise ModelError(f"input_shape={input_shape} holds no numbers; give positive sizes, batch axis included.")
    return tuple(int(n) for n in input_shape)


def _module(module: torch.nn.Module, shape: Shape | None, output: str | None, source: Source) -> Graph:
    from ascertain.graph.torch_model import read_module

    if shape is None:
        raise ModelError(
            f"the input shape of {type(module).__name__} is not known; give input_shape=(1, ...), batch axis included."
        )
    return read_module(module, shape, output, source)


def _program(path: Path, shape: Shape | None, output: str | None) -> Graph:
    from ascertain.graph.replay import ModuleReplay
    from ascertain.graph.torch_files import read_archive
    from ascertain.graph.torch_model import export, program_shape, read_program

    program = read_archive(path)
    found, static = program_shape(program, shape, str(path))
    module = program.module()
    source = Source("pt2", path, ModuleReplay(module, found, output), digest(read_bytes(path)))
    return read_program(program if static else export(module, found), output, source, str(path))


def _checkpoint(path: Path, factory: str | Callable[[], Any] | None, shape: Shape | None, output: str | None) -> Graph:
    from ascertain.graph.torch_files import build, read_weights

    weights = read_weights(path)
    if factory is None:
        raise ModelError(f"{path} holds weights only; give factory='package.module:function' that builds their module.")
    return _module(build(factory, weights, path), shape, output, Source("module", path, digest=digest(read_bytes(path))))

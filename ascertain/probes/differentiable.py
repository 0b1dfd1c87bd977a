"""Differentiable passes through a torch module in float64 that read and replace what layers answer; the module stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ascertain.errors import DataError, ShapeError
from ascertain.graph.torch_model import outputs
from ascertain.probes.capture import one_device, unknown, untouched

__all__ = [
    "Values",
    "call",
    "called",
    "differentiable",
    "double",
    "finite",
    "finite_output",
    "parameters64",
    "read",
    "replaced",
    "submodule",
]

Values = dict[str, torch.Tensor]


@contextmanager
def differentiable(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients; mode, buffers and random state of the module are given back."""
    with untouched(module), torch.enable_grad():
        yield


def parameters64(module: torch.nn.Module) -> Values:
    """Parameters and buffers as detached tensors, floats of them in float64, on the one device they are on."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().double() if tensor.is_floating_point() else tensor.detach() for name, tensor in named.items()}


def double(data: Any, module: torch.nn.Module | None = None) -> torch.Tensor:
    """Inputs, first axis the samples, floats of them in float64, on the device of a module; raises DataError on NaN."""
    tensor = torch.as_tensor(data).detach()
    if not tensor.ndim:
        raise ShapeError("the inputs are a single number; give an array whose first axis counts the samples.")
    if module is not None:
        one_device(module)
        tensor = tensor.to(next((p.device for p in (*module.parameters(), *module.buffers())), tensor.device))
    return finite(tensor.double(), "the data") if tensor.is_floating_point() else tensor


def finite(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """The tensor, once every number in it is known to be finite."""
    if not bool(tensor.detach().isfinite().all()):
        raise DataError(f"{what} holds NaN or infinite numbers; look at the inputs and at the layers before it.")
    return tensor


def call(module: torch.nn.Module, values: Values, x: torch.Tensor) -> torch.Tensor:
    """The module's (first) output for given parameters and buffers."""
    result: torch.Tensor = outputs(torch.func.functional_call(module, values, (x,)), None)
    return result


def finite_output(module: torch.nn.Module, values: Values, x: torch.Tensor) -> torch.Tensor:
    """As `call`; raises DataError naming the first layer that answers NaN or infinite numbers, where the output holds some."""
    result = call(module, values, x)
    if bool(result.detach().isfinite().all()):
        return result
    names, bad = [name for name, _ in module.named_modules() if name], []

    def hook(i: int) -> Any:
        def note(_module: object, _inputs: object, output: Any) -> None:
            if isinstance(output, torch.Tensor) and not bool(output.detach().isfinite().all()):
                bad.append(names[i])

        return note

    with _hooked([submodule(module, name) for name in names], hook):
        call(module, values, x)
    where = f"layer {bad[0]!r} is the first of {type(module).__name__}" if bad else f"{type(module).__name__} is the one"
    raise DataError(f"{where} to answer NaN or infinite numbers; look at its weights and at the inputs.")


def submodule(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """The submodule of a name ('' or 'output' is the module itself); an unknown one raises ModelError with the nearest."""
    parts: dict[str, torch.nn.Module] = dict(module.named_modules(remove_duplicate=False))
    if name == "output":
        return module
    if name not in parts:
        raise unknown(name, tuple(filter(None, parts)), type(module).__name__)
    return parts[name]


@contextmanager
def _hooked(parts: Sequence[torch.nn.Module], hook: Callable[[int], Any]) -> Iterator[None]:
    handles = []
    try:
        for i, part in enumerate(parts):
            handles.append(part.register_forward_hook(hook(i)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def read(module: torch.nn.Module, names: Sequence[str]) -> Iterator[Values]:
    """Collects the outputs of named layers while the module runs: the last call of each."""
    found: Values = {}

    def hook(i: int) -> Any:
        def keep(_module: object, _inputs: object, output: Any) -> None:
            if not isinstance(output, torch.Tensor):
                raise ShapeError(f"layer {names[i]!r} returns {type(output).__name__}, not one tensor; probe a part of it.")
            found[names[i]] = output

        return keep

    with _hooked([submodule(module, name) for name in names], hook):
        yield found


@contextmanager
def called(module: torch.nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Collects (input, output) of every call of named layers while the module runs."""
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in names}

    def hook(i: int) -> Any:
        return lambda _module, inputs, output: found[names[i]].append((inputs[0], output))

    with _hooked([submodule(module, name) for name in names], hook):
        yield found


@contextmanager
def replaced(module: torch.nn.Module, name: str, value: torch.Tensor) -> Iterator[None]:
    """Makes a layer answer a given value while the module runs."""
    with _hooked([submodule(module, name)], lambda _i: lambda _module, _inputs, _output: value):
        yield

"""Forward passes that hand out what the layers of a network answer, and leave the network as it was."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from ascertain.errors import AscertainError, ModelError, ShapeError
from ascertain.graph import Graph
from ascertain.graph.torch_model import evaluating, number_type

__all__ = ["Tap", "answers", "channel_axis", "forward", "one_device", "tap", "unknown", "untouched"]

CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)
CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.GroupNorm,
)


class Tap(Protocol):
    """What layers answer to a batch."""

    names: tuple[str, ...]
    bytes: float
    """What the values of one sample take."""

    def read(self, batch: Any) -> dict[str, torch.Tensor]:
        """The values of the layers, the samples on axis 0."""

    def channel(self, name: str, dimensions: int) -> int:
        """Where the channels of a value of so many axes are."""


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; mode, buffers, random states and global switches are given back.

    Raises ModelError for a module on several devices.
    """
    one_device(module)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    kept = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder layer calls none of its parts
    try:
        with torch.no_grad(), evaluating(module):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        with torch.no_grad():
            for part, name, buffer, value in kept:
                part._buffers[name] = buffer  # a forward pass may put another tensor in its place
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def tap(net: nn.Module | Graph, layers: Sequence[str] | None, first: Any) -> Iterator[Tap]:
    """A network ready to be read; ``first`` is a batch on which its layers are found.

    ``layers`` None takes every module without parts whose output has an axis of samples, or every node of a graph.
    Raises ModelError for unknown names, ShapeError where samples have no axis of their own.
    """
    if isinstance(layers, str) or (layers is not None and not all(isinstance(name, str) for name in layers)):
        raise ModelError(f"layers={layers!r} is no list of names; give the names of layers, such as ['conv1', 'fc'].")
    if layers is not None and not layers:
        raise ModelError("layers is empty; name at least one layer, or give None for all.")
    if isinstance(net, Graph):
        yield _GraphTap(net, layers)
        return
    if not isinstance(net, nn.Module):
        raise ModelError(f"layers of {type(net).__name__} cannot be read; give a torch module or a loaded graph.")
    net = getattr(net, "_orig_mod", net)  # a compiled module skips hooks that come after compilation
    with untouched(net), ExitStack() as hooks:
        yield _ModuleTap(net, layers, first, hooks)


def forward(net: nn.Module, batch: Any) -> Any:
    """What a network answers to a batch (an array, or a dict of arguments) in its own number type and on its device.

    Raises ShapeError where it accepts no such batch.
    """
    dtype, device = number_type(net)

    def ready(value: Any) -> Any:
        if not hasattr(value, "shape"):
            return value
        tensor = torch.as_tensor(value).to(device)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    try:
        return net(**{key: ready(value) for key, value in batch.items()}) if isinstance(batch, Mapping) else net(ready(batch))
    except AscertainError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shape, kind = tuple(getattr(batch, "shape", ())), getattr(batch, "dtype", type(batch).__name__)
        raise ShapeError(
            f"{type(net).__name__} does not accept a batch of shape {shape}, {kind} ({str(error).splitlines()[0]}); "
            "give data of shape (n, ...) as its forward pass takes them."
        ) from error


def answers(net: nn.Module, batch: Any) -> torch.Tensor:
    """The class scores (n, classes) of a classifier; ModelError where it answers anything else."""
    found = forward(net, batch)
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(batch):
        raise ModelError(f"{type(net).__name__} does not answer (n, classes) to n samples; give a classifier.")
    return found


def channel_axis(part: nn.Module, dimensions: int) -> int:
    """Where a module puts the channels of its output of so many axes, samples on axis 0: sequences have theirs last."""
    if isinstance(part, CHANNELS_FIRST):
        return 1
    return dimensions - 1 if isinstance(part, CHANNELS_LAST) or dimensions == 3 else 1


def one_device(net: nn.Module) -> None:
    """ModelError for what is no module, has lazy weights still, or is on several devices, or on none that holds numbers."""
    if not isinstance(net, nn.Module):
        raise ModelError(f"this needs a torch module, not {type(net).__name__}; of a loaded graph, give probes.GraphModule(graph).")
    where: dict[str, str] = {}
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(f"{type(net).__name__} has lazy weights without a shape ({name}); run it once on data.")
        where.setdefault(str(tensor.device), name)
    if len(where) > 1 or "meta" in where:
        listed = ", ".join(f"{name} on {device}" for device, name in where.items())
        raise ModelError(f"{type(net).__name__} is not on one device that holds numbers ({listed}); move it with .to(device).")


def unknown(name: str, known: Sequence[str], what: str) -> ModelError:
    """The error for a layer that does not exist, with the nearest that do."""
    near = get_close_matches(name, known, 3, 0.5) or list(known)[:8]
    return ModelError(f"{what} has no layer {name!r}; near to it are {', '.join(map(repr, near)) or 'none'}.")


class _GraphTap:
    """Nodes of a graph; of several with one name (a composite operator written out) the last, which is its result."""

    def __init__(self, graph: Graph, layers: Sequence[str] | None) -> None:
        self.graph = graph
        self.nodes = {node.name: i for i, node in enumerate(graph.nodes) if i == graph.input or node.inputs}
        for name in layers or ():
            if name not in self.nodes:
                raise unknown(name, tuple(self.nodes), "the graph")
        self.names = tuple(layers or self.nodes)
        self.bytes = 8.0 * sum(int(np.prod(graph.nodes[self.nodes[name]].shape)) for name in self.names)

    def read(self, batch: Any) -> dict[str, torch.Tensor]:
        x, shape = np.asarray(batch), self.graph.input_shape
        if x.dtype.kind != "f":
            x = x.astype(np.float32)
        if x.shape[1:] != shape and shape[:1] == (1,) and x.shape[1:] == shape[1:]:
            x = x[:, None]
        values = self.graph.like(x).values(x)
        found = {}
        for name in self.names:
            index = self.nodes[name]
            value = np.array(values[index])
            found[name] = torch.from_numpy(value[:, 0] if self.graph.nodes[index].shape[:1] == (1,) else value)
        return found

    def channel(self, name: str, dimensions: int) -> int:
        return 1 if dimensions > 3 else dimensions - 1


class _ModuleTap:
    """Submodules by name; ``name#2`` is the second call in one pass, ``name:1.0`` a further output."""

    def __init__(self, net: nn.Module, layers: Sequence[str] | None, first: Any, hooks: ExitStack) -> None:
        self.net, self.layers = net, layers
        self.parts = {name or "output": part for name, part in net.named_modules(remove_duplicate=False)}
        self.taken: dict[str, torch.Tensor] = {}
        chosen = list(layers or _leaves(net))
        for part in dict.fromkeys(map(_part, chosen or ["output"])):
            if part not in self.parts:
                raise unknown(part, tuple(self.parts), type(net).__name__)
            if isinstance(self.parts[part], torch.jit.ScriptModule):
                raise ModelError(f"layer {part!r} is compiled by torch.jit and cannot be read; give the module it was made from.")
            hooks.callback(self.parts[part].register_forward_hook(self._hook(part)).remove)
        self.axes: dict[str, int] = {}
        self.bytes = 0.0
        self.names = self._find(first)

    def _hook(self, part: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            paths, _ = pytree.tree_flatten_with_path(output)
            tensors = [(path, leaf) for path, leaf in paths if isinstance(leaf, torch.Tensor)]
            for position, (path, leaf) in enumerate(tensors):
                tail = ":" + ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path) if position else ""
                count = 2
                name = f"{part}{tail}"
                while name in self.taken:
                    name, count = f"{part}#{count}{tail}", count + 1
                self.taken[name] = leaf.detach().clone()  # the next layer may work in place

        return keep

    def _find(self, first: Any) -> tuple[str, ...]:
        """Names and sample axes, found with batches of two and of three copies of one sample."""
        two, three = ({name: tuple(value.shape) for name, value in self._run(_copies(first, count)).items()} for count in (2, 3))
        names = []
        for name in [n for n in two if ":" not in n] if self.layers is None else self.layers:
            if name not in two and name in self.parts:
                raise ModelError(f"layer {name!r} is not called in a forward pass, or returns no tensor; choose another.")
            if name not in two:
                raise unknown(name, tuple(two), f"a forward pass of {type(self.net).__name__}")
            pairs = list(zip(two[name], three[name], strict=True)) if len(two[name]) == len(three[name]) else []
            axis = next((i for i, pair in enumerate(pairs) if pair == (2, 3)), None)
            if axis is None and self.layers is None:  # of tables of positions or weights, say
                continue
            if axis is None:
                raise ShapeError(
                    f"layer {name!r} answers shape {two[name]} to 2 samples and {three[name]} to 3: samples have no axis of their "
                    "own; choose a layer before they are merged."
                )
            names.append(name)
            self.axes[name] = axis
            self.bytes += 4.0 * int(np.prod(two[name]))
        if not names:
            raise ModelError(f"no layer of {type(self.net).__name__} answers tensors with an axis of samples; name layers.")
        return tuple(names)

    def _run(self, batch: Any) -> dict[str, torch.Tensor]:
        self.taken.clear()
        forward(self.net, batch)
        return self.taken

    def read(self, batch: Any) -> dict[str, torch.Tensor]:
        taken = self._run(batch)
        missing = [name for name in self.names if name not in taken]
        if missing:
            raise ModelError(f"layer {missing[0]!r} is not reached by every batch; choose layers that every forward pass calls.")
        return {name: taken[name].movedim(self.axes[name], 0) for name in self.names}

    def channel(self, name: str, dimensions: int) -> int:
        return channel_axis(self.parts[_part(name)], dimensions)


def _leaves(net: nn.Module) -> list[str]:
    """Modules that compute something of their own; what computes a parametrised weight is no layer."""
    found = []
    for name, part in net.named_modules():
        whole = isinstance(part, nn.MultiheadAttention) or {child for child, _ in part.named_children()} <= {"parametrizations"}
        if name and whole and ".parametrizations." not in f".{name}":
            found.append(name)
    return found


def _part(name: str) -> str:
    return re.split("[:#]", name, maxsplit=1)[0]


def _copies(batch: Any, count: int) -> Any:
    if isinstance(batch, Mapping):
        return {key: _copies(value, count) if hasattr(value, "shape") else value for key, value in batch.items()}
    return torch.as_tensor(batch)[:1].repeat(count, *[1] * (batch.ndim - 1))

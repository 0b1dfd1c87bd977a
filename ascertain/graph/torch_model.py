"""Reads torch modules and exported programs: walks the exported graph, folds constants, calls readers. Knows no operator."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ascertain.errors import ModelError
from ascertain.graph.fold import FAILURES, failure, guarded
from ascertain.graph.graph import Graph, Source
from ascertain.graph.importing import Unknown, Walk, static_shape
from ascertain.graph.replay import ModuleReplay
from ascertain.operators.base import Ref, Shape
from ascertain.operators.reading import ATEN, Call

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["evaluating", "export", "number_type", "outputs", "read_module", "read_program"]

_OF_SHAPE = ("empty_like", "full_like", "isnan", "new_", "ones_like", "sym_size", "zeros_like")
"""ATen operators that look at the shape of their input only; values are real numbers, so that none is NaN."""


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; training flags and random state are given back."""
    flags = {part: part.training for part in module.modules()}
    try:
        with torch.random.fork_rng():
            for part in flags:
                part.training = False
            yield
    finally:
        for part, flag in flags.items():
            part.training = flag


def number_type(module: torch.nn.Module) -> tuple[torch.dtype, torch.device]:
    """Float type and device of a module's parameters and buffers; float32 on the CPU where it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.float32, torch.device("cpu")


def outputs(value: Any, wanted: str | None) -> Any:
    """The tensor that is asked for of what a module returns: the first, or one by key or position."""
    paths, _ = pytree.tree_flatten_with_path(value)
    named = {".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): leaf for path, leaf in paths}
    if wanted is not None and wanted not in named:
        raise ModelError(f"the module has no output {wanted!r}; its outputs are {', '.join(map(repr, named))}.")
    found = next(iter(named.values()), None) if wanted is None else named[wanted]
    if found is None:
        raise ModelError("the module returns nothing; return a tensor.")
    return found


def export(module: torch.nn.Module, shape: Shape) -> ExportedProgram:
    """The module traced at one input shape, in evaluation mode, in-place operations made plain; the module stays as it is."""
    dtype, device = number_type(module)
    with evaluating(module), warnings.catch_warnings():
        # recurrent layers list their own weights in an attribute
        warnings.filterwarnings("ignore", "The tensor attributes? ", UserWarning)
        try:
            return torch.export.export(module, (torch.zeros(shape, dtype=dtype, device=device),))
        except (*FAILURES, AssertionError) as error:
            raise ModelError(
                f"{type(module).__name__} cannot be traced at input shape {shape} ({failure(error)}); "
                "give the input shape with its batch axis, and a forward pass without branches on values."
            ) from error


def read_module(module: torch.nn.Module, shape: Shape, output: str | None, source: Source) -> Graph:
    """The graph of a module at one input shape."""
    program = export(module, shape)
    replay = ModuleReplay(module, shape, output)
    return read_program(program, output, Source(source.kind, source.path, replay, source.digest), type(module).__name__)


def program_shape(program: ExportedProgram, given: Shape | None, what: str) -> tuple[Shape, bool]:
    """The input's shape, and whether the program was traced at exactly that one."""
    names = program.graph_signature.user_inputs
    found = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    if len(names) != 1 or not isinstance(value := found.get(str(names[0])), torch.Tensor):
        raise ModelError(f"{what} has the inputs {', '.join(map(str, names)) or 'none'}, exactly one tensor is supported.")
    if not value.is_floating_point():
        raise ModelError(f"{what} takes {value.dtype} numbers, not floats; only real-valued inputs are supported.")
    declared: list[int | None] = [n if isinstance(n, int) else None for n in value.shape]
    return static_shape(declared, given, f"{what}: its input"), None not in declared


def read_program(program: ExportedProgram, output: str | None, source: Source, what: str) -> Graph:
    """The graph of an exported program with static shapes, as its nodes say, before any pass."""
    plain, unknown = _plain(program)
    shape, _ = program_shape(plain, None, what)
    reader = _Reader(plain, Walk(what, ATEN))
    ref = reader.walk.builder.input(shape)
    target, label = reader.target(output)
    needed = _needed(target)
    for node in plain.graph.nodes:
        if node in needed:
            reader.visit(node, ref)
    if reader.walk.unsupported and unknown:
        # Name what the user wrote, not what torch made of it.
        reader.walk.unsupported.clear()
        for node in unknown:
            reader.walk.missing(_key(node.target), node.name)
    result = reader.walk.finish(reader.values[target], label)
    return reader.walk.builder.graph(ref, result, source)


def _key(target: Any) -> str:
    return str(target).removeprefix("aten.")


def _plain(program: ExportedProgram) -> tuple[ExportedProgram, list[torch.fx.Node]]:
    """The program without in-place operations, unknown operators in simpler ones where torch knows how; and those operators."""
    calls = [n for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    used = [n for n in calls if n.users or n.target._schema.is_mutable]  # the others check types at most
    unknown = [n for n in used if _key(n.target) not in ATEN and any(m.op != "get_attr" for m in n.all_input_nodes)]
    targets = {n.target for n in unknown}
    table: dict[Any, Any] = {}
    if targets:
        rules: Any = torch.export.default_decompositions()
        table = {t: rule for t, rule in rules.items() if t in targets}
    if targets or any(n.target._schema.is_mutable for n in calls):
        with torch.random.fork_rng():
            return guarded(lambda: program.run_decompositions(table), "the exported program"), unknown
    return program, []


def _needed(target: torch.fx.Node) -> set[torch.fx.Node]:
    found, stack = {target}, [target]
    while stack:
        fresh = [n for n in stack.pop().all_input_nodes if n not in found]
        found.update(fresh)
        stack.extend(fresh)
    return found


class _Reader:
    """Values of the nodes of one program: Refs, tensors, Unknowns, Python numbers, tuples of them."""

    def __init__(self, program: ExportedProgram, walk: Walk) -> None:
        self.program, self.walk = program, walk
        self.values: dict[torch.fx.Node, Any] = {}
        self.names = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.target is not None}

    def target(self, wanted: str | None) -> tuple[torch.fx.Node, str]:
        """The node of the output that is asked for, and its name."""
        names = self.program.graph_signature.user_outputs
        spec = self.program.call_spec.out_spec
        tree = pytree.tree_unflatten(list(names), spec) if spec is not None else list(names)
        name = outputs(tree, wanted)
        found = [n for n in self.program.graph.nodes if n.name == name and n.op != "output"]
        if not found:
            raise ModelError(f"{self.walk.file}: its output {wanted or name!r} is not a tensor; return a tensor.")
        return found[0], str(wanted or name)

    def visit(self, node: torch.fx.Node, ref: Ref) -> None:
        """Finds the value of a node."""
        if node.op == "placeholder":
            self.values[node] = self.weight(node.name) if node.name in self.names else ref
        elif node.op == "call_function":
            self.values[node] = self.call(node)
        else:
            self.values[node] = self.walk.missing(f"{node.op} {node.target}", node.name, "control flow or a submodule")

    def weight(self, name: str) -> Any:
        """A parameter, buffer or constant of the program."""
        key = self.names[name]
        for table in (self.program.state_dict, self.program.constants):
            if isinstance(table.get(key), torch.Tensor):
                return table[key].detach()
        raise ModelError(f"{self.walk.file}: {key!r} is not a stored tensor; export the module again.")

    def call(self, node: torch.fx.Node) -> Any:
        """The value of a call: read where it depends on the input, computed where it does not."""
        target: Any = node.target
        args, kwargs = self.given(node.args), self.given(node.kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        if target is operator.getitem:
            return self.part(node, *args)
        name = str(target)
        key = _key(target)
        plain = isinstance(target, torch._ops.OpOverload) and name.startswith("aten.")
        if any(isinstance(x, Unknown) for x in leaves):
            return self.walk.probe(key if plain else name, node.name)[0]
        variable = any(isinstance(x, Ref) for x in leaves)
        if variable and not key.startswith(_OF_SHAPE):
            return self.read(node, key, args, kwargs) if plain else self.walk.missing(name, node.name, "no ATen operator")
        if not plain and getattr(target, "__module__", "") != "_operator":
            return self.walk.missing(name, node.name, "no ATen operator")
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            return self.walk.missing(name, node.name, "its value is random")
        # No number of the variable is looked at: a view of one zero stands for it.
        args, kwargs = pytree.tree_map_only(Ref, lambda r: torch.zeros(()).expand(r.shape), (args, kwargs))
        with torch.no_grad():
            return guarded(partial(target, *args, **kwargs), f"{self.walk.file}: node {node.name!r} ({name})")

    def part(self, node: torch.fx.Node, values: Any, place: int) -> Any:
        """One of the values of a call; readers give no indices and other outputs that have no bounds."""
        if isinstance(values, Unknown):
            return values
        if place >= len(values):
            key = _key(getattr(node.args[0], "target", ""))
            return self.walk.missing(key, node.name, f"its output {place} is not known as a function of real numbers")
        return values[place]

    def read(self, node: torch.fx.Node, key: str, args: Any, kwargs: Any) -> Any:
        """The value of a call on a variable, by its reader."""
        nodes = [n for n in node.all_input_nodes if isinstance(self.values[n], torch.Tensor)]
        weights = [(str(self.names.get(n.name, n.name)), _array(self.values[n])) for n in nodes]
        inputs, attributes = pytree.tree_map(_plain_value, (args, kwargs))
        types = tuple(_type(x) for x in (*node.args, node))
        call = Call(str(node.target), node.name, tuple(inputs), attributes, 0, self.walk.builder, types=types)
        found = self.walk.read(key, call, weights)
        many = isinstance(node.meta.get("val"), (tuple, list))
        return found if many and not isinstance(found[0], Unknown) else found[0]

    def given(self, arguments: Any) -> Any:
        """Arguments with nodes replaced by their values."""
        return torch.fx.node.map_arg(arguments, lambda n: self.values[n])


def _type(value: Any) -> str:
    """The number type of the tensor that a node makes, or ""."""
    made = value.meta.get("val") if isinstance(value, torch.fx.Node) else None
    return str(made.dtype).removeprefix("torch.") if isinstance(made, torch.Tensor) else ""


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A copy in numpy; half and brain floats as float32, exactly."""
    small = tensor.dtype in (torch.float16, torch.bfloat16)
    return np.array(tensor.detach().cpu().to(torch.float32 if small else tensor.dtype).numpy())


def _plain_value(value: Any) -> Any:
    """What readers may see: no object of torch."""
    if isinstance(value, torch.Tensor):
        return _array(value)
    return str(value) if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)) else value

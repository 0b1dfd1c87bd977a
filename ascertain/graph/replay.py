"""Runs original models, so that a witness is judged by what the user deploys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ascertain.errors import ModelError, ShapeError
from ascertain.graph.files import digest, read_bytes
from ascertain.graph.fold import failure
from ascertain.operators.base import Shape

__all__ = ["ModuleReplay", "OnnxReplay"]


def _shaped(x: np.ndarray, shape: Shape) -> np.ndarray:
    if x.size != np.prod(shape, dtype=np.int64):
        raise ShapeError(f"the point has {x.size} numbers, the network takes shape {shape}; give one point.")
    return np.ascontiguousarray(x).reshape(shape)


@dataclass(frozen=True)
class OnnxReplay:
    """The original file in onnxruntime on the CPU; the session starts on first use."""

    path: Path
    digest: str
    shape: Shape
    input: str
    output: str
    dtype: str
    """numpy name of the model's own input type."""

    @cached_property
    def session(self) -> Any:
        import onnxruntime as ort

        data = read_bytes(self.path)
        if digest(data) != self.digest:
            raise ModelError(f"{self.path} has changed since it was loaded; load it again.")
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.path.parent.resolve()))
        return self._asked(lambda: ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """One input of the graph's shape, flat or not, to the flat output in the model's own number type."""
        given = {self.input: _shaped(x, self.shape).astype(self.dtype)}
        return np.asarray(self._asked(lambda: self.session.run([self.output], given)[0])).ravel()

    def _asked(self, function: Callable[[], Any]) -> Any:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
        try:
            return function()
        except (*refusals, state.RuntimeException, RuntimeError, ValueError) as error:
            raise ModelError(f"{self.path} cannot be run by onnxruntime ({failure(error)}); export the model again.") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "session"}


@dataclass(frozen=True, eq=False)
class ModuleReplay:
    """The original module in torch, in evaluation mode for the time of the call."""

    module: Any
    shape: Shape
    output: str | None = None
    """Which of several outputs; None where the module has one."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """One input of the graph's shape, flat or not, to the flat output in the module's own number type."""
        import torch

        from ascertain.graph.torch_model import evaluating, number_type, outputs

        dtype, device = number_type(self.module)
        with evaluating(self.module), torch.no_grad():
            value = self.module(torch.as_tensor(_shaped(x, self.shape)).to(device, dtype, copy=True))
        return np.asarray(outputs(value, self.output).detach().cpu().numpy()).ravel()

"""Number types in torch modules: truth values and whole numbers are read where they are numbers, and refused where they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from ascertain.errors import UnsupportedError
from ascertain.graph.load import load


class Module(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.function, self.one = function, torch.nn.Parameter(torch.ones(1, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) * self.one


def positive(x: Tensor) -> Tensor:
    """How many entries are above 0, as a whole number."""
    return (x > 0).sum(1, keepdim=True)


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "add.Tensor": lambda x: ((x > 0) + (x > -1)) * x,
    "truth values": lambda x: ((x > 0) + (x > -1)).float(),
    "bitwise_not": lambda x: ~positive(x) * x,
    "__and__": lambda x: (positive(x) & positive(-x)) * x,
    "logical_not": lambda x: torch.logical_not(x.round()) * x,
    "logical_and": lambda x: torch.logical_and(x > 0, torch.tensor([2.0, 0.0, 1.0, 3.0])) * x,
    "logical_or": lambda x: torch.logical_or(x > 0, x.round()) * x,
    "type bool": lambda x: (x > 0).sum(1, keepdim=True, dtype=torch.bool) * x,
    "type int64": lambda x: x.sum(1, keepdim=True, dtype=torch.int64) * x,
    "type_as": lambda x: x.type_as(positive(x)) * x,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_function_of_real_numbers_is_refused(what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        load(Module(REFUSED[what], torch.float32), input_shape=(1, 4))


READ: dict[str, tuple[Callable[[Tensor], Tensor], torch.dtype]] = {
    "product": (lambda x: ((x > 0) * (x > -1)) * x, torch.float32),
    "not": (lambda x: ~(x > 0) * x, torch.float32),
    "and or": (lambda x: ((x > 0) & (x < 1) | (x < -1)) * x, torch.float32),
    "count": (lambda x: positive(x) ** 2 / 3 * x, torch.float32),
    "plus one": (lambda x: ((x > 0) + 1) * x, torch.float32),
    "jump in float64": (lambda x: (x > 0.1) * x, torch.float64),
    "epsilon of float64": (lambda x: rms_norm(1e-8 * x, (4,)), torch.float64),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_agrees(name: str) -> None:
    function, dtype = READ[name]
    module = Module(function, dtype)
    x = torch.randn((50, 1, 4), generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[0] = 0.1 + 1e-9  # above the number, below its rounding to float32
    expected = torch.stack([module(v) for v in x]).detach().double().numpy()
    np.testing.assert_allclose(load(module, input_shape=(1, 4))(x.double().numpy()), expected, rtol=1e-5, atol=1e-6)

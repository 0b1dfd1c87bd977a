"""Untrained networks of the zoo as factories, ``ascertain.cli.zoo:NAME``, with which the weights along a training are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ascertain.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__: list[str] = []


def __getattr__(name: str) -> Callable[[], nn.Module]:
    from ascertain.fixtures import fixture

    try:
        return fixture(name).network
    except InputError as error:
        raise AttributeError(str(error)) from None

"""Everything that ascertain raises on purpose.

::

    AscertainError
    ├── InputError                what the user gave cannot be used (command line: exit code 2)
    │   ├── ModelError            a model file or module is unreadable, malformed or unsafe
    │   │   └── UnsupportedError  it is well formed but uses operators that are not known here
    │   ├── PropertyError         a property is malformed, empty or contradicts itself
    │   ├── ShapeError            sizes of model, property and data do not fit together
    │   └── DataError             numbers that cannot be used: NaN, infinite, lower > upper
    └── ResourceError             time or memory ran out; the caller turns it into ``unknown``

Messages are one sentence that names the file, node, operator or shape, and one that says what to do next.
"""

from __future__ import annotations

__all__ = [
    "AscertainError",
    "DataError",
    "InputError",
    "ModelError",
    "PropertyError",
    "ResourceError",
    "ShapeError",
    "UnsupportedError",
]


class AscertainError(Exception):
    """Base of every error raised on purpose."""


class InputError(AscertainError, ValueError):
    """What the user gave cannot be used."""


class ModelError(InputError):
    """A model file or module is unreadable, malformed or unsafe."""


class UnsupportedError(ModelError):
    """A model uses operators that are not known; ``operators`` lists all of them, (operator, node) each."""

    def __init__(self, message: str, operators: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.operators = operators


class PropertyError(InputError):
    """A property is malformed, empty or contradicts itself."""


class ShapeError(InputError):
    """Sizes of model, property and data do not fit together."""


class DataError(InputError):
    """Numbers that cannot be used: NaN, infinite, or a lower bound above its upper bound."""


class ResourceError(AscertainError):
    """Time or memory ran out."""

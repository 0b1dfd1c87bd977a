"""Exit codes: one table, which the README shows."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ascertain.certify.result import Verdict

__all__ = ["Exit", "exit_code", "interrupted"]


class Exit(IntEnum):
    """What the process tells its caller."""

    HOLDS = 0
    """Everything asked for holds (or the command, not being about a property, succeeded)."""
    VIOLATED = 1
    BAD_INPUT = 2
    UNKNOWN = 3
    BUG = 70
    INTERRUPTED = 130


def interrupted(verdict: Verdict) -> bool:
    """Whether the user ended the search."""
    return verdict.status == "unknown" and verdict.reason.startswith("interrupted")


def exit_code(statuses: Iterable[str]) -> Exit:
    """The code for several answers (`Status`): a violation counts more than an unknown."""
    found = set(statuses)
    if "violated" in found:
        return Exit.VIOLATED
    return Exit.HOLDS if found <= {"holds"} else Exit.UNKNOWN

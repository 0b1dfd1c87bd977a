"""Reports on disk: written whole or not at all, and printed by a browser where paper is wanted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ascertain.errors import InputError, ResourceError

__all__ = ["save"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
_PATIENCE = 120.0
"""Seconds that printing may take."""


def save(text: str, path: Path, *, printed: bool = False) -> None:
    """Writes the text, or the page that it is as PDF; raises InputError where that cannot be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if printed:
            _print(text, temporary)
        else:
            temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); check its folder and the room on disk.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _print(text: str, path: Path) -> None:
    found = [there for name in _BROWSERS if (there := shutil.which(name))]
    if not found:
        raise InputError("PDF is printed by Chromium or Chrome, and none is installed; install one, or print the html report.")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(text, encoding="utf-8")
        # A browser keeps its sandbox, except for root, whom it refuses to serve otherwise.
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        words = [found[0], "--headless", *sandbox, "--disable-gpu", f"--user-data-dir={folder}/profile", "--no-pdf-header-footer"]
        # The clock of the page runs as fast as it can until figures are drawn.
        words += ["--virtual-time-budget=20000", f"--print-to-pdf={path.absolute()}", page.as_uri()]
        try:
            done = subprocess.run(words, capture_output=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise ResourceError(f"{found[0]} took more than {_PATIENCE:.0f} s to print; print the html report by hand.") from None
    if done.returncode or not path.is_file():
        raise InputError(f"{found[0]} could not print the report (exit code {done.returncode}); print the html report by hand.")

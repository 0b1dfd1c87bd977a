"""Verifies one instance in this process and prints one JSON line: what `benchmarks.vnncomp` starts for every instance."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

from ascertain import load, read_property, verify
from ascertain.certify.result import to_json
from ascertain.cli.standard import word
from ascertain.errors import AscertainError


def main() -> None:
    """Loads, verifies, prints."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("property")
    parser.add_argument("timeout", type=float)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    record: dict[str, object] = {}
    try:
        network, property = load(options.network), read_property(options.property)
        record["load_seconds"] = time.monotonic() - started
        left = max(0.1, options.timeout - (time.monotonic() - started))
        verdict = verify(network, property, timeout=left, threads=options.threads)
        record |= {"verdict": word(verdict), **to_json(verdict)}
        del record["status"]
    except AscertainError as error:
        record |= {"verdict": "error", "reason": f"{type(error).__name__}: {error}"}
    # ru_maxrss is in KiB, but in bytes on macOS.
    record["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps(record, allow_nan=False))


if __name__ == "__main__":
    main()

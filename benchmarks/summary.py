"""A table of benchmark results, wrong verdicts first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["read_records", "summary"]

DECIDED = ("sat", "unsat")


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of a results file, the last one for each instance and timeout; a line cut short by a kill is dropped."""
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["instance"], record["timeout"]] = record
    return list(found.values())


def summary(records: Sequence[dict[str, Any]]) -> str:
    """Wrong verdicts, one line for each kind and one for all, then why instances stayed open."""
    wrong = [r for r in records if r["wrong"]]
    lines = [f"WRONG: {len(wrong)}"]
    lines += [f"  {r['instance']}: {r['verdict']}, expected {r['expected']} ({r.get('strategy', '')})" for r in wrong]
    lines.append(
        f"{'kind':<20} {'solved':>6} {'of':>4} {'sat':>4} {'unsat':>5} {'timed':>5} {'unkn.':>5} {'error':>5} "
        f"{'median s':>8} {'inside s':>8} {'max s':>7} {'MB':>6}"
    )
    kinds = sorted({r["kind"] for r in records})
    lines += [_line(kind, [r for r in records if r["kind"] == kind]) for kind in kinds]
    lines.append(_line("all", records))
    reasons = Counter((r["kind"], r["verdict"], (r.get("reason") or "")[:100]) for r in records if r["verdict"] not in DECIDED)
    lines += [f"  {count:>3} x {kind}: {verdict} ({reason})" for (kind, verdict, reason), count in reasons.most_common(20)]
    return "\n".join(lines)


def _line(name: str, records: Sequence[dict[str, Any]]) -> str:
    counts = Counter(r["verdict"] for r in records)
    solved = [r for r in records if r["verdict"] in DECIDED and not r["wrong"]]
    wall = [r["wall"] for r in solved] or [float("nan")]
    inside = [r["seconds"] for r in solved] or [float("nan")]
    peak = max((r.get("peak_mb") or 0.0 for r in records), default=0.0)
    failed = sum(counts[word] for word in ("error", "crash", "killed"))
    return (
        f"{name:<20} {len(solved):>6} {len(records):>4} {counts['sat']:>4} {counts['unsat']:>5} {counts['timed-out']:>5} "
        f"{counts['unknown']:>5} {failed:>5} {median(wall):>8.2f} {median(inside):>8.2f} {max(wall):>7.1f} {peak:>6.0f}"
    )

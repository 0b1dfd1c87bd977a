"""An analyzer that shows a figure of every kind, and records full of hostile words."""

from dataclasses import dataclass, replace

import numpy as np

from ascertain.analyze import Analyzer, Failure, Kind, Measured, View
from ascertain.evidence import Evidence
from tests.runs.test_store import failure, result

HOSTILE = (
    '"><script>window.hacked = 1</script>',
    "<img src=x onerror='window.hacked = 2'>",
    "</script><script>window.hacked = 3</script>",
    "<!--<script>",
    "</style><svg onload=window.hacked=4>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.hacked=5",
    "'];window.hacked=6;//",
    "https://example.invalid/a.png",
    "datum.v + (window.hacked=7)",
    "=1+1",
    "\u2028 \u202e back ]]> &lt; `a` | b",
)
EVIL = HOSTILE[0] + HOSTILE[2]


@dataclass(frozen=True)
class Everything(Analyzer):
    """Shows everything."""

    loud: str = "no"

    title = "Everything <b>there</b> is"
    meaning = "It means <i>little</i>."
    evidence = "Not at all."
    formula = "a < b & c"
    references = ("Nobody <nobody@example.invalid> 1900",)

    def measure(self, context):
        return {}

    def views(self, result):
        many = {"label": "words", "first": "numbers", "image": "guess"}
        return [
            View(Kind.TEXT, "Said", text="It says {word}, {share:.1%}.", finding=True),
            View(Kind.TABLE, EVIL, {EVIL: "words", "n": "numbers"}, text="Caption {word}"),
            View(Kind.LINE, EVIL, {"x": "numbers", "image": "guess", EVIL: "far"}, x=EVIL, y=EVIL, log="xy"),
            View(Kind.LINE, "Words along", {"x": "words", "a": "numbers"}),
            View(Kind.BAR, "Bars", many, x=EVIL, y=EVIL),
            View(Kind.BAR, "Many bars", {"label": "many_words", "v": "many"}, log="y"),
            View(Kind.HISTOGRAM, "Histogram", {EVIL: "far", "b": "many", "c": "map"}, x=EVIL),
            View(Kind.HISTOGRAM, "One value", {"c": "constant"}),
            View(Kind.HEATMAP, "Heat", {"z": "map", "rows": "words", "columns": "words"}, x=EVIL, y=EVIL),
            View(Kind.HEATMAP, "Large heat", {"z": "large"}),
            View(Kind.IMAGE, "Images", {"image": "images", "difference": "moved", "other": "images", "title": "words"}),
            View(Kind.IMAGE, "Colours", {"image": "colours", "difference": "colour_moved"}),
            View(Kind.GRAPH, "Circuit", {"node": "words", "edge": "edges", "group": "words", "detail": "words"}),
            View(Kind.GRAPH, "Web", {"node": "many_words", "edge": "circle", "group": "groups", "weight": "weights"}),
        ]

    @classmethod
    def examples(cls):
        yield from ()


def values(seed=0):
    random, n = np.random.default_rng(seed), len(HOSTILE)
    far = random.normal(size=n)
    far[0] = np.inf
    guess = random.normal(size=n)
    edges = [(i, j) for i in range(n) for j in range(i + 1, min(n, i + 3))]
    circle = np.array([(i, (i + 1) % 60) for i in range(60)])
    images = random.random((n, 5, 6))
    colours = random.random((3, 5, 6, 3))
    found = {
        "word": np.array(EVIL),
        "share": np.array(0.25 + seed / 10),
        "words": np.array(HOSTILE),
        "numbers": np.arange(1.0, n + 1),
        "far": far,
        "many_words": np.array([HOSTILE[i % n] for i in range(60)]),
        "many": random.random(60),
        "groups": np.array([HOSTILE[i % 3] for i in range(60)]),
        "constant": np.full(9, 1e300),
        "map": random.normal(size=(n, n)),
        "large": random.random((90, 70)),
        "images": images,
        "moved": 0.1 * random.normal(size=images.shape),
        "colours": colours,
        "colour_moved": 0.1 * random.normal(size=colours.shape),
        "edges": np.array(edges),
        "circle": circle,
        "weights": random.normal(size=60),
    }
    measured = {name: Measured(v, Evidence.BOUNDED, EVIL) for name, v in found.items()}
    measured["share"] = Measured(found["share"], Evidence.ESTIMATED, "a share", found["share"] - 0.1, found["share"] + 0.1)
    measured["guess"] = Measured(guess, Evidence.ESTIMATED, EVIL, guess - 1, guess + 1)
    return measured


def everything(model=EVIL, seed=0):
    """A record in which every word is hostile."""
    head = {"analyzer": Everything.called(), "version": 1, "options": {"loud": EVIL}, "names": {"model": model, "data": EVIL}}
    head |= {"inputs": {"model": model, "data": EVIL}, "versions": {EVIL: EVIL}, "machine": EVIL, "started": EVIL}
    return replace(result(), **head, values=values(seed))


def failed() -> Failure:
    return replace(failure(), error=EVIL, message=EVIL, names={"model": EVIL})

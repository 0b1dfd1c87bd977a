"""Every analyzer keeps its contract, and the battery catches those that do not."""

import json

import pytest

from ascertain.analyze import BatteryFailure, Context, analyze, analyzers, check_analyzer, explain, find, make
from ascertain.analyze.registry import schema
from ascertain.errors import InputError
from tests.analyze import breaking


@pytest.mark.parametrize("name", analyzers())
def test_every_analyzer_keeps_its_contract(name):
    assert check_analyzer(find(name)) > 0


def test_the_battery_passes_what_is_good():
    assert check_analyzer(breaking.Good) == 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (breaking.Undocumented, "documentation: meaning"),
        (breaking.Wrong, "known answer: one is 2"),
        (breaking.Unrepeatable, "repeatable"),
        (breaking.Random, "untouched"),
        (breaking.TorchRandom, "untouched"),
        (breaking.Training, "untouched"),
        (breaking.Hooked, "untouched"),
        (breaking.Graded, "untouched"),
        (breaking.Changed, "untouched"),
        (breaking.Unseen, "shows nothing"),
        (breaking.Untested, "no examples"),
    ],
)
def test_the_battery_catches(kind, words):
    with pytest.raises(BatteryFailure, match=words):
        check_analyzer(kind)


@pytest.mark.parametrize(("kind", "words"), [(breaking.Missing, "two"), (breaking.Misshapen, "z has 0 axes")])
def test_views_that_cannot_be_drawn(kind, words):
    with pytest.raises(BatteryFailure, match=words):
        check_analyzer(kind)


@pytest.mark.parametrize("name", analyzers())
def test_explanations_and_schemas(name):
    kind = find(name)
    text = explain(kind)
    assert kind.title in text and all(r in text for r in kind.references)
    body = json.loads(json.dumps(schema(kind)))
    assert make(name, {o: p["default"] for o, p in body["properties"].items()}) == kind()


def test_options_are_checked():
    assert make("robustness", {"limit": 1, "count": 3}).limit == 1.0
    for options, words in (
        ({"limits": 1.0}, "no option 'limits'; it has norm, limit"),
        ({"limit": "1"}, "limit of robustness is '1'"),
        ({"limit": True}, "limit"),
        ({"count": 2.5}, "count"),
        ({"count": True}, "count"),
        ({"norm": 2}, "norm"),
    ):
        with pytest.raises(InputError, match=words):
            make("robustness", options)
    with pytest.raises(InputError, match="choose overview"):
        find("overvieew")


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="robustness needs data and labels; give them"):
        analyze(make("robustness", {}), Context(breaking.graph()))

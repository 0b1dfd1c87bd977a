"""The page says what records say, and nothing in a record becomes markup."""

import base64
import errno
import hashlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ascertain.analyze import Context, analyze, read_record, report
from ascertain.analyze.overview import Overview
from ascertain.analyze.report import page, write_report
from ascertain.errors import InputError
from ascertain.graph import Builder
from ascertain.operators import Relu
from tests.analyze.report.everything import EVIL, HOSTILE, everything, failed
from tests.runs.test_store import result

VOID = {"meta", "img", "input", "br", "path", "rect", "line", "circle"}


class Reader(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles; complains of elements that are not closed."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found, self.open, self.text, self.inside, self.plain = [], [], [], None, []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        self.inside = tag if tag in ("script", "style") else None
        if self.inside:
            self.text.append("")

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.text[-1] += data
        else:
            self.plain.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def whole():
    return report([everything(), failed()])


def test_hostile_words_stay_words(whole):
    reader = read(whole)
    for tag, attributes in reader.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
    scripts = [a for t, a in reader.found if t == "script"]
    assert [a.get("type", "code") for a in scripts] == ["application/json"] * 2 + ["code"] * 2
    shown = "".join(reader.plain)
    assert all(word in shown for word in HOSTILE)
    assert "49" not in re.findall(r"\b49\b", shown)
    ids = [a["id"] for _, a in reader.found if "id" in a and a["id"] != "tip"]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for t, a in reader.found if t == "a"]
    assert set(links) <= set(ids)


def test_the_policy_allows_these_scripts_and_nothing_else(whole):
    reader = read(whole)
    (policy,) = [a["content"] for t, a in reader.found if a.get("http-equiv") == "Content-Security-Policy"]
    kinds = [a.get("type", t) for t, a in reader.found if t in ("script", "style")]
    for kind, text in zip(kinds, reader.text, strict=True):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert (f"'sha256-{digest}'" in policy) == (kind != "application/json")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    assert policy.count("sha256-") == 3


def test_the_record_is_in_the_page(whole):
    reader = read(whole)
    (body,) = [t for t in reader.text if t.startswith('{"kind":"result"')]
    assert read_record(json.loads(body)).content == everything().content


def test_forms():
    records = [everything(), failed()]
    again = [read_record(r) for r in json.loads(report(records, form="json"))]
    assert [r.to_json() for r in again] == [r.to_json() for r in records]
    text = report(records, form="md")
    assert "<script" not in text.replace("\\<", "") and "ESTIMATED; 95% interval 15.0% to 35.0%" in text and "## Provenance" in text
    assert all(line.count("\u2028") == 0 for line in text.split("\n"))
    with pytest.raises(InputError, match="html, md or json"):
        report(records, form="doc")
    with pytest.raises(InputError, match="no results"):
        report([])


def test_findings_come_first_with_their_intervals(whole):
    shown = " ".join("".join(read(whole).plain).split())
    assert shown.index("95% interval 15.0% to 35.0%") < shown.index("What it means")
    assert "1 of 2 questions failed" in shown


def test_records_that_cannot_be_drawn_are_listed():
    whole = everything()
    stranger = replace(whole, analyzer="this:Zen")
    older = replace(whole, version=0)
    damaged = replace(whole, values={k: v for k, v in whole.values.items() if k != "far"})
    shown = "".join(read(report([stranger, older, damaged, result()])).plain)
    assert "this" not in sys.modules, "a record makes nothing be imported"
    assert shown.count("not installed here") == 2 and "version 0 of the analyzer" in shown and "measured no 'far'" in shown


def test_models_side_by_side():
    records = [everything(f"{name} {EVIL}", seed) for seed, name in enumerate("abc")]
    text = report(records)
    reader = read(text)
    shown = " ".join("".join(reader.plain).split())
    assert "Side by side" in shown and "3 models" in shown
    assert '<td class="n">0.25</td><td class="n">0.35</td><td class="n">0.45</td>' in text
    findings = shown[shown.index("Findings") : shown.index("What it means")]
    assert "25.0%." in findings and "45.0%." in findings and "35.0%." not in findings, "of many models the first and the last"
    (slider,) = [a for t, a in reader.found if a.get("type") == "range"]
    assert slider["max"] == "2"
    charts = json.loads(reader.text[1])
    assert [row["v"] for row in charts[-1]["data"]["values"]] == [0.25, 0.35, 0.45]
    assert charts[-1]["data"]["values"][0]["l"] == pytest.approx(0.15)


def test_networks_too_large_to_draw_have_a_page():
    build = Builder()
    node = first = build.input((1, 2))
    for _ in range(700):
        node = build(Relu(), node)
    found = analyze(Overview(), Context(build.graph(first, node)))
    assert "701 nodes are too many to draw" in report([found])


def test_what_many_models_have_in_common_is_said_once():
    shown = " ".join("".join(read(report([everything(name, 0) for name in "abc"])).plain).split())
    findings = shown[: shown.index("What it means")]
    assert findings.count("25.0%.") == 1 and "all 3" in findings


def test_figures_of_many_models_share_their_ends():
    records = [everything(name, seed) for seed, name in enumerate("abc")]
    charts = json.loads(read(report(records)).text[1])
    heat = [
        c for c in charts if c["data"]["values"] and "r" in c["data"]["values"][0] and len(c["data"]["values"]) == len(HOSTILE) ** 2
    ]
    ends = [c["layer"][0]["encoding"]["color"]["scale"]["domain"] for c in heat]
    top = max(abs(r["map"]).max() for r in records)
    assert len(ends) == 3 and all(e == pytest.approx([-top, 0, top]) for e in ends)


def test_pictures_for_readers_without_scripts_have_a_limit(monkeypatch):
    monkeypatch.setattr(page, "_STILLS", 1)
    text = report([everything()])
    assert text.count('class="still"') == 1 and text.count("had no room") == 7


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    found = [analyze(Overview(), next(Overview.examples()).context)]
    write_report(found, tmp_path / "r.md")
    before = (tmp_path / "r.md").read_bytes()

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"No space left.*room on disk"):
        write_report(found, tmp_path / "r.md")
    assert (tmp_path / "r.md").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_where_room_runs_out_large_arrays_stay_behind(monkeypatch):
    monkeypatch.setattr(page, "_ROOM", 1000)
    (body,) = [t for t in read(report([everything()])).text if t.startswith('{"kind":"result"')]
    assert json.loads(body)["left_out"] == ["large"] and "map" in json.loads(body)["values"]


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    found = [analyze(Overview(), next(Overview.examples()).context)]
    write_report(found, tmp_path / "r.md")
    write_report(found, tmp_path / "r.txt", form="html")
    assert (tmp_path / "r.md").read_text().startswith("# ") and (tmp_path / "r.txt").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(found, tmp_path / "absent" / "r.md")
    with pytest.raises(InputError, match="no form"):
        write_report(found, tmp_path / "r.txt")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="none is installed"):
        write_report(found, tmp_path / "r.pdf")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["r.md", "r.txt"]

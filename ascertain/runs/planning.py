"""Suites as TOML files: which analyzers ask what of which models on which data.

::

    seed = 0                                              # optional, like everything but models and runs
    [models]
    small = "small.onnx"                                  # a file beside the suite, or the name of a shipped network
    large = { file = "large.safetensors", factory = "package.module:function", input_shape = [1, 3, 32, 32] }
    [data]
    images = { file = "images.npz", count = 100, label = "first", divide = 255.0 }
    [properties]
    safe = "safe.vnnlib"
    [[run]]
    analyzer = "robustness"
    options = { limit = 0.1 }
    models = ["small"]                                    # all, unless named; the same for data, properties
    seeds = [0, 1]
    [[run]]
    analyzer = "verify"
    options = { timeout = 30.0 }
    halvings = 8                                          # where time runs out, the box is halved, up to so many times
    [[run]]
    analyzer = "comparison"
    groups = [["small", "large"]]                         # for analyzers of pairs or trajectories
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from ascertain.analyze.base import Analyzer, Need
from ascertain.analyze.registry import make
from ascertain.errors import AscertainError, InputError
from ascertain.runs.items import DataSource, Item, ModelSource, PropertySource

__all__ = ["Locate", "read_suite"]

S = TypeVar("S", ModelSource, DataSource, PropertySource)
Locate = Callable[[str], Path]
_FIELDS: dict[str, dict[str, Any]] = {
    "models": {"file": str, "factory": str, "input_shape": list},
    "data": {"file": str, "count": int, "label": str, "divide": (int, float)},
    "properties": {"file": str},
}
_RUN: dict[str, Any] = {
    **{"analyzer": str, "options": dict, "models": list, "groups": list},
    **{"data": list, "properties": list, "seeds": list, "halvings": int},
}


def read_suite(file: Path, shipped: Mapping[str, Locate] | None = None) -> tuple[Item, ...]:
    """The items of a suite, each with the hashes of its inputs: every model and every data set is read once and must fit.

    ``shipped`` says, for ``models`` and ``data``, where the file of a name is; without it names are paths beside the suite.
    Raises InputError that names the suite and what is wrong in it, before any work is done.
    """
    try:
        body = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML file ({error}); mend it there.") from None
    plan = _Plan(file, body, shipped or {})
    return tuple(plan.items())


@dataclass(frozen=True)
class _Plan:
    file: Path
    body: Mapping[str, Any]
    shipped: Mapping[str, Locate]

    def items(self) -> Iterator[Item]:
        """All items, with their hashes."""
        known = {"seed": int, "models": dict, "data": dict, "properties": dict, "run": list}
        self._check("the suite", self.body, known, needed=("models", "run"))
        models = {n: ModelSource(n, **v) for n, v in self._sources("models").items()}
        data = {n: DataSource(n, **v) for n, v in self._sources("data").items()}
        properties = {n: PropertySource(n, **v) for n, v in self._sources("properties").items()}
        found: list[Item] = []
        for i, run in enumerate(self.body["run"]):
            where = f"run {i + 1}"
            self._check(where, run, _RUN, needed=("analyzer",))
            try:
                analyzer = make(run["analyzer"], run.get("options", {}))
            except InputError as error:
                raise InputError(f"{self.file}, {where}: {error}") from None
            wanted = analyzer.needs | analyzer.uses
            groups = self._groups(where, run, models, analyzer)
            datas = self._picked(where, run, "data", data, bool(wanted & {Need.DATA, Need.LABELS}), analyzer, Need.DATA)
            asked = self._picked(where, run, "properties", properties, Need.PROPERTY in wanted, analyzer, Need.PROPERTY)
            for seed, group, d, p in product(self._seeds(where, run), groups, datas, asked):
                found.append(Item(analyzer, group, d, p, seed, halvings=run.get("halvings", 0)))
        # By model, so that each is read once however many there are.
        hashes: dict[Any, Mapping[str, str]] = {}
        for item in sorted(found, key=lambda item: list(models).index(item.models[0].name)):
            files = (type(item.analyzer), item.models, item.data, item.property)
            if files not in hashes:
                hashes[files] = self._hashes(item)
            yield replace(item, inputs=hashes[files])

    def _fail(self, words: str) -> InputError:
        return InputError(f"{self.file}: {words}")

    def _check(self, what: str, table: Any, known: Mapping[str, Any], needed: Sequence[str] = ()) -> None:
        if not isinstance(table, dict):
            raise self._fail(f"{what} is no table of fields; write it as the README shows.")
        for name, value in table.items():
            if name not in known:
                raise self._fail(f"{what} has no field {name!r}; it has {', '.join(known)}.")
            if not isinstance(value, known[name]) or (isinstance(value, bool)):
                raise self._fail(f"{name} of {what} is {value!r}, which is of the wrong type; correct it.")
        missing = [name for name in needed if not table.get(name)]
        if missing:
            raise self._fail(f"{what} has no {missing[0]}; add it.")

    def _sources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Fields by name, with the file found."""
        sources = {}
        for name, given in self.body.get(kind, {}).items():
            table = {"file": given} if isinstance(given, str) else given
            self._check(f"{kind}.{name}", table, _FIELDS[kind], needed=("file",))
            sources[name] = table | {"file": self._locate(kind, table["file"])}
            if "input_shape" in table:
                shape = sources[name]["input_shape"] = tuple(table["input_shape"])
                if not all(type(n) is int and n > 0 for n in shape):
                    raise self._fail(f"input_shape of {kind}.{name} is {list(shape)}; give positive whole numbers.")
        return sources

    def _locate(self, kind: str, name: str) -> Path:
        beside = self.file.absolute().parent / name
        if beside.is_file() or kind not in self.shipped:
            return beside
        try:
            found = self.shipped[kind](name)
        except InputError as error:
            raise self._fail(str(error)) from None
        # A name that stands for nothing else is a path, which counts from the suite and not from where people are.
        return beside if found == Path(name) else found.absolute()

    def _seeds(self, where: str, run: Mapping[str, Any]) -> list[int]:
        seeds = run.get("seeds", [self.body.get("seed", 0)])
        if not seeds or not all(type(s) is int and s >= 0 for s in seeds):
            raise self._fail(f"the seeds of {where} are {seeds}; give whole numbers from 0.")
        return list(seeds)

    def _named(self, where: str, kind: str, names: Any, known: Mapping[str, S]) -> list[S]:
        unknown = [n for n in names if not isinstance(n, str) or n not in known]
        if unknown:
            raise self._fail(f"{where} names {unknown[0]!r}, which is none of its {kind} ({', '.join(known) or 'none'}).")
        return [known[n] for n in names]

    def _groups(
        self, where: str, run: Mapping[str, Any], models: Mapping[str, ModelSource], analyzer: Analyzer
    ) -> list[tuple[ModelSource, ...]]:
        """One model each, or pairs, or trajectories, as the analyzer needs."""
        several = analyzer.needs & {Need.OTHER, Need.TRAJECTORY}
        if not several:
            return [(m,) for m in self._named(where, "models", run.get("models", list(models)), models)]
        groups = run.get("groups", [])
        size = "two names" if Need.OTHER in several else "two or more names"
        good = all(isinstance(g, list) and (len(g) == 2 if Need.OTHER in several else len(g) > 1) for g in groups)
        if not groups or not good:
            raise self._fail(f"{where}: {analyzer.called()} is about several models at a time; give groups of {size} each.")
        return [tuple(self._named(where, "models", g, models)) for g in groups]

    def _picked(
        self, where: str, run: Mapping[str, Any], kind: str, known: Mapping[str, S], wanted: bool, analyzer: Analyzer, need: Need
    ) -> Sequence[S | None]:
        if not wanted:
            if kind in run:
                raise self._fail(f"{where}: {analyzer.called()} takes no {kind}; leave {kind} out.")
            return [None]
        picked = self._named(where, kind, run.get(kind, list(known)), known)
        if not picked and need in analyzer.needs:
            raise self._fail(f"{where}: {analyzer.called()} needs {kind}; add a table [{kind}].")
        return picked or [None]

    def _hashes(self, item: Item) -> Mapping[str, str]:
        """The hashes of its inputs; raises InputError where they do not fit together."""
        try:
            context = item.context()
        except AscertainError as error:
            raise self._fail(f"{item}: {error}") from None
        missing = [str(n) for n in sorted(item.analyzer.needs) if not context.has(n)]
        if missing:
            raise self._fail(f"{item} needs {' and '.join(missing)}, which its files do not give; correct the suite.")
        return context.hashes

"""Who may import whom, and that the public names are exactly those that are promised."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ascertain

ROOT = Path(ascertain.__file__).parent
LEAVES = {"errors", "evidence"}
ALLOWED = {
    "errors": set(),
    "evidence": set(),
    "operators": LEAVES,
    "graph": LEAVES | {"operators"},
    "properties": LEAVES | {"operators", "graph"},
    "probes": LEAVES | {"operators", "graph", "properties"},
    "certify": LEAVES | {"operators", "graph", "properties"},
    "fixtures": LEAVES | {"graph", "certify.training"},
    "analyze": LEAVES | {"operators", "graph", "properties", "probes", "certify"},
    "runs": LEAVES | {"operators", "graph", "properties", "probes", "certify", "analyze"},
    "cli": LEAVES | {"operators", "graph", "properties", "probes", "certify", "analyze", "runs", "fixtures"},
    "certify.check": LEAVES | {"graph"},
    "__main__": {"cli"},
    "__init__": LEAVES | {"operators", "graph", "properties", "probes", "certify", "analyze", "runs"},
}


def imported(tree):
    """Dotted modules of this package that a file imports anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("ascertain.") for name in names if name.startswith("ascertain."))


def room(dotted):
    """The most specific room of ALLOWED that a module lies in."""
    parts = dotted.split(".")
    return next((".".join(parts[:k]) for k in (2, 1) if ".".join(parts[:k]) in ALLOWED), None)


def files():
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_follow_the_direction(file):
    here = room(".".join(file.relative_to(ROOT).with_suffix("").parts))
    assert here is not None, "a new room needs a line in ALLOWED"
    for target in imported(ast.parse(file.read_text())):
        if target == "__version__" or target == here or target.startswith(f"{here}."):
            continue
        assert any(target == a or target.startswith(f"{a}.") for a in ALLOWED[here]), f"{here} must not import {target}"


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_is_imported_by_star(file):
    for node in ast.walk(ast.parse(file.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names))


def order(name):
    """Constants, then classes, then functions, as the linter sorts them."""
    return (not name.isupper(), not name[0].isupper(), name)


def modules():
    return sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "ascertain.") if not m.name.endswith("__main__"))


@pytest.mark.parametrize("name", ["ascertain", *modules()])
def test_exports_are_sorted_and_exist(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert list(exported) == sorted(set(exported), key=order)
    for item in exported:
        assert hasattr(module, item)


def test_the_public_names_are_exactly_those_listed():
    homes = {name for names in ascertain._HOMES.values() for name in names}
    rooms = {name for name in ascertain.__all__ if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()}
    assert homes | rooms == set(ascertain.__all__) and not homes & rooms
    tree = ast.parse(Path(ascertain.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.name for node in typed.body for alias in node.names}
    assert told == set(ascertain.__all__)
    assert set(dir(ascertain)) == {*ascertain.__all__, "__version__"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = ascertain.nothing


@pytest.mark.parametrize("statement", ["import ascertain", "import ascertain.cli.main"])
def test_importing_is_light(statement):
    heavy = {"torch", "onnx", "onnxruntime", "numba", "scipy", "sklearn", "highspy", "vnnlib", "numpy", "rich"}
    code = f"import sys; {statement}; print(' '.join({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

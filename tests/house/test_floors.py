"""Who may import whom: the plan of docs/architecture.md."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import slamglmm

ROOT = Path(slamglmm.__file__).parent
NUMBERS = {"_kernels", "linalg", "genotypes", "relmat", "diagnostics", "options", "errors"}
# Folder or module of the package -> what it may import besides itself; "" is the package's own __init__.
ALLOWED = {
    "errors": set(),
    "options": {"errors"},
    "_build": set(),
    "_kernels": set(),
    "linalg": {"_kernels", "errors"},
    "genotypes": {"_kernels", "linalg", "errors"},
    "relmat": {"linalg", "genotypes", "options", "errors"},
    "diagnostics": {"errors"},
    "design": {"linalg", "relmat", "options", "errors"},
    "links": {*NUMBERS, "design"},
    "priors": {*NUMBERS, "plots"},
    "results": {*NUMBERS, "design", "plots", ""},
    "fitters": {*NUMBERS, "design", "links", "priors", "results", ""},
    "datasets": {"options", "errors"},
    "simulate": {"design", "relmat", "genotypes", "options", "errors"},
    "plots": {"results", "priors", "diagnostics", "errors"},
    "keywords": {"errors"},
    "api": {"design", "links", "priors", "results", "relmat", "fitters", "keywords", "options", "errors"},
    "cross_validation": {"api", "design", "results", "keywords", "options", "errors"},
    "cli": {"api", "datasets", "design", "links", "relmat", "results", "errors", ""},
    "__main__": {"cli"},
}


def imported_modules(path, package):
    """Absolute names of everything a source file imports, at its top or inside functions."""
    if path.suffix in {".pyx", ".pxd"}:
        found = re.findall(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", path.read_text(), re.M)
        return {first or second for first, second in found}
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import x` names modules, `from .x import y` a module and what is in it.
            names |= {module} if node.module else {f"{module}.{alias.name}" for alias in node.names}
    return names


def sources():
    for path in sorted(ROOT.rglob("*.py*")):
        if path.suffix in {".py", ".pyx", ".pxd"} and path.parent != ROOT / "__pycache__":
            relative = path.relative_to(ROOT)
            yield pytest.param(path, relative, id=str(relative))


def home(parts):
    """Floor a dotted name or a path belongs to; names of `__init__`, such as __version__, are ''."""
    first = parts[0] if parts else ""
    return first if first in ALLOWED or (ROOT / first).is_dir() or (ROOT / f"{first}.py").exists() else ""


@pytest.mark.parametrize(("path", "relative"), list(sources()))
def test_imports_point_down(path, relative):
    """A module that reaches up, or sideways into a neighbour's folder."""
    package = ".".join(["slamglmm", *relative.parts[:-1]])
    floor = relative.parts[0].removesuffix(".py")
    imports = imported_modules(path, package)
    outside = {name.split(".")[0] for name in imports if not name.startswith("slamglmm")}
    if floor != "design":
        assert "formulaic" not in outside, "only slamglmm/design talks to formulaic"
    if relative.name != "_blas.pxd":
        assert not any("cython_blas" in name or "cython_lapack" in name for name in imports)
    if relative.parts == ("__init__.py",):
        return
    assert floor in ALLOWED, f"{floor} has no floor in this file: say what it may import"
    inside = [name.split(".")[1:] for name in imports if name.split(".")[0] == "slamglmm"]
    reached = {home(parts) for parts in inside}
    assert reached - {floor} <= ALLOWED[floor]
    if floor == "fitters" and len(relative.parts) > 2:
        neighbours = {parts[1] for parts in inside if parts[0] == "fitters" and len(parts) > 1}
        fitters = {folder.name for folder in (ROOT / "fitters").iterdir() if folder.is_dir()}
        assert not (neighbours & fitters) - {relative.parts[1]}, "fitters never import each other"


def test_every_import_is_a_requirement():
    """A library that only comes along with another may go with the next version of that one."""
    project = ROOT.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package")
    given = tomllib.loads(project.read_text())
    required = [*given["build-system"]["requires"], *given["project"]["dependencies"]]
    required += [name for names in given["project"]["optional-dependencies"].values() for name in names]
    declared = {re.split(r"[^\w.-]", name)[0].replace("-", "_") for name in required}
    imported = set()
    for path, relative in (source.values for source in sources()):
        if path.suffix == ".py":
            package = ".".join(["slamglmm", *relative.parts[:-1]])
            imported |= {name.split(".")[0] for name in imported_modules(path, package)}
    assert imported - set(sys.stdlib_module_names) - {"slamglmm"} <= declared

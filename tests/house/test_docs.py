"""The manual names everything, and docstrings list the parameters there are."""

import inspect
import re
from pathlib import Path

import pytest

import slamglmm
from slamglmm.links import LINKS
from slamglmm.plots import SlamPlots
from slamglmm.priors import PRIORS
from slamglmm.results.posterior import SlamResult
from slamglmm.results.show import Summary
from slamglmm.results.varcomp import HeResult, NetgsaResult

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = [
    path
    for folder in ("slamglmm", "tests", "bench")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".pyx"}
]


@pytest.mark.parametrize(("page", "registry"), [("priors.md", PRIORS), ("links.md", LINKS)])
def test_every_member_has_a_section(page, registry):
    """A prior or a link that can be named but not looked up."""
    headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), re.M)
    assert set(registry) <= set(headings)


@pytest.mark.parametrize(("page", "prefix"), [("slam.md", "SLAM"), ("links.md", "LINK")])
def test_cited_equations_exist(page, prefix):
    """A comment that cites an equation the manual does not have."""
    labels = re.findall(rf"\\tag\{{({prefix}-\d+)\}}", (DOCS / "models" / page).read_text())
    assert len(labels) == len(set(labels))
    cited = {label for path in SOURCES for label in re.findall(rf"\b{prefix}-\d+", path.read_text())}
    assert cited <= set(labels)


@pytest.mark.parametrize(("page", "prefix", "count"), [("he.md", "HE", 17), ("netgsa.md", "NETGSA", 5)])
def test_cited_moment_equations_exist(page, prefix, count):
    """The same for he and netgsa."""
    labels = re.findall(rf"\\tag\{{({prefix}-\d+)\}}", (DOCS / "models" / page).read_text())
    assert labels == [f"{prefix}-{i}" for i in range(1, count + 1)]
    cited = {label for path in SOURCES for label in re.findall(rf"\b{prefix}-\d+", path.read_text())}
    assert cited <= set(labels)


def documented(docstring):
    """Names in the section Parameters, or None without one."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", inspect.cleandoc(docstring or ""), re.M | re.S)
    if section is None:
        return None
    lines = re.findall(r"^(\*{0,2}\w[\w, *]*?)(?: : .*)?$", section.group(1), re.M)
    return [name.strip() for line in lines for name in line.split(",")]


def public_callables():
    for name in slamglmm.__all__:
        # A name that does not load fails in test_light_import.py, not the collection of all tests.
        value = getattr(slamglmm, name, None)
        if inspect.isfunction(value):
            yield pytest.param(value, True, id=name)
        elif inspect.isclass(value):
            # A class that users do not make themselves documents attributes instead.
            yield pytest.param(value, False, id=name)
    for name in ("load", "names"):
        yield pytest.param(getattr(slamglmm.datasets, name), True, id=f"datasets.{name}")
    for name in ("slam", "ace", "trio", "netgsa", "microbiome", "curves", "probes"):
        yield pytest.param(getattr(slamglmm.simulate, name), True, id=f"simulate.{name}")
    for name in ("heatmap", "clustered_order"):
        yield pytest.param(getattr(slamglmm.plots, name), True, id=f"plots.{name}")
    for owner in (SlamResult, SlamPlots, Summary, HeResult, NetgsaResult):
        yield from methods(owner)


def methods(owner):
    for name, value in inspect.getmembers(owner, inspect.isfunction):
        if not name.startswith("_") and value.__module__.startswith("slamglmm"):
            yield pytest.param(value, True, id=f"{owner.__name__}.{name}")


@pytest.mark.parametrize(("value", "required"), list(public_callables()))
def test_docstring_lists_the_parameters(value, required):
    """A parameter that was added, removed, renamed or moved, and a docstring that was not told."""
    expected = [
        {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(p.kind, "") + name
        for name, p in inspect.signature(value).parameters.items()
        if name not in {"self", "cls"}
    ]
    names = documented(value.__doc__)
    if names is None and (not required or not expected):
        assert value.__doc__
    else:
        assert names == expected

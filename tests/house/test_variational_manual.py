"""The manual of the variational fitters has the equations the code cites, and docstrings list what there is."""

import re
from pathlib import Path

import pytest

import slamglmm
from slamglmm.genotypes import Markers, open_plink, read_markers, write_plink
from slamglmm.plots import VariationalPlots
from slamglmm.results.variational import MrMashResult, SparseLmmFits, SparseLmmResult
from tests.house import test_docs

ROOT = Path(__file__).parents[2]
CALLABLES = [
    pytest.param(slamglmm.simulate.sparse_lmm, True, id="simulate.sparse_lmm"),
    pytest.param(slamglmm.simulate.mr_mash, True, id="simulate.mr_mash"),
    pytest.param(read_markers, True, id="read_markers"),
    pytest.param(open_plink, True, id="open_plink"),
    pytest.param(write_plink, True, id="write_plink"),
    *(
        case
        for owner in (SparseLmmResult, SparseLmmFits, MrMashResult, VariationalPlots, Markers)
        for case in test_docs.methods(owner)
    ),
]


def test_cited_equations_exist():
    """A comment that cites an equation the manual does not have."""
    pages = [ROOT / "docs" / "models" / f"{name}.md" for name in ("sparse_lmm", "mr_mash")]
    labels = [label for page in pages for label in re.findall(r"\\tag\{VB-(\d+)\}", page.read_text())]
    assert labels == [str(i) for i in range(1, 16)]
    sources = [path for kind in ("*.py", "*.pyx") for path in (ROOT / "slamglmm").rglob(kind)]
    cited = {label for path in sources for label in re.findall(r"VB-(\d+)", path.read_text())}
    assert cited <= set(labels)


@pytest.mark.parametrize(("value", "required"), CALLABLES)
def test_docstrings(value, required):
    """A parameter that was added, removed, renamed or moved, and a docstring that was not told."""
    test_docs.test_docstring_lists_the_parameters(value, required)

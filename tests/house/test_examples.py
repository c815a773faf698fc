"""The examples of docstrings run, and say what they print."""

import doctest
import inspect

import pytest

import slamglmm
from slamglmm.results.posterior import SlamResult


def documented():
    """Public functions and classes, those of the packages of data, and the methods of a SLAM result."""
    owners = [(slamglmm, slamglmm.__all__), (slamglmm.simulate, slamglmm.simulate.__all__)]
    owners += [(slamglmm.datasets, slamglmm.datasets.__all__), (SlamResult, vars(SlamResult))]
    for owner, names in owners:
        for name in names:
            value = getattr(owner, name)
            if not inspect.ismodule(value) and ">>>" in (inspect.getdoc(value) or ""):
                yield pytest.param(value, id=f"{owner.__name__}.{name}")


@pytest.mark.filterwarnings("ignore::slamglmm.errors.DroppedRowsWarning")
@pytest.mark.parametrize("documented", list(documented()))
def test_examples_run(documented, tmp_path, monkeypatch):
    """An example that has not kept up with the code."""
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(documented), {}, documented.__name__, None, 0)
    runner.run(example)
    assert runner.summarize(verbose=False).failed == 0

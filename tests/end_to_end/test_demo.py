"""`python -m slamglmm demo`, as on a fresh machine."""

import subprocess
import sys
import time

import pandas as pd
import pytest

import slamglmm as sg

TABLES = [
    "h2.csv", "G_line.csv", "R.csv", "genetic_correlation.csv", "loadings.csv", "ranef_line.csv", "diagnostics.csv"
]  # fmt: skip


def demo(*arguments, cwd):
    command = [sys.executable, "-m", "slamglmm", "demo", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def test_short_demo_twice(tmp_path):
    """A file left out, a second run that is refused, or a second run that differs."""
    printed = [demo("--draws", "12", "--burn", "10", "--thin", "1", cwd=tmp_path) for _ in range(2)]
    folder = tmp_path / "slamglmm-demo"
    assert "worst R-hat of the variances in G" in printed[0]
    assert str(folder) in printed[0]
    for name in TABLES:
        assert len(pd.read_csv(folder / name)) >= 8
    fit = sg.load(folder / "fit")
    assert fit.G("line").shape == (24, 24)
    assert fit.ranef("line").notna().all(axis=None)
    tables = [line for line in printed[0].splitlines() if line.startswith("line ")]
    assert tables
    assert tables == [line for line in printed[1].splitlines() if line.startswith("line ")]


@pytest.mark.slow
def test_full_demo_converges_within_a_minute(tmp_path):
    """The main job: two processes, at most 60 s, and chains that agree."""
    begin = time.perf_counter()
    printed = demo(cwd=tmp_path)
    assert time.perf_counter() - begin < 60
    assert printed.count("below 1.05") - printed.count("not below 1.05") == 2
    table = sg.load(tmp_path / "slamglmm-demo" / "fit").diagnostics()
    assert table.loc["h2", "r_hat"].max() < 1.05

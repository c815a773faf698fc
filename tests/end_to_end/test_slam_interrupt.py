"""Ctrl-C keeps what was drawn, in this process and with chains in others."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import sys, warnings
import slamglmm as sg

if __name__ == "__main__":
    data = sg.simulate.slam(families=20, n_traits=30, seed=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = sg.slam(data.formula, data.frame, Y=data.Y, relmat=data.relmat, draws=10**6, burn=0, chains=2, seed=1,
                      n_factors=3, n_jobs=int(sys.argv[1]), store=["h2"], progress=True)
    print([str(w.message) for w in caught])
    print("kept", fit.posterior.sizes["chain"], fit.posterior.sizes["draw"])
    more = fit.extend(5)
    print("extended", more.posterior.sizes["draw"] - fit.posterior.sizes["draw"])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of process groups")
@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupt_keeps_the_draws(tmp_path, jobs):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Until the bar shows that chains are under way; then as a terminal does it, to the whole group.
        shown = ""
        while not re.search(r"[1-9]\d{2,}/2000000 .*it/s", shown):
            shown += process.stderr.read(1)
            assert process.poll() is None, shown
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    kept = out.split("\nkept ")[1].split()
    # One after the other, the second chain has not begun.
    assert int(kept[0]) <= jobs
    assert 0 < int(kept[1]) < 10**6
    assert f"draws kept in {kept[0]} of 2 chain(s). fit.extend(draws) goes on from here." in out
    assert "extended 5" in out
    assert np.char.count(err, "interrupted: finishing") == 1

"""Every vignette runs from its first cell to its last, figures included."""

import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "vignettes"
VIGNETTES = sorted(FOLDER.glob("*.md"))


def test_there_are_vignettes():
    """A glob that finds nothing."""
    assert VIGNETTES


@pytest.mark.parametrize("path", VIGNETTES, ids=lambda path: path.stem)
def test_vignette_runs(path, tmp_path, monkeypatch):
    """A call of the manual that no longer works; the kernel is that of this interpreter."""
    monkeypatch.chdir(tmp_path)
    # A backend in the environment, such as Agg, would keep the figures out of the notebook.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [(cell, output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [cell for cell, output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == sum(
        re.search(r"\.plot[.(]", cell.source) is not None for cell in notebook.cells if cell.cell_type == "code"
    )
    shouted = [output.text for _, output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not shouted

"""The demo notebook runs from top to bottom."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from tests.conftest import REAL_DATA, ROOT


def test_the_demo_runs_on_a_small_slice(tmp_path, monkeypatch):
    monkeypatch.setenv("DEMO_TRAIN", "64")
    monkeypatch.setenv("DEMO_TEST", "48")
    monkeypatch.setenv("TARDIS_FL_DATA", REAL_DATA or str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    notebook = nbformat.read(ROOT / "notebooks" / "demo.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "training and 48 test images" in printed
    assert "exit 2:" in printed
    assert "'total'" in printed

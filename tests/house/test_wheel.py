"""What pip installs is what the repository has."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_wheel_holds_every_module_kernel_and_table(tmp_path):
    """A module in a folder without __init__, a csv file or a kernel that pyproject.toml does not name."""
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__")
    shutil.copytree(ROOT / "slamglmm", tmp_path / "slamglmm", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", "wheels", "."]
    subprocess.run(command, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    folder = ROOT / "slamglmm"
    for path in folder.rglob("*"):
        name = f"slamglmm/{path.relative_to(folder).as_posix()}"
        if path.suffix in {".py", ".csv", ".typed"} or path.name == "PROVENANCE.md":
            assert name in held
        elif path.suffix == ".pyx":
            assert any(other.startswith(name.removesuffix("pyx")) and not other.endswith(".pyx") for other in held)
    assert any(name.endswith("entry_points.txt") for name in held)

"""Compilers and processors that nobody develops on: every kernel goes through each of them that is installed."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

import slamglmm._kernels

FOLDER = Path(slamglmm._kernels.__file__).parent
KERNELS = sorted(path.stem for path in FOLDER.glob("*.pyx"))
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-missing-field-initializers"]
FLAGS = [*WARNINGS, "-Wno-cast-function-type", "-fPIC", f"-I{sysconfig.get_path('include')}", f"-I{FOLDER}"]
# Python's headers are those of this machine, so what is meant for another processor is read and not linked.
SYNTAX = ["-fsyntax-only"]
COMPILERS = {
    "gcc": ["gcc"],
    "gcc 11 (Ubuntu 22.04, RHEL 9)": ["gcc-11"],
    "clang": ["clang"],
    "clang 14": ["clang-14"],
    "aarch64": ["aarch64-linux-gnu-gcc", *SYNTAX],
    "aarch64, clang": ["clang", "--target=aarch64-linux-gnu", *SYNTAX],
    "aarch64, clang 14": ["clang-14", "--target=aarch64-linux-gnu", *SYNTAX],
    "musl": ["musl-gcc"],
}


def compile_kernel(compiler, kernel, target):
    """Compile the C of one kernel that the last build left beside its source."""
    command = COMPILERS[compiler]
    source = FOLDER / f"{kernel}.c"
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    if not source.exists():
        pytest.skip(f"no {source.name} beside its source: build the package from this checkout")
    done = subprocess.run([*command, *FLAGS, "-c", source, "-o", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_kernels_compile_without_a_warning(compiler, kernel, tmp_path):
    """A builtin that came with a later compiler, an instruction of one processor outside its guard."""
    compile_kernel(compiler, kernel, tmp_path / "kernel.o")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf here")
def test_the_loader_of_musl_is_not_asked_to_choose(tmp_path):
    """`target_clones` become ifuncs, which musl cannot resolve."""
    for kernel in KERNELS:
        compile_kernel("musl", kernel, tmp_path / "kernel.o")
        symbols = subprocess.run(["readelf", "-sW", tmp_path / "kernel.o"], capture_output=True, text=True, check=True)
        assert "IFUNC" not in symbols.stdout

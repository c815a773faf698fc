"""Every compiled kernel has a slow NumPy twin of its name in tests/reference."""

import ast
import re
from pathlib import Path

import slamglmm._kernels

REFERENCE = Path(__file__).parents[1] / "reference"


def test_every_kernel_has_a_twin():
    """A kernel that nothing plain is compared with."""
    kernels = {
        name
        for source in Path(slamglmm._kernels.__file__).parent.glob("*.pyx")
        # A function that takes no array (the size of a scratch space, say) is not a kernel.
        for name, arguments in re.findall(r"^def (\w+)\((.*?)\):", source.read_text(), re.M | re.S)
        if "[" in arguments
    }
    twins = {
        node.name
        for source in REFERENCE.glob("*.py")
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert kernels
    assert kernels <= twins

"""The build hook: Cython directives and C flags live here and nowhere else.

``SLAMGLMM_CHECKED=1 pip install .`` builds the kernels with bounds checks.
"""

from __future__ import annotations

import os

from Cython.Build import cythonize
from setuptools.command.build_ext import build_ext as _build_ext

CHECKED = bool(os.environ.get("SLAMGLMM_CHECKED"))
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "initializedcheck": CHECKED,
    "cdivision": True,
    "embedsignature": True,
}
# -g0: debug symbols multiply a module's size by five. No -march=native: one wheel serves every machine.
FLAGS = ["-O2" if CHECKED else "-O3", "-g0", "-fno-math-errno"]
# kinship promises the same bits from every instruction set: compilers fuse a product and a sum wherever they may.
OWN_FLAGS = {"slamglmm._kernels.kinship": ["-ffp-contract=off"]}


class build_ext(_build_ext):
    """Cythonize the ext-modules of pyproject.toml with the directives and flags above."""

    def finalize_options(self) -> None:
        """Turn each .pyx into C before setuptools fixes its list of extensions."""
        if self.distribution.ext_modules:
            self.distribution.ext_modules[:] = cythonize(
                list(self.distribution.ext_modules), compiler_directives=DIRECTIVES, force=True, quiet=True
            )
        super().finalize_options()
        # A fast build after a checked one would otherwise reuse its objects.
        self.force = True

    def run(self) -> None:
        """Build, and leave the kernels beside their sources too.

        ``python -m slamglmm`` and ``python -m pytest`` in a checkout import the package from the checkout, not from
        where pip put it, so both places need the kernels.
        """
        super().run()
        if not self.inplace:
            self.copy_extensions_to_source()

    def build_extension(self, ext) -> None:  # type: ignore[no-untyped-def]
        """Compile one kernel; MSVC knows none of the GCC flags."""
        if self.compiler.compiler_type != "msvc":
            ext.extra_compile_args = [*ext.extra_compile_args, *FLAGS, *OWN_FLAGS.get(ext.name, [])]
        super().build_extension(ext)

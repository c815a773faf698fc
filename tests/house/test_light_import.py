"""`import slamglmm` must not make anybody wait."""

import subprocess
import sys

HEAVY = ("pandas", "scipy", "xarray", "statsmodels", "matplotlib", "formulaic", "joblib", "zarr")


def test_import_loads_nothing_heavy():
    """A heavy library imported at the top of a module that the package loads."""
    code = "import sys, slamglmm; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not set(HEAVY) & set(loaded)


def test_every_public_name_is_there():
    """A name in __all__ that no module defines, or one left out of dir()."""
    import slamglmm

    for name in slamglmm.__all__:
        assert getattr(slamglmm, name) is not None
        assert name in dir(slamglmm)


def test_errors_list_errors_only():
    """Imports and helpers among what tab completion offers in `slamglmm.errors`."""
    from slamglmm import errors

    assert all(issubclass(getattr(errors, name), errors.SlamError | errors.SlamWarning) for name in dir(errors))
    assert {"SlamError", "RelmatError", "BoundaryWarning"} <= set(dir(errors))

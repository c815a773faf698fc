"""From a formula and a data frame to matrices: the one stage every fitter starts from.

This file stays light (formulaic and pandas load on the first call), because ``slamglmm.design`` is both this
package and the public function below, and ``import slamglmm`` binds the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .design import Design


def design(formula: str, data: Any, **options: Any) -> Design:
    """Parse a formula and a data frame (to be written)."""
    raise NotImplementedError

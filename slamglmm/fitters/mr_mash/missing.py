"""Missing cells of the responses: their expectation and covariance given the rest of the row, pattern by pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class MissingCells:
    """Rows that lack the same responses.

    Attributes
    ----------
    patterns : tuple of (ndarray of bool, ndarray of int)
        Which responses are missing (p), and in which rows; complete rows are left out.
    """

    patterns: tuple[tuple[np.ndarray, np.ndarray], ...]

    @staticmethod
    def of(Y: np.ndarray) -> MissingCells | None:
        """Group the rows of Y (p, n) by pattern; None when nothing is missing."""
        gone = np.isnan(Y)
        if not gone.any():
            return None
        distinct, which = np.unique(gone.T, axis=0, return_inverse=True)
        which = which.ravel()
        return MissingCells(
            tuple((pattern, np.flatnonzero(which == k)) for k, pattern in enumerate(distinct) if pattern.any())
        )

    def fill(self, Y: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Expectations, one Cholesky a pattern; eq. VB-14.

        Parameters
        ----------
        Y, mean : ndarray, shape (p, n)
        sigma : ndarray, shape (p, p)

        Returns
        -------
        complete : ndarray, shape (p, n)
            Y with missing cells at their expectation.
        extra : ndarray, shape (p, p)
            Sum over rows of the covariance of the missing cells.
        entropy : float
        """
        precision = np.linalg.inv(sigma)
        precision = 0.5 * (precision + precision.T)
        complete = Y.copy()
        extra = np.zeros_like(sigma)
        entropy = 0.0
        for gone, rows in self.patterns:
            own = precision[np.ix_(gone, gone)]
            factor = scipy.linalg.cho_factor(own, lower=True)
            seen = ~gone
            away = Y[np.ix_(seen, rows)] - mean[np.ix_(seen, rows)]
            shift = scipy.linalg.cho_solve(factor, precision[np.ix_(gone, seen)] @ away)
            complete[np.ix_(gone, rows)] = mean[np.ix_(gone, rows)] - shift
            count = int(gone.sum())
            extra[np.ix_(gone, gone)] += len(rows) * scipy.linalg.cho_solve(factor, np.eye(count))
            logdet = 2.0 * float(np.log(np.diag(factor[0])).sum())
            entropy += 0.5 * len(rows) * (count * np.log(2 * np.pi * np.e) - logdet)
        return complete, extra, entropy

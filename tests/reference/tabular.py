"""Slow, plain twin of the pedigree code: the tabular method, one pair at a time."""

import numpy as np


def tabular_a(dam, sire):
    """Dense A for parents given as positions of EARLIER individuals, -1 for unknown."""
    n = len(dam)
    a = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            a[i, j] = a[j, i] = 0.5 * sum(a[j, parent] for parent in (dam[i], sire[i]) if parent >= 0)
        a[i, i] = 1.0 + (0.5 * a[dam[i], sire[i]] if dam[i] >= 0 and sire[i] >= 0 else 0.0)
    return a

"""Which draws of chains of unequal length are kept after an interrupt."""

from itertools import combinations

import numpy as np
import pytest

from slamglmm.fitters.slam.fit import _longest_rectangle


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ([5, 5, 5], [0, 1, 2]),
        ([100, 3, 90], [0, 2]),  # 2 x 90 rather than 1 x 100 or 3 x 3
        ([10, 4, 4], [0, 1, 2]),  # 3 x 4 rather than 1 x 10
        ([10, 1, 1], [0]),
        ([0, 7, 0], [1]),
        ([0, 0], []),
    ],
)
def test_most_draws_in_all(lengths, kept):
    assert _longest_rectangle(lengths) == kept


def test_no_other_choice_keeps_more():
    """All subsets of chains, each cut to its shortest."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        lengths = rng.integers(0, 12, rng.integers(1, 6)).tolist()
        sizes = range(1, len(lengths) + 1)
        most = max(min(chosen) * size for size in sizes for chosen in combinations(lengths, size))
        kept = [lengths[c] for c in _longest_rectangle(lengths)]
        assert (min(kept) * len(kept) if kept else 0) == most

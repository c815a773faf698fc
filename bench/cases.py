"""Sizes of the benchmarks, each named once."""

CASES = {
    "design_small": {"n": 10_000, "n_groups": 1_000},
    "design_large": {"n": 1_000_000, "n_groups": 100_000},
}

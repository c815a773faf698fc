"""Sizes of the benchmarks, each named once."""

CASES = {
    # half-sib families of ten, one record each: the sizes of docs/verification.md
    "slam_A": {"n": 500, "p": 100, "k": 20},
    "slam_B": {"n": 1000, "p": 2000, "k": 100},
    "slam_C": {"n": 1500, "p": 20_000, "k": 100},
    "design_small": {"n": 10_000, "n_groups": 1_000},
    "design_large": {"n": 1_000_000, "n_groups": 100_000},
}

"""Sizes of the benchmarks, each named once."""

CASES = {
    # each line in 8 of 30 environments, drawn at random
    "sparse_trial": {"lines": 1000, "environments": 30, "per_line": 8, "k": 10},
    # half-sib families of ten, one record each: the sizes of docs/verification.md
    "slam_A": {"n": 500, "p": 100, "k": 20},
    "slam_B": {"n": 1000, "p": 2000, "k": 100},
    "slam_C": {"n": 1500, "p": 20_000, "k": 100},
    # two effects: 600 lines in 4 environments, 25 and 64 grid points where they commute, 21 directions where not
    "slam_D_25": {"layout": "trial", "n": 2400, "p": 100, "k": 20, "h2_grid": 5},
    "slam_D_64": {"layout": "trial", "n": 2400, "p": 100, "k": 20, "h2_grid": 8},
    "slam_D_rays": {"layout": "trial_unbalanced", "n": 2400, "p": 100, "k": 20, "h2_grid": 20},
    "slam_two_effects": {"layout": "families_and_blocks", "n": 500, "p": 100, "k": 20, "h2_grid": 10},
    # many rows: records of 2000 lines with a dense kinship; families of at most 20 from a pedigree
    "slam_E": {"layout": "records", "n": 100_000, "p": 50, "k": 10},
    "slam_E_families": {"layout": "pedigree", "n": 50_000, "p": 50, "k": 10},
    # counts: traits drawn in a block, and RNA-seq by every link against the latent traits themselves
    "links_step": {"n": 200, "p": 2000},
    "links_rnaseq": {"n": 200, "p": 2000, "k": 5, "n_factors": 10, "burn": 500, "draws": 500},
    # repeated measurements: individuals, times of each, columns of the basis
    "curves_small": {"n": 300, "times": 8, "b": 7},
    "curves_large": {"n": 5000, "times": 20, "b": 12},
    # factors with eta integrated out: half sibs, data with known precisions
    "marginal_factors": {"families": 40, "p": 30, "k": 3, "draws": 3000, "burn": 500, "data_sets": 4},
    # effective samples: maize trial, half sibs (reference files), two simulated sets
    "mixing_W1": {"k": 15, "chains": 8, "burn": 500, "draws": 1000},
    "mixing_W2": {"k": 15, "chains": 2, "burn": 500, "draws": 2000},
    "mixing_tall": {
        "k": 6,
        "chains": 4,
        "burn": 500,
        "draws": 2000,
        "data": {"records": 1, "individuals": 240, "n_traits": 20, "factor_h2": (0.8, 0.2, 0.6, 0.0)},
    },
    "mixing_wide": {
        "k": 6,
        "chains": 4,
        "burn": 500,
        "draws": 2000,
        "data": {"records": 3, "individuals": 80, "n_traits": 60, "factor_h2": (0.9, 0.5, 0.7, 0.2)},
    },
    "design_small": {"n": 10_000, "n_groups": 1_000},
    "design_large": {"n": 1_000_000, "n_groups": 100_000},
    # variance components by moments
    "he_file": {"n": 10_000, "n_kinships": 1},
    "he_three_files": {"n": 10_000, "n_kinships": 3},
    "he_evicted": {"n": 10_000},
    "he_families": {"n": 300_000, "size": 3},
    "he_groups": {"n": 1_000_000, "n_groups": 125_000},
    "he_markers": {"n": 20_000, "m": 20_000, "n_probes": 10},
    "he_dense": {"n": 3_000},
    "netgsa": {"p": 192, "n": (403, 117)},
    # variational fitters
    "vb_kernel": {"n": 4098, "m": 40_000},
    "vb_fit": {"n": 800, "m": 20_000, "causal": 10},
    "vb_headline": {
        "n": 5123,
        "m": 319_147,
        "causal": 50,
        "h2": 0.5,
        "covariates": 11,
        "phenotypes": 4,
        "folds": 5,
        "ld_block": 20,
        "ld": 0.9,
    },
    "vb_headline_small": {
        "n": 512,
        "m": 10_000,
        "causal": 10,
        "h2": 0.5,
        "covariates": 11,
        "phenotypes": 4,
        "folds": 5,
        "ld_block": 20,
        "ld": 0.9,
    },
    "mash_5": {"n": 500, "m": 1000, "p": 5, "grid_points": 9},
    "mash_20": {"n": 700, "m": 2000, "p": 20, "grid_points": 9},
    "mash_50": {"n": 900, "m": 5000, "p": 50, "grid_points": 9},
}

"""From a design to the sampler's arrays: groups of rows, estimable columns, the grid's last point, scaling."""

import re

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, OptionError, ScaleWarning, SlamWarning
from slamglmm.fitters.slam import problem as module
from slamglmm.fitters.slam.problem import build_problem, default_n_factors, group_patterns
from slamglmm.linalg.covariances import JointBasis
from slamglmm.linalg.independent import independent_columns
from slamglmm.linalg.rotation import Rotation
from slamglmm.linalg.threads import BlockPool
from slamglmm.priors import Priors
from tests.reference.dense import kernel
from tests.reference.problems import relationship, tiny_design, tiny_problem

# ---- groups of traits that share rows -------------------------------------------------------------------------------


def observed_from(*patterns):
    """Rows of '1' and '.' to a mask."""
    return np.array([[c == "1" for c in pattern] for pattern in patterns])


def group_dense(observed, n_bases):
    """With a relationship matrix that ties all rows together, and one record for each level."""
    n = observed.shape[1]
    return group_patterns(observed, JointBasis(n, Rotation(), None, (), n, ((1, n),)), n_bases)


def as_dict(groups):
    return {"".join(".1"[int(seen)] for seen in mask): sorted(map(int, traits)) for mask, traits in groups}


def test_every_pattern_keeps_its_rows_within_the_budget():
    observed = observed_from("1111", "11.1", "1111", ".1.1", "11.1")
    assert as_dict(group_dense(observed, 1)) == {"1111": [0, 2], "11.1": [1, 4], ".1.1": [3]}


def test_beyond_the_budget_traits_join_a_superset(monkeypatch):
    """Each left-over trait joins the kept pattern that covers its rows with the fewest cells to impute."""
    observed = observed_from("11..", "11..", "11..", "111.", "111.", "1...", "..11", "1111")
    # Room for the patterns of the most traits (2 rows, then 3 rows) besides all rows.
    monkeypatch.setattr(module, "PATTERN_BYTES", 8 * (16 + 4 + 9))
    groups = as_dict(group_dense(observed, 1))
    assert groups == {"11..": [0, 1, 2, 5], "111.": [3, 4], "1111": [6, 7]}


def test_without_any_budget_all_rows_are_kept(monkeypatch):
    """Also when no trait is complete: a group of all rows must appear."""
    monkeypatch.setattr(module, "PATTERN_BYTES", 0)
    observed = observed_from("11..", "1.1.", ".111")
    assert as_dict(group_dense(observed, 1)) == {"1111": [0, 1, 2]}


@pytest.mark.parametrize("budget", ["PATTERN_BYTES", "PATTERN_FLOPS"])
@pytest.mark.parametrize("seed", range(20))
def test_groups_partition_the_traits(budget, seed, monkeypatch):
    """A trait lost or doubled, or a kept cell without its row, at random patterns and budgets."""
    rng = np.random.default_rng(seed)
    p, n, n_bases = int(rng.integers(1, 12)), int(rng.integers(2, 9)), int(rng.integers(1, 4))
    observed = rng.random((p, n)) < 0.7
    observed[~observed.any(axis=1), 0] = True
    whole = 8 * n**2 if budget == "PATTERN_BYTES" else 9 * n**3
    monkeypatch.setattr(module, budget, rng.uniform(0, 3) * n_bases * whole)
    groups = group_dense(observed, n_bases)
    assert sorted(np.concatenate([traits for _, traits in groups])) == list(range(p))
    assert len({mask.tobytes() for mask, _ in groups}) == len(groups)
    for mask, traits in groups:
        assert not np.any(observed[traits] & ~mask)
        # In the user's order: with one group, draws are stored as they are.
        assert np.all(np.diff(traits) > 0)


def test_eigenbases_of_rays_count_against_the_budget(monkeypatch):
    observed = observed_from("1111", "11.1")
    monkeypatch.setattr(module, "PATTERN_BYTES", 8 * (16 + 9) * 3)
    assert len(group_dense(observed, 3)) == 2
    assert len(group_dense(observed, 4)) == 1


def test_bases_of_families_and_of_replicates_are_counted_as_they_are(monkeypatch):
    """Twelve rows in four families: 36 entries, a quarter of them on half of the rows; replicates keep their 16."""
    observed = observed_from("1" * 12, "1" * 6 + "." * 6)
    families = JointBasis(12, Rotation(), None, (), 12, ((4, 3),))
    replicates = JointBasis(12, Rotation(), None, (), 4, ((1, 4),))
    for joint, first, second in ((families, 36, 9), (replicates, 16, 16)):
        for budget, n_groups in ((first + second, 2), (first + second - 1, 1)):
            monkeypatch.setattr(module, "PATTERN_BYTES", 8 * budget)
            assert len(group_patterns(observed, joint, 1)) == n_groups


@pytest.mark.parametrize("impute", [False, True])
def test_groups_of_a_problem(impute, monkeypatch):
    """Kept rows, cells to draw, trait order and membership of rows, as the factor step reads them."""
    monkeypatch.setattr(module, "COST_OF_RANDOM", 0.0)  # traits with missing cells keep rows of their own
    if impute:
        monkeypatch.setattr(module, "PATTERN_BYTES", 0)
    missing = [([0, 3], 0), ([5, 6, 7], 2), ([0, 3], 3)]
    responses = np.random.default_rng(3).standard_normal((10, 5))
    problem = tiny_problem("~ x + (1 | g)", p=5, missing=missing, responses=responses)
    seen = np.ones((10, 5), dtype=bool)
    for rows, trait in missing:
        seen[rows, trait] = False
    assert not problem.collapsed
    assert len(problem.groups) == (1 if impute else 3)
    assert problem.impute == impute
    assert sorted(problem.order) == list(range(5))
    for group in problem.groups:
        for i, j in enumerate(range(group.traits.start, group.traits.stop)):
            trait = problem.order[j]
            if impute:
                assert np.array_equal(group.rows, np.arange(10))
                assert np.array_equal(group.imputed[i], ~seen[:, trait])
            else:
                assert np.array_equal(group.rows, np.flatnonzero(seen[:, trait]))
                assert not group.imputed.any()
            kept = seen[:, trait]
            fitted = problem.base_coef[trait] @ problem.x
            values = fitted[kept] + problem.scale[trait] * problem.y[j, kept]
            np.testing.assert_allclose(values, responses[kept, trait], rtol=1e-12)
            coef, rest, *_ = np.linalg.lstsq(problem.x[:, kept].T, responses[kept, trait], rcond=None)
            np.testing.assert_allclose(problem.base_coef[trait], coef, rtol=1e-9)
            assert problem.scale[trait] == pytest.approx(np.sqrt(rest[0] / (kept.sum() - 2)))
            assert np.all(np.isfinite(problem.y[j]))
    membership = problem.pattern_groups[problem.row_pattern]
    for s, group in enumerate(problem.groups):
        assert np.array_equal(membership[:, s], np.isin(np.arange(10), group.rows))
    drawn = 7 if impute else 0
    assert any(f"{len(problem.groups)} group(s)" in line and f"{drawn} cell(s)" in line for line in problem.notes)


def test_rows_without_data_are_left_out():
    missing = [([2, 7], trait) for trait in range(3)]
    problem = tiny_problem(missing=missing)
    assert np.array_equal(problem.active, [0, 1, 3, 4, 5, 6, 8, 9])
    assert (problem.n, problem.collapsed) == (8, True)
    assert problem.notes[0].startswith("2 row(s) have no observed trait and are predicted only:")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "10 rows; one eigenbasis, rank 10 ("),
        ({"n": 14, "levels": 6}, "14 rows with 6 distinct combinations of random effects; one eigenbasis, rank 6 ("),
        (
            {"formula": "~ 0 + (1 | h)"},
            "10 rows with 3 distinct combinations of random effects, in 3 families of at most 1; eigenbases of the "
            "families, rank 3 (",
        ),
        (
            {"formula": "~ 0 + (1 | g) + (1 | h)", "levels": 6},
            "10 rows with 6 distinct combinations of random effects; variance shares that do not commute: eigenbasis "
            "for each of 5 directions, rank 6 (",
        ),
        (
            {"formula": "~ 0 + (1 | g) + (1 | h)", "n": 9, "levels": 3},
            "9 rows with 3 distinct combinations of random effects; variance shares that commute: one eigenbasis, "
            "rank 3 (",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_a_note_says_which_bases_were_chosen(options, line):
    assert [note for note in tiny_problem(**options).notes if note.startswith(line) and note.endswith(" MiB)")]


# ---- the grid's last point ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "has_one", "note"),
    [
        ({}, True, None),
        ({"rank": 9}, False, "Z K Z' is singular"),
        ({"n": 12, "levels": 6}, False, "Z K Z' is singular"),
        ({"missing": [(range(8), 0)]}, False, "the random effects are part of the chain"),
        ({"missing": [([1], 0)]}, True, None),  # one cell of ten: drawn without the random effects
        ({"formula": "~ 0 + (1 | g) + (1 | h)"}, False, None),
        # Two blocks that commute: each singular, so a direction that holds only one of them has no inverse at t = 1.
        ({"formula": "~ 0 + (1 | g) + (1 | h)", "n": 9, "levels": 3}, False, None),
    ],
    ids=["regular", "singular", "repeats", "missing", "scattered", "two effects", "two that commute"],
)
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_a_total_share_of_one(options, has_one, note):
    """t = 1 where V has no inverse, or where a step divides by 1 - s."""
    problem = tiny_problem(**options)
    assert (problem.grid.shares.sum(axis=1).max() == 1.0) == has_one
    assert np.all(np.isfinite(problem.factor_cov.weights))
    lines = [line for line in problem.notes if "h2 = 1 is not on the grid" in line]
    assert lines == ([] if note is None else [f"h2 = 1 is not on the grid ({note}); the last point is 0.75"])


@pytest.mark.parametrize(("smallest", "has_one"), [(2e-3, True), (5e-4, False)])
def test_a_total_share_of_one_needs_a_conditioned_kernel(smallest, has_one):
    """The bound is a smallest eigenvalue of 1e-3 of the mean."""
    n = 10
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((n, n)))[0]
    values = np.full(n, (n - smallest) / (n - 1))
    values[-1] = smallest
    labels = [f"i{i}" for i in range(n)]
    K = pd.DataFrame(Q * values @ Q.T, labels, labels)
    Y = np.random.default_rng(2).standard_normal((n, 2))
    design = sg.design("~ 1 + (1 | g)", pd.DataFrame({"g": labels}), Y=Y, relmat={"g": K})
    problem = build_problem(design, Priors(), 1, 4)
    assert (problem.grid.shares.max() == 1.0) == has_one


# ---- missing cells: drawn, or rows of their own ---------------------------------------------------------------------


def masked(n, p, traits, share):
    """Each of the first `traits` misses its own share of the rows."""
    observed, rng = np.ones((p, n), dtype=bool), np.random.default_rng(3)
    for j in range(traits):
        observed[j, rng.permutation(n)[: round(share * n)]] = False
    return observed


# What bench/bench_missing.py measured: milliseconds of an iteration with groups and with drawn cells beside each.
@pytest.mark.parametrize(
    ("n", "p", "k", "traits", "share", "drawn"),
    [
        (776, 251, 20, 1, 0.25, True),  # 37 and 9
        (400, 40, 10, 1, 0.1, True),  # 3.9 and 1.7
        (400, 40, 10, 1, 0.5, True),  # 3.6 and 2.9
        (400, 40, 10, 1, 0.75, False),  # 3.7 and 3.8, and the trait itself mixes six times slower
        (400, 40, 10, 5, 0.25, True),  # 5.2 and 3.5
        (400, 40, 10, 5, 0.5, False),  # 4.5 and 5.8
        (400, 40, 10, 5, 0.75, False),  # 4.0 and 11.1
        (400, 40, 10, 20, 0.1, True),  # 10.3 and 3.5
        (400, 40, 10, 20, 0.25, True),  # 8.6 and 7.2
        (400, 40, 10, 20, 0.5, False),  # 6.7 and 17.2
        (400, 40, 10, 40, 0.1, True),  # 16.4 and 5.1
        (400, 40, 10, 40, 0.25, False),  # 12.8 and 12.6
    ],
)
def test_work_decides_whether_missing_cells_are_drawn(n, p, k, traits, share, drawn):
    """Not a share of missing cells alone: one trait masked in a quarter of the rows must not slow all the others."""
    joint = JointBasis(n, Rotation(), np.ones((1, n)), (), n, ((1, n),))
    chosen = module._is_scattered(masked(n, p, traits, share), joint, k, module.PATTERN_BYTES)
    assert chosen == drawn


def test_cells_are_not_drawn_from_an_effect_that_the_rows_leave_open():
    """A rare level that one trait never saw: its effect and the drawn cells would wander together, without a word."""
    n, p = 40, 6
    frame = pd.DataFrame(
        {"g": [f"i{i}" for i in range(n)], "site": ["rare" if i % 20 == 3 else "common" for i in range(n)]}
    )
    K = pd.DataFrame(relationship(n), frame.g, frame.g)
    Y = np.random.default_rng(5).standard_normal((n, p))
    Y[5, 3] = np.nan
    given = {"data": frame, "relmat": {"g": K}}
    assert build_problem(sg.design("~ site + (1 | g)", Y=Y, **given), Priors(), 1, 4).collapsed
    Y[3, 1] = np.nan
    assert build_problem(sg.design("~ site + (1 | g)", Y=Y, **given), Priors(), 1, 4).collapsed
    Y[23, 1] = np.nan
    with pytest.warns(SlamWarning, match=r"1 fixed effect\(s\) cannot be told.*first: 'site\[T.rare\]' on 'y2'"):
        problem = build_problem(sg.design("~ site + (1 | g)", Y=Y, **given), Priors(), 1, 4)
    assert problem.estimable[:, 1].tolist() == [True, False]
    assert np.delete(problem.estimable, 1, axis=1).all()


# ---- estimable columns ----------------------------------------------------------------------------------------------


def test_estimable_columns():
    """A combination of earlier columns, at any scale, and never the first of two equal columns."""
    rng = np.random.default_rng(1)
    one, x = np.ones(9), rng.standard_normal(9)
    cases = {
        (): [],
        ("1",): [True],
        ("1", "x"): [True, True],
        ("1", "1"): [True, False],
        ("1", "x", "1e9 x + 1e9"): [True, True, False],
        ("1", "1e-9 x", "x"): [True, True, False],
        ("0", "x"): [False, True],
        ("1", "1 + 1e-7 x", "x"): [True, True, False],
        ("x", "1", "x^2"): [True, True, True],
    }
    columns = {
        "1": one,
        "x": x,
        "0": 0 * x,
        "1e9 x + 1e9": 1e9 * (x + 1),
        "1e-9 x": 1e-9 * x,
        "1 + 1e-7 x": 1 + 1e-7 * x,
        "x^2": x**2,
    }
    for names, expected in cases.items():
        given = np.array([columns[name] for name in names]).reshape(len(names), 9)
        assert independent_columns(given.T).tolist() == expected, names


def test_estimable_agrees_with_the_rank():
    rng = np.random.default_rng(2)
    for _ in range(100):
        n, b, rank = int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(1, 5))
        x = (rng.standard_normal((b, rank)) @ rng.standard_normal((rank, n))) * 10.0 ** rng.integers(-6, 6, (b, 1))
        expected = np.linalg.matrix_rank(x / np.linalg.norm(x, axis=1, keepdims=True), tol=1e-8)
        assert independent_columns(x.T).sum() == expected


def test_columns_that_a_trait_cannot_estimate_are_held_at_zero():
    """x is constant on the rows of the second trait; its coefficient is zero there and free elsewhere."""
    n = 10
    frame = pd.DataFrame({"g": [f"i{i}" for i in range(n)], "x": [0.0] * 5 + [1.0] * 5})
    K = pd.DataFrame(relationship(n), frame.g, frame.g)
    Y = np.random.default_rng(4).standard_normal((n, 3))
    Y[5:, 1] = np.nan
    design = sg.design("~ x + (1 | g)", frame, Y=Y, relmat={"g": K})
    with pytest.warns(SlamWarning, match=r"1 fixed effect\(s\) cannot be told .*first: 'x' on 'y2'"):
        problem = build_problem(design, Priors(), 1, 4)
    for group in problem.groups:
        alone = np.array_equal(problem.order[group.traits], [1])
        assert group.estimable.tolist() == ([True, False] if alone else [True, True])


@pytest.mark.parametrize(
    ("formula", "message", "left_out"),
    [
        ("~ 1 + x + I(2 * x) + w + (1 | g)", r"'I(2 * x)' is a combination of 'x'; it is left out, and its", [2]),
        ("~ 1 + x + I(0 * x) + (1 | g)", "'I(0 * x)' is zero in every row with data; it is left out", [2]),
        ("~ 0 + h + x + I(x + 3) + (1 | g)", "'I(x + 3)' is a combination of 'h[b0]', 'h[b1]', 'h[b2]', 'x'", [4]),
    ],
)
def test_collinear_columns_are_left_out_and_named(formula, message, left_out):
    with pytest.warns(SlamWarning, match=re.escape(message[:40])):
        problem = tiny_problem(formula)
    assert any(message in note for note in problem.notes), problem.notes
    assert np.flatnonzero(~problem.estimable.any(axis=1)).tolist() == left_out
    assert not problem.center_coef[left_out].any()


def test_a_column_with_a_large_mean_is_not_collinear():
    plain = tiny_problem("~ x + w + (1 | g)")
    far = tiny_problem("~ I(x + 1e8) + w + (1 | g)")
    assert plain.estimable.all()
    assert far.estimable.all()
    assert not any("collinear" in note for note in far.notes)
    with pytest.raises(
        DataError, match=r"column 'I\(x \* 1e\+300\)' has values up to .*e\+300, whose squares overflow"
    ):
        tiny_problem("~ I(x * 1e300) + (1 | g)")


def test_effects_that_a_trait_cannot_tell_are_found_in_any_pattern():
    """The look at all patterns at once against one rank for each."""
    rng = np.random.default_rng(4)
    x = np.array([np.ones(12), rng.integers(0, 2, 12), rng.integers(0, 2, 12), rng.standard_normal(12) + 1e6])
    flat, observed = np.array([True, True, True, False]), rng.random((200, 12)) < 0.4
    observed = observed[observed.any(axis=1)]
    told = module._told(x, flat, observed)
    expected = np.array([[*independent_columns(x[:3, seen].T), True] for seen in observed])
    np.testing.assert_array_equal(told, expected)
    assert 0 < told.all(axis=1).sum() < len(told)
    # Coefficients by these columns say the same of the rows of a trait.
    coef = rng.standard_normal((len(observed), 4)) * flat
    other = module._by_told_effects(coef, x, told & flat, observed)
    assert not other[~told].any()
    for seen, ours, theirs in zip(observed, other, coef, strict=True):
        np.testing.assert_allclose(ours @ x[:, seen], theirs @ x[:, seen], atol=1e-12)


# ---- options, scaling, starts ---------------------------------------------------------------------------------------


def test_number_of_factors():
    assert [default_n_factors(*size) for size in [(100, 3), (3, 100), (1, 5), (500, 100), (9999, 20_000)]] == [
        3,
        2,
        0,
        17,
        100,
    ]
    # The factor of a single trait would be a second residual.
    assert default_n_factors(100, 1) == 0
    # Two covariances, of g and of the residual, of at most rank 3 each; there are 10 rows.
    for bad in (-1, 7, 1.5):
        with pytest.raises(
            OptionError, match=r"an integer from 0 to 6, the smaller of the rows with data \(10\) and 2 "
        ):
            tiny_problem(k=bad)
    for bad in (1, 2.5):
        with pytest.raises(OptionError, match=r"h2_grid=.*expected an integer of at least 2"):
            tiny_problem(grid=bad)


def test_traits_without_an_intercept_are_not_centred():
    """Centring would change the model unless the columns of X span the constant."""
    responses = 5.0 + np.random.default_rng(5).standard_normal((10, 3))
    plain = tiny_problem("~ 0 + x + (1 | g)", responses=responses)
    x = plain.rotation.back(plain.x)[0]
    np.testing.assert_allclose(plain.base_coef[:, 0], x @ responses / (x @ x))
    rest = responses - np.outer(x, plain.base_coef[:, 0])
    np.testing.assert_allclose(plain.scale, np.sqrt((rest**2).sum(axis=0) / 9))
    assert np.array_equal(plain.center_coef, np.zeros(1))
    spanned = tiny_problem("~ 0 + h + (1 | g)", responses=responses)
    np.testing.assert_allclose(spanned.center_coef, np.ones(3))


def test_rotated_arrays_turn_back():
    """Data, covariates and covariances of a collapsed problem, in the basis of the user's rows."""
    design = tiny_design("~ x + (1 | g)", rank=6)
    problem = build_problem(design, Priors(), 2, 4)
    assert problem.collapsed
    np.testing.assert_allclose(problem.rotation.back(problem.x), design.X.to_numpy().T, atol=1e-12)
    y = problem.rotation.back(problem.y)
    fitted = problem.base_coef @ design.X.to_numpy().T
    np.testing.assert_allclose(fitted + problem.scale[:, None] * y, design.Y.to_numpy().T, atol=1e-12)


def test_kernels_that_say_nothing_are_refused():
    Y = np.random.default_rng(1).standard_normal((8, 2))
    alone = sg.design("~ 1 + (1 | g)", pd.DataFrame({"g": [f"i{i}" for i in range(8)]}), Y=Y)
    with pytest.raises(DataError, match="one record for each level and no relationships between levels"):
        build_problem(alone, Priors(), 1, 4)
    identity = pd.DataFrame(np.eye(8), alone.terms[0].levels, alone.terms[0].levels)
    given = sg.design("~ 1 + (1 | g)", pd.DataFrame({"g": identity.index}), Y=Y, relmat={"g": identity})
    with pytest.raises(DataError, match=r"In its relationship matrix these are zero \(is it an inverse, or of other"):
        build_problem(given, Priors(), 1, 4)
    same = sg.design("~ 1 + (1 | g)", pd.DataFrame({"g": ["a"] * 8}), Y=Y)
    with pytest.raises(DataError, match="single level"):
        build_problem(same, Priors(), 1, 4)


def test_unusual_scale_of_a_relationship_matrix():
    frame = pd.DataFrame({"g": [f"i{i}" for i in range(8)]})
    K = pd.DataFrame(3.0 * relationship(8), frame.g, frame.g)
    design = sg.design("~ 1 + (1 | g)", frame, Y=np.random.default_rng(1).standard_normal((8, 2)), relmat={"g": K})
    with pytest.warns(ScaleWarning, match=r"mean diagonal of Z K Z' is 3"):
        problem = build_problem(design, Priors(), 1, 4)
    # Used as given, never rescaled.
    np.testing.assert_allclose(kernel(problem.components[0]), K.to_numpy(), atol=1e-12)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.filterwarnings("ignore::slamglmm.errors.ScaleWarning")
def test_repeated_records_are_the_same_model_as_their_dense_kinship(missing, monkeypatch):
    """Five lines and their K, or twenty levels and ``Z K Z'``: all that the full conditionals see of the data."""
    monkeypatch.setattr(module, "COST_OF_RANDOM", 0.0)  # traits with missing cells keep rows of their own
    n, lines = 20, np.random.default_rng(6).integers(5, size=20)
    Y = np.random.default_rng(7).standard_normal((n, 3))
    if missing:
        Y[[2, 3, 11], 1] = np.nan
    labels = [f"l{i}" for i in range(5)]
    records = [f"r{i}" for i in range(n)]
    K = relationship(5)
    frame = pd.DataFrame({"line": np.array(labels)[lines], "record": records, "x": np.linspace(-1, 1, n)})
    relmat = {
        "line": pd.DataFrame(K, labels, labels),
        "record": pd.DataFrame(K[np.ix_(lines, lines)], records, records),
    }
    compact, dense = (
        build_problem(sg.design(f"~ x + (1 | {term})", frame, Y=Y, relmat={term: relmat[term]}), Priors(), 2, 6)
        for term in ("line", "record")
    )
    assert np.array_equal(compact.grid.shares, dense.grid.shares)
    assert compact.collapsed == dense.collapsed == (not missing)
    every, one_thread = np.arange(len(compact.grid.cell)), BlockPool(1)
    assert len(compact.groups) == len(dense.groups) == 1 + missing
    for ours, theirs in zip(compact.groups, dense.groups, strict=True):
        assert np.array_equal(ours.rows, theirs.rows)
        forms, grams = [], []
        for problem, group in ((compact, ours), (dense, theirs)):
            cov = group.cov
            both = cov.enter(np.concatenate((problem.x, problem.y[group.traits]))[:, group.rows])
            forms.append(cov.quadratic_forms(both))
            by_basis = {0: cov.in_basis(both, 0)}
            grams.append(cov.grams(both, by_basis, every, one_thread))
        assert ours.cov.rank == theirs.cov.rank == 5
        np.testing.assert_allclose(ours.cov.logdet, theirs.cov.logdet, rtol=0, atol=1e-10)
        np.testing.assert_allclose(*forms, rtol=1e-10)
        np.testing.assert_allclose(*grams, rtol=1e-10, atol=1e-10)

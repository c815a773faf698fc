"""What may not change the answer: threads, the seed's reuse, a restart, units, the order of rows and traits."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import slamglmm as sg
from slamglmm.fitters.slam import problem as problem_module
from slamglmm.fitters.slam.draws import RunningMeans, Snapshot
from slamglmm.fitters.slam.problem import build_problem
from slamglmm.fitters.slam.state import start_state
from slamglmm.fitters.slam.sweep import sweep
from slamglmm.linalg.threads import BlockPool, single_threaded_blas
from slamglmm.priors import PRIORS, Priors
from tests.reference.problems import relationship, tiny_problem

ONE, TWO = "~ x + (1 | g)", "~ x + (1 | g) + (1 | h)"
N, P = 140, 150  # three blocks of rows and of traits
LARGE = {
    "U integrated out": {"formula": ONE},
    "two effects on rays": {"formula": TWO, "grid": 2},
    "patterns": {"formula": ONE, "missing": [(range(5), range(70)), ([9, 100], [3])], "scatter": 0.0},
    "scattered": {"formula": ONE, "missing": [(range(5), range(70)), ([9, 100], [3])]},
    "imputed": {"formula": TWO, "grid": 2, "missing": [(range(5), range(0, 150, 2))], "impute": True},
    "no factors": {"formula": ONE, "k": 0},
}


def make(layout, monkeypatch, prior="horseshoe", **sizes):
    options = {"k": 4, "grid": 4} | LARGE[layout] | sizes
    if options.pop("impute", False):
        monkeypatch.setattr(problem_module, "PATTERN_BYTES", 0)
    if "scatter" in options:
        monkeypatch.setattr(problem_module, "COST_OF_RANDOM", options.pop("scatter"))
    holes = options.pop("missing", [])
    cells = [([row for row in rows if row < sizes["n"]], j) for rows, traits in holes for j in traits]
    options["missing"] = [(rows, j) for rows, j in cells if j < sizes["p"]]
    return tiny_problem(priors=Priors(loadings=prior), **options)


def numbers(state):
    """Everything a chain goes on from."""
    parts = [getattr(state, field.name) for field in dataclasses.fields(state)]
    parts += [state.scales.local, state.scales.row, state.scales.delta, np.array(state.scales.t2)]
    return [part for part in parts if isinstance(part, np.ndarray)]


def run(problem, seed, iterations, threads=1, state=None, running=None):
    state = start_state(problem, np.random.SeedSequence(seed)) if state is None else state
    pool = BlockPool(threads)
    with single_threaded_blas():
        for _ in range(iterations):
            sweep(problem, state, pool, running)
    pool.close()
    return state


def equal(first, second):
    return len(first) == len(second) and all(map(np.array_equal, first, second))


@pytest.mark.parametrize("layout", LARGE)
@pytest.mark.parametrize("prior", PRIORS)
def test_threads_change_no_bit(layout, prior, monkeypatch):
    """A stream or a sum shared by two blocks."""
    problem = make(layout, monkeypatch, prior, n=N, p=P)
    assert max(len(problem.row_blocks), sum(len(group.blocks) for group in problem.groups)) >= 3
    results = []
    for threads in (1, 2, 3):
        running = RunningMeans(problem)
        state = run(problem, 3, 4, threads, running=running)
        results.append([*numbers(state), running.fitted(problem), *running.effects(problem)])
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])


@pytest.mark.parametrize("layout", LARGE)
def test_a_seed_names_one_chain(layout, monkeypatch):
    """The same seed gives the same bits, another seed other ones, and a run leaves the problem as it was."""
    problem = make(layout, monkeypatch, n=20, p=16)
    before = [problem.y.copy(), problem.x.copy()]
    first, again, other = (numbers(run(problem, seed, 5)) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not np.array_equal(first[1], other[1])
    assert equal(before, [problem.y, problem.x])
    rebuilt = make(layout, monkeypatch, n=20, p=16)
    assert equal(first, numbers(run(rebuilt, 1, 5)))


@pytest.mark.parametrize("layout", LARGE)
def test_a_copy_goes_on_as_the_chain_would(layout, monkeypatch):
    """Restart = uninterrupted run: everything a chain needs is in its state."""
    problem = make(layout, monkeypatch, n=20, p=16)
    state = run(problem, 1, 5)
    for twin in (state.copy(problem), state.packed(problem).copy(problem)):
        uninterrupted = run(problem, None, 5, state=state.copy(problem))
        assert equal(numbers(uninterrupted), numbers(run(problem, None, 5, state=twin)))
    frozen = [part.copy() for part in numbers(state)]
    run(problem, None, 3, state=state.copy(problem))
    assert equal(frozen, numbers(state))


def related(n=16, p=3, seed=2):
    rng = np.random.default_rng(seed)
    labels = [f"i{i:02d}" for i in range(n)]
    K = relationship(n, n - 2, 1)
    values, vectors = np.linalg.eigh(K)
    root = vectors * np.sqrt(np.maximum(values, 0))
    factor = root @ rng.standard_normal(n) + 0.5 * rng.standard_normal(n)
    Y = (
        np.outer(factor, rng.standard_normal(p))
        + 0.8 * root @ rng.standard_normal((n, p))
        + rng.standard_normal((n, p))
    )
    frame = pd.DataFrame({"g": labels, "x": rng.standard_normal(n)})
    return frame, pd.DataFrame(Y, columns=[f"t{j}" for j in range(p)]), pd.DataFrame(K, labels, labels)


def posterior(frame, Y, K, seed, iterations=5000):
    """Batch means of h2 by trait name, and posterior means of U by level."""
    problem = build_problem(sg.design("~ x + (1 | g)", frame, Y=Y, relmat={"g": K}), Priors(), 2, 6)
    state, running, pool = start_state(problem, np.random.SeedSequence(seed)), RunningMeans(problem), BlockPool(1)
    h2, effects = [], []
    with single_threaded_blas():
        for i in range(-200, iterations):
            sweep(problem, state, pool, running if i >= 0 else None)
            if i >= 0:
                h2.append(Snapshot(problem, state).h2()[0])
            if i >= 0 and (i + 1) % (iterations // 50) == 0:
                effects.append(running.effects(problem)[0])
                running = RunningMeans(problem)
    h2 = np.array(h2).reshape(50, -1, Y.shape[1]).mean(axis=1)
    return h2, np.array(effects)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing cells"])
def test_order_of_rows_levels_and_traits(missing):
    """Posterior means of h2 and U follow their labels when rows, levels of K and traits are shuffled.

    Bits differ (another eigenbasis); |t| below its bound for all 51 means, one false alarm in 10 000.
    """
    frame, Y, K = related()
    if missing:
        Y.iloc[[1, 4], 0] = Y.iloc[[7, 8, 9], 2] = np.nan
    rng = np.random.default_rng(5)
    rows, levels, traits = rng.permutation(16), rng.permutation(16), np.array([2, 0, 1])
    first_h2, first_U = posterior(frame, Y, K, 1)
    second_h2, second_U = posterior(
        frame.iloc[rows].reset_index(drop=True),
        Y.iloc[rows, traits].reset_index(drop=True),
        K.iloc[levels, levels],
        2,
    )
    back, back_levels = np.argsort(traits), np.argsort(levels)
    pairs = [(first_h2, second_h2[:, back]), (first_U, second_U[:, back_levels][:, :, back])]
    t = np.concatenate([scipy.stats.ttest_ind(a, b, equal_var=False).statistic.ravel() for a, b in pairs])
    assert np.abs(t).max() < scipy.stats.t.isf(1e-4 / (2 * len(t)), 60)
    # and the comparison can tell: traits and levels out of order are far away.
    wrong = [(first_h2, second_h2), (first_U, second_U)]
    assert all(np.abs(scipy.stats.ttest_ind(a, b).statistic).max() > 6 for a, b in wrong)


def test_units_of_the_traits():
    """Y times 4 gives the same chain bit for bit: shares the same, loadings and U four times as large."""
    frame, Y, K = related()
    results = []
    for unit in (1.0, 4.0):
        problem = build_problem(sg.design("~ x + (1 | g)", frame, Y=unit * Y, relmat={"g": K}), Priors(), 2, 6)
        running = RunningMeans(problem)
        snapshot = Snapshot(problem, run(problem, 1, 20, running=running))
        results.append(
            (snapshot.h2(), snapshot.Lambda() / unit, snapshot.B() / unit, running.effects(problem)[0] / unit)
        )
    assert equal(*results)


def test_a_constant_goes_to_the_intercept():
    """Y + 7: nothing but the intercept and the fitted values move, by 7 (to rounding, over one iteration)."""
    frame, Y, K = related()
    results = []
    for constant in (0.0, 7.0):
        problem = build_problem(sg.design("~ x + (1 | g)", frame, Y=Y + constant, relmat={"g": K}), Priors(), 2, 6)
        running = RunningMeans(problem)
        snapshot = Snapshot(problem, run(problem, 1, 1, running=running))
        moved = constant * np.array([[1.0], [0.0]])
        results.append((snapshot.h2(), snapshot.Lambda(), snapshot.B() - moved, running.fitted(problem) - constant))
    for plain, shifted in zip(*results, strict=True):
        np.testing.assert_allclose(shifted, plain, rtol=1e-9, atol=1e-10)

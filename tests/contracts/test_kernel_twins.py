"""Every compiled kernel has a NumPy twin in tests/reference; those of the SLAM sampler equal theirs."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import slamglmm._kernels
import tests.reference
from slamglmm._kernels import gaussian, loadings
from tests.reference import kernels as twin

CLOSE = {"rtol": 1e-12, "atol": 1e-13}
SHAPES = [(0, 0), (0, 3), (1, 0), (4, 0), (1, 1), (1, 6), (7, 1), (9, 4), (30, 17)]


def random_precisions(rng, count, size):
    roots = rng.standard_normal((count, size, size + 2))
    return roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(size)


def test_every_kernel_has_a_twin_with_its_arguments():
    """A kernel without a twin, or with other arguments, cannot be checked."""
    twins = {}
    for module in pkgutil.iter_modules(tests.reference.__path__):
        members = vars(importlib.import_module(f"tests.reference.{module.name}")).items()
        twins |= {name: list(inspect.signature(f).parameters) for name, f in members if inspect.isfunction(f)}
    found = 0
    for source in Path(slamglmm._kernels.__file__).parent.glob("*.pyx"):
        text = re.sub(r"\[.*?\]", "", source.read_text())  # memoryview types hold commas
        for name, arguments in re.findall(r"^def (\w+)\((.*?)\):", text, re.M | re.S):
            names = [piece.split("=")[0].split()[-1] for piece in arguments.split(",") if piece.strip()]
            assert twins.get(name) == names, f"{source.name}: {name}({names}) has no such twin in tests/reference"
            found += 1
    assert found >= 4


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("systems", "size"), SHAPES)
def test_draw_regressions(systems, size, seed):
    """A wrong triangle, a shared work array not refreshed, or the wrong gamma for tau."""
    rng = np.random.default_rng([seed, systems, size])
    grams = random_precisions(rng, 3, size)
    arguments = (
        grams,
        rng.integers(0, 3, systems),
        rng.standard_exponential((systems, size)),
        rng.standard_normal((systems, size)),
        rng.standard_normal(systems) ** 2 + size,
        rng.standard_normal((systems, size)),
        rng.standard_gamma(2.0, systems),
        0.7,
    )
    results = []
    for module in (gaussian, twin):
        coef, tau = np.full((systems, size), np.nan), np.full(systems, np.nan)
        assert module.draw_regressions(*arguments, np.empty((size, size)), coef, tau) == -1
        results.append((coef, tau))
    np.testing.assert_allclose(results[0][0], results[1][0], **CLOSE)
    np.testing.assert_allclose(results[0][1], results[1][1], **CLOSE)


def test_draw_regressions_residual_never_below_zero():
    """An over-fitted trait: the sum of squares cancels below zero and tau must stay gamma / rate."""
    arguments = (np.eye(2)[None], np.zeros(1, np.intp), np.zeros((1, 2)), np.array([[3.0, 4.0]]), np.array([24.9]))
    for module in (gaussian, twin):
        tau = np.empty(1)
        module.draw_regressions(
            *arguments, np.zeros((1, 2)), np.array([1.5]), 0.5, np.empty((2, 2)), np.empty((1, 2)), tau
        )
        assert tau[0] == 3.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "size"), SHAPES)
@pytest.mark.parametrize("distinct", [1, 3, None])
def test_draw_gaussians(rows, size, distinct, seed):
    """A factor kept for a row of another pattern: runs of equal, alternating and all different systems."""
    rng = np.random.default_rng([seed, rows, size])
    which = np.arange(rows) if distinct is None else np.sort(rng.integers(0, distinct, rows))
    if distinct == 3:
        rng.shuffle(which)
    precisions = random_precisions(rng, max(rows, 3), size)
    rhs, z = rng.standard_normal((2, rows, size))
    results = []
    for module in (gaussian, twin):
        out = np.full((rows, size), np.nan)
        assert module.draw_gaussians(precisions, which.astype(np.intp), rhs, z, np.empty((size, size)), out) == -1
        results.append(out)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-11, atol=1e-12)


def test_indefinite_systems_are_named():
    """The index that comes back must be that of the broken system."""
    grams = np.stack([np.eye(3), np.diag([1.0, -1.0, 1.0])])
    which = np.array([0, 0, 1, 0], dtype=np.intp)
    for module in (gaussian, twin):
        four = np.ones((4, 3))
        bad = module.draw_regressions(
            grams,
            which,
            np.zeros((4, 3)),
            four,
            np.ones(4),
            four,
            np.ones(4),
            1.0,
            np.empty((3, 3)),
            four.copy(),
            np.ones(4),
        )
        assert bad == 2
        assert module.draw_gaussians(grams, which, four, four, np.empty((3, 3)), four.copy()) == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("sweeps", [0, 1, 20])
def test_row_scales(k, sweeps, seed):
    """A cumulative product that keeps or drops the wrong ratio."""
    rng = np.random.default_rng([seed, k, sweeps])
    q, delta = rng.standard_exponential(k), rng.standard_exponential(k) + 0.1
    delta[0] = 1.0
    gammas = rng.standard_gamma(3.0, (sweeps, k))
    noise = (gammas, rng.standard_gamma(2.0, sweeps), rng.standard_exponential((sweeps, 1)))
    ours, theirs = delta.copy(), delta.copy()
    t2 = loadings.draw_horseshoe_rows(q, *noise, 3.0, 1.0, 0.2, ours, 0.9)
    assert t2 == pytest.approx(twin.draw_horseshoe_rows(q, *noise, 3.0, 1.0, 0.2, theirs, 0.9), rel=1e-12)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    ours, theirs = delta.copy(), delta.copy()
    loadings.draw_infinite_rows(q, gammas, 1.0, 2.0, ours)
    twin.draw_infinite_rows(q, gammas, 1.0, 2.0, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)

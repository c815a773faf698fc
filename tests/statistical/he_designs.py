"""Replicates of the three designs in which intervals and accuracy are measured; ``python -m`` prints the table."""

import json
import sys
import warnings

import numpy as np
import pandas as pd

import slamglmm as sg
from slamglmm.relmat import Relmat

REPLICATES = 300
TRUTH = {
    "ace": {"id": 0.4, "household": 0.2, "Residual": 0.4},
    "trio": {"id": 0.1, "Residual": 0.1},
    "genotypes": {"id": 0.5, "Residual": 0.5},
}


def ace(seed):
    data = sg.simulate.ace(pairs=150, seed=seed)
    return data.formula, data.frame, data.Y, data.relmat


def trio(seed):
    data = sg.simulate.trio(families=100, condition=3, seed=seed)
    return data.formula, data.frame, data.Y, data.relmat


def genotypes(seed, n=200, m=1000, covariates=30):
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, rng.uniform(0.05, 0.5, m), (n, m))
    f = G.mean(axis=0)
    W = (G - f) / np.sqrt(f * (1 - f / 2))
    frame = pd.DataFrame(rng.standard_normal((n, covariates - 1)), columns=[f"x{j}" for j in range(covariates - 1)])
    y = frame.to_numpy() @ rng.standard_normal(covariates - 1) + W @ rng.standard_normal(m) * np.sqrt(0.5 / m)
    y = y + np.sqrt(0.5) * rng.standard_normal(n)
    formula = "~ " + " + ".join(frame.columns) + " + (1 | id)"
    frame["id"] = np.arange(n)
    return formula, frame, pd.DataFrame({"y": y}), {"id": Relmat(pd.Index(range(n)), W @ W.T / m, "id")}


DESIGNS = {"ace": ace, "trio": trio, "genotypes": genotypes}


def run(name, replicates=REPLICATES, methods=("he", "rehe", "reml")):
    """Estimates of every method, and whether the sandwich interval covers the truth (replicates x components)."""
    estimates = {method: [] for method in methods}
    covered, errors = [], []
    truth = pd.Series(TRUTH[name])
    for seed in range(replicates):
        formula, frame, Y, relmat = DESIGNS[name]([seed, len(name)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for method in methods:
                se = "sandwich" if method == "rehe" else None
                fit = sg.he(formula, frame, Y=Y, relmat=relmat, method=method, se=se)
                table = fit.varcorr().droplevel("trait")
                estimates[method].append(table["variance"].loc[truth.index])
                if method == "rehe":
                    interval = fit.conf_int(0.95).droplevel("trait").loc[truth.index]
                    covered.append((interval["lower"] <= truth) & (truth <= interval["upper"]))
                    errors.append(table["se"].loc[truth.index])
    return {m: pd.DataFrame(e) for m, e in estimates.items()}, pd.DataFrame(covered), pd.DataFrame(errors)


def table(name, replicates=REPLICATES):
    """Mean, bias, sd and MSE of every method; coverage and mean standard error of the intervals."""
    estimates, covered, errors = run(name, replicates)
    truth = pd.Series(TRUTH[name])
    out = {
        method: {
            "bias": (e.mean() - truth).round(4).to_dict(),
            "sd": e.std().round(4).to_dict(),
            "mse": ((e - truth) ** 2).mean().round(4).to_dict(),
        }
        for method, e in estimates.items()
    }
    out["sandwich"] = {"coverage": covered.mean().round(3).to_dict(), "mean_se": errors.mean().round(4).to_dict()}
    return out


def he_variances(name, seed=0):
    """Exact variance of each unconstrained HE estimate, from dense matrices: ``S^-1 C S^-1``, C of ``y'PK_iPy``."""
    formula, frame, Y, relmat = DESIGNS[name]([seed, len(name)])
    design = sg.design(formula, frame, Y=Y, relmat=relmat)
    X = design.X.to_numpy()
    project = np.eye(len(X)) - X @ np.linalg.pinv(X)
    kernels = {}
    for term in design.terms:
        Z = np.eye(len(term.levels))[term.codes]
        K = np.eye(len(term.levels)) if term.K is None else term.K
        kernels[term.label] = Z @ (K if isinstance(K, np.ndarray) else K.toarray()) @ Z.T
    kernels["Residual"] = np.eye(len(X))
    V = sum(TRUTH[name][label] * kernel for label, kernel in kernels.items())
    projected = [project @ kernel @ project for kernel in kernels.values()]
    S = np.array([[np.sum(a * b) for b in projected] for a in projected])
    C = 2.0 * np.array([[np.sum((a @ V) * (b @ V).T) for b in projected] for a in projected])
    variances = np.diag(np.linalg.solve(S, np.linalg.solve(S, C).T))
    return dict(zip(kernels, variances, strict=True))


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(DESIGNS)
    json.dump({name: table(name) for name in chosen}, sys.stdout, indent=1)
    print()

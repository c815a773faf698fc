"""Stored numbers of other programs, where the shared reference folder is at hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

import slamglmm as sg
from slamglmm.relmat import Relmat

FOLDER = Path(__file__).parents[3] / "shared" / "reference"


def names(kind):
    """Cases of one kind; none when the folder is absent."""
    root = FOLDER / kind
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.exists() else []


def arrays(kind, name, file="inputs"):
    with np.load(FOLDER / kind / name / f"{file}.npz") as stored:
        return {key: stored[key] for key in stored}


def expected(kind, name):
    return json.loads((FOLDER / kind / name / "expected.json").read_text())


def standardized(G):
    """W = (G - 2p) / sqrt(2p(1-p))."""
    p = G.mean(axis=0) / 2
    return (G - 2 * p) / np.sqrt(2 * p * (1 - p))


def kinships(stored):
    if "G" in stored:
        W = standardized(stored["G"])
        return [W @ W.T / W.shape[1]]
    return [stored[key] for key in ("K1", "K2") if key in stored]


def he_case(stored, kinships, intercept=False):
    """Formula, frame and relmat of a stored case: columns x0, x1, ... of X and one random term for each kinship."""
    X = stored["X"]
    n = len(X)
    frame = pd.DataFrame({f"x{j}": X[:, j] for j in range(X.shape[1])}).assign(id=np.arange(n))
    if "y" in stored:
        frame["y"] = stored["y"]
    terms = ["1" if intercept else "0", *(f"x{j}" for j in range(X.shape[1]))]
    terms += [f"(1 | gr(id, cov='K{k + 1}'))" for k in range(len(kinships))]
    relmat = {f"K{k + 1}": Relmat(pd.Index(np.arange(n)), K, f"K{k + 1}") for k, K in enumerate(kinships)}
    return " + ".join(terms), frame, relmat


def he_problem(stored, kinships):
    """The fitter's own view of a stored case."""
    from slamglmm.fitters.he.problem import build_problem

    formula, frame, relmat = he_case(stored, kinships)
    return build_problem(sg.design(f"y ~ {formula}", frame, relmat=relmat))

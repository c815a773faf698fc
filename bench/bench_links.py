"""Links of RNA-seq data: nanoseconds a cell of one draw of eta, and G recovered from counts; JSON on stdout.

``python bench/bench_links.py step`` times the draw of each link (CPU, one thread, best of several).
``python bench/bench_links.py rnaseq [link ...]`` fits negative binomial counts by several links, and the latent traits
they were made from by the identity: correlation of the off-diagonal elements of G with the truth, CPU seconds of an
iteration.
"""

import json
import sys
import time

import numpy as np
import pandas as pd
from cases import CASES

import slamglmm as sg
from slamglmm.linalg.fixed_part import FixedPart
from slamglmm.linalg.threads import BLOCK, blocks, single_threaded_blas
from slamglmm.links import Binomial, GaussianWeights, Measurements, NegativeBinomial, Poisson, voom

ROUNDS = 7


def time_step():
    """Nanoseconds for each cell of all blocks, normals and parameters of the link included."""
    n, p = CASES["links_step"]["n"], CASES["links_step"]["p"]
    rng = np.random.default_rng(1)
    counts = rng.poisson(np.exp(rng.normal(4.0, 1.5, (1, p)) + 0.5 * rng.standard_normal((n, p))))
    counts[0] += 1
    trials = rng.integers(5, 40, (n, p))
    cases = {
        "gaussian_weights": (GaussianWeights(rng.gamma(2.0, 1.0, (n, p))), rng.standard_normal((n, p))),
        "poisson": (Poisson("library"), counts),
        "negative_binomial": (NegativeBinomial("library"), counts),
        "binomial": (Binomial(trials), rng.binomial(trials, 0.3)),
    }
    for name, (link, data) in cases.items():
        likelihood = link.prepare(Measurements(pd.DataFrame(data), np.zeros(n), np.arange(n), n, FixedPart.constant(n)))
        parameters, eta = likelihood.start_parameters(), likelihood.start.copy()
        mean = eta + 0.3 * rng.standard_normal(eta.shape)
        best = np.inf
        for _ in range(ROUNDS):
            spent = 0.0
            for block in blocks(p, BLOCK):
                part, mu = eta[block], mean[block].copy()
                begin = time.process_time()
                likelihood.draw(part, mu, np.full(len(part), 4.0), parameters, block, rng)
                spent += time.process_time() - begin
            best = min(best, spent)
        print(
            json.dumps({"case": "links_step", "link": name, "ns_per_cell": round(1e9 * best / (n * p), 1)}), flush=True
        )


def rnaseq(names):
    """Counts of unequal libraries, dispersion 0.1, about 55 a cell; the same sampler for every link."""
    case = CASES["links_rnaseq"]
    truth = sg.simulate.slam(
        lines=case["n"], n_traits=case["p"], n_factors=case["k"], resid_var=0.3, density=0.3, covariate=False, seed=1
    )
    rng = np.random.default_rng(2)
    H = truth.Y - truth.Y.mean() + rng.normal(3.5, 1.0, case["p"])
    libraries = rng.uniform(0.5, 2.0, case["n"])
    mean = libraries[:, None] * np.exp(0.5 * (H - H.mean()) + H.mean())
    Y = pd.DataFrame(rng.poisson(mean * rng.gamma(10.0, 0.1, mean.shape)), columns=truth.Y.columns).astype(float)
    v = voom(Y, lib_size=libraries * Y.to_numpy().sum(axis=1).mean())
    ways = {
        "latent": (H, "identity"),
        "negative_binomial": (Y, NegativeBinomial(libraries)),
        "poisson": (Y, Poisson(libraries)),
        "voom": (v.log_cpm, v.link),
        "log counts": (v.log_cpm, "identity"),
    }
    upper = np.triu_indices(case["p"], 1)
    true = truth.truth["G"]["line"].to_numpy()[upper]
    length = {name: case[name] for name in ("n_factors", "draws", "burn")}
    for name in names or ways:
        data, link = ways[name]
        with single_threaded_blas():
            begin = time.process_time()
            fit = sg.slam(
                "~ 1 + (1 | line)",
                truth.frame,
                Y=data,
                relmat=truth.relmat,
                link=link,
                chains=1,
                seed=1,
                n_threads=1,
                progress=False,
                **length,
            )
            spent = time.process_time() - begin
        found = fit.G().to_numpy()[upper]
        out = {
            "case": "links_rnaseq",
            "link": name,
            "correlation_G": round(float(np.corrcoef(found, true)[0, 1]), 3),
            "correlation_R": round(
                float(np.corrcoef(fit.R().to_numpy()[upper], truth.truth["R"].to_numpy()[upper])[0, 1]), 3
            ),
            "seconds_per_iteration": round(spent / (length["draws"] + length["burn"]), 4),
        }
        print(json.dumps(out), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["rnaseq"]:
        rnaseq(sys.argv[2:])
    else:
        time_step()

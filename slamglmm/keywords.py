"""What a fitter says when a call does not fit its signature, or its linear algebra fails.

For a word of lme4, MCMCglmm, brms or another fitter here, the message says what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, ParamSpec, TypeVar

from numpy.linalg import LinAlgError

from .errors import FitError, KeywordError

P = ParamSpec("P")
R = TypeVar("R")

# Word -> what it is called here: the first of these that a function has.
NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("K", "A", "kinship", "grm", "pedigree", "ginverse", "cov_ranef", "data2", "ranef_cov"), ("relmat",)
    ),
    **dict.fromkeys(("y", "response", "responses", "phenotypes", "traits"), ("Y",)),
    **dict.fromkeys(("W", "genotypes", "snps", "geno", "dosages"), ("markers",)),
    **dict.fromkeys(("fixed", "fixed_effects", "model"), ("formula",)),
    **dict.fromkeys(("frame", "df", "pheno"), ("data",)),
    **dict.fromkeys(("prior",), ("priors",)),
    **dict.fromkeys(("n_draws", "samples", "n_samples", "iter", "n_iter", "nitt", "niter"), ("draws", "max_iter")),
    **dict.fromkeys(("burnin", "burn_in", "warmup", "tune", "n_burn"), ("burn",)),
    **dict.fromkeys(("n_chains", "nchains", "chain"), ("chains",)),
    **dict.fromkeys(("thinning", "n_thin"), ("thin",)),
    **dict.fromkeys(("cores", "n_cores", "ncores", "njobs", "workers", "jobs"), ("n_jobs",)),
    **dict.fromkeys(("threads", "nthreads", "num_threads"), ("n_threads",)),
    **dict.fromkeys(("random_state", "rng", "set_seed"), ("seed",)),
    **dict.fromkeys(("verbose", "silent", "refresh"), ("progress",)),
    **dict.fromkeys(("factors", "k", "n_latent"), ("n_factors",)),
    **dict.fromkeys(("distribution", "likelihood", "dist"), ("link", "family")),
    **dict.fromkeys(("na_action", "dropna"), ("missing",)),
    **dict.fromkeys(("pr", "save_pars"), ("store",)),
    **dict.fromkeys(("standardise",), ("standardize",)),
    **dict.fromkeys(("tolerance", "eps"), ("tol",)),
    **dict.fromkeys(("maxiter", "max_iters"), ("max_iter",)),
    **dict.fromkeys(("REML",), ("method", "dof")),
}
# Function ("" for all) -> word -> what to write where there is no such option.
ADVICE: dict[str, dict[str, str]] = {
    "slam": {
        "family": "Write link='poisson', 'negative_binomial', 'bernoulli', 'probit' or 'ordinal', or "
        "link=slamglmm.links.Binomial(trials=...).",
        "weights": "Weights are part of the link: link=slamglmm.links.GaussianWeights(weights), each the precision "
        "1 / variance of a measurement. `he` and `sparse_lmm` take relative weights=.",
        "REML": "`slam` is Bayesian. For REML write slamglmm.he(formula, data, method='reml').",
        "method": "`slam` has one method, a Gibbs sampler. For moments or REML see slamglmm.he.",
        "iter": "Write draws= for the draws kept of each chain and burn= for the iterations before them.",
        "nitt": "Write draws= for the draws kept of each chain, burn= for the iterations before them and thin=.",
        "control": "Write draws=, burn=, thin=, chains= and h2_grid= themselves.",
    },
    "he": {
        "family": "`he` is for normal responses. Counts and categories: slamglmm.slam(..., link='poisson').",
        "link": "`he` is for normal responses. Counts and categories: slamglmm.slam(..., link='poisson').",
        "REML": "Write method='reml', or method='ml'.",
        "priors": "`he` has no priors. For a Bayesian fit write slamglmm.slam(formula, data, priors=...).",
        "draws": "`he` draws nothing but bootstrap samples, n_draws=. For a Bayesian fit see slamglmm.slam.",
    },
    "sparse_lmm": {
        "link": "Write family='gaussian' or 'binomial'.",
        "draws": "`sparse_lmm` draws nothing: leave it out.",
        "n_factors": "Factors are for many traits: see slamglmm.slam.",
    },
    "mr_mash": {
        "seed": "`mr_mash` draws nothing, so the same call gives the same numbers: leave seed out.",
        "family": "`mr_mash` is for normal responses; for 0/1, one by one: slamglmm.sparse_lmm(family='binomial').",
        "relmat": "`mr_mash` takes no random effects; with one, slamglmm.sparse_lmm fits responses one by one.",
        "weights": "`mr_mash` takes no weights; slamglmm.sparse_lmm does, for responses one by one.",
        "draws": "`mr_mash` draws nothing: leave it out.",
        "n_threads": "`mr_mash` runs in one thread: leave it out.",
        "n_jobs": "`mr_mash` runs in one thread: leave it out.",
        "K": "`mr_mash` takes no random effects; with one, slamglmm.sparse_lmm fits responses one by one.",
    },
    "netgsa": {
        "data": "The first argument, expression, is genes × samples.",
        "Y": "Write expression=, genes × samples.",
    },
    "": {
        "random": "Random effects stand in the formula: 'y ~ x + (1 | group)'.",
        "rcov": "The residual needs no word: each trait has its own residual variance.",
        "offset": "It stands in the formula: '~ x + offset(column)'.",
        "subset": "Pass the rows themselves: data=frame[frame['year'] == 2020].",
        "contrasts": "They stand in the formula: C(x, contr.sum).",
        "control": "Each option has a name of its own.",
        "start": "It starts from the data: leave it out.",
        "nAGQ": "It integrates by other means: leave it out.",
        "missing": "It needs no option: rows without a covariate are dropped, and a warning counts them.",
        "priors": "It has no priors: leave them out. For a Bayesian fit see slamglmm.slam.",
        "prior": "It has no priors: leave them out. For a Bayesian fit see slamglmm.slam.",
        "groups": "Grouping factors stand in the formula: (1 | group).",
        "group": "Grouping factors stand in the formula: (1 | group).",
        "cluster": "Grouping factors stand in the formula: (1 | group).",
    },
}


def explains_calls(function: Callable[P, R]) -> Callable[P, R]:
    """Answer a call that the signature does not fit by what to write; everything else is left as it is.

    Raises
    ------
    KeywordError
        An unknown keyword, a positional argument too many, or one that is missing.
    FitError
        A factorisation failed that no check had foreseen.
    """
    described = signature(function)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        problem = _problem(function.__name__, described, args, kwargs)
        if problem is not None:
            raise KeywordError(problem)
        try:
            return function(*args, **kwargs)
        except LinAlgError as error:
            raise FitError(
                f"{function.__name__} broke down in its linear algebra: {error}. Look for responses or covariates that "
                "are combinations of others, constant or of extreme size, and for nearly singular matrices. Report it "
                "with the data if there are none."
            ) from error

    return checked


def _problem(name: str, described: Signature, args: tuple[Any, ...], given: dict[str, Any]) -> str | None:
    """What is wrong with a call, and what to do; None for one that fits."""
    parameters = described.parameters
    unknown = [word for word in given if word not in parameters]
    if unknown:
        return f"{name}() has no option {unknown[0]!r}. {what_to_write(name, unknown[0], list(parameters))}"
    positional = [p.name for p in parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    if len(args) > len(positional):
        first = next(p.name for p in parameters.values() if p.kind is Parameter.KEYWORD_ONLY)
        return (
            f"{name}() takes {', '.join(positional)} in this order, and all else by name: expected {len(positional)} "
            f"values without a name, got {len(args)}. Write, for example, {first}=... before the value."
        )
    twice = [word for word in positional[: len(args)] if word in given]
    if twice:
        return f"{name}() got {twice[0]} twice, by its place and by its name. Leave one out."
    got = {*positional[: len(args)], *given}
    absent = [p.name for p in parameters.values() if p.default is Parameter.empty and p.name not in got]
    if absent:
        return f"{name}() needs {', '.join(absent)}: write {name}({', '.join(f'{word}=...' for word in absent)}, ...)."
    return None


def what_to_write(function: str, word: str, known: list[str]) -> str:
    """Advice for a word that a function does not know.

    Parameters
    ----------
    function : str
    word : str
        As in the call.
    known : list of str
        Options of the function.
    """
    advice = ADVICE.get(function, {}).get(word)
    if advice is None:
        alias = next((name for name in NAMES.get(word, ()) if name in known), None)
        advice = f"Write {alias}=." if alias is not None else ADVICE[""].get(word)
    if advice is not None:
        return advice
    similar = get_close_matches(word, known, n=1) or [name for name in known if name.lower() == word.lower()]
    return f"Did you mean {similar[0]}=?" if similar else f"Its options are {', '.join(known)}."

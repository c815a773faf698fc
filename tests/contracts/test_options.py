"""Every option of every public function: a wrong value ends in an own error, never in a raw one and never in silence.

A new function needs one line in `CALLS`; a new option of a listed function is covered by its annotation.
"""

import inspect
import re
import typing
import warnings

import numpy as np
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm.errors import DataError, KeywordError, OptionError, SlamError

N = 12
LINES = [f"L{i:02d}" for i in range(N)]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    """Some wrong values are file names."""
    monkeypatch.chdir(tmp_path)


def small_data():
    rng = np.random.default_rng(5)
    W = rng.integers(0, 3, (N, 20))
    frame = pd.DataFrame({"line": LINES, "x": rng.standard_normal(N), "y": rng.standard_normal(N)})
    Y = pd.DataFrame(rng.standard_normal((N, 3)), columns=["t1", "t2", "t3"])
    markers = pd.DataFrame(W, index=frame.index, columns=[f"m{j}" for j in range(20)])
    return frame, Y, sg.kinship(markers.set_axis(LINES), "standardized"), markers


FRAME, Y, K, MARKERS = small_data()
SLAM = {"n_factors": 1, "draws": 4, "burn": 2, "chains": 1, "seed": 1}
GENES = sg.simulate.netgsa(n_genes=8, n_pathways=2, n_samples=(4, 3), seed=1)
TINY = {"families": 3, "per_family": 2, "n_traits": 2, "n_factors": 1}
# Function -> a call that runs; every option that the call can do without is changed in turn.
CALLS = {
    sg.slam: {"formula": "~ x + (1 | line)", "data": FRAME, "Y": Y, "relmat": {"line": K}, **SLAM},
    sg.sparse_lmm: {"formula": "y ~ x", "data": FRAME, "markers": MARKERS, "max_iter": 20},
    sg.mr_mash: {"formula": "~ x", "data": FRAME, "Y": Y, "markers": MARKERS, "max_iter": 20},
    sg.he: {"formula": "y ~ x + (1 | line)", "data": FRAME, "relmat": {"line": K}},
    sg.netgsa: {name: getattr(GENES, name) for name in ("expression", "groups", "networks", "pathways")},
    sg.cross_validate: {"fitter": sg.slam, "formula": "~ x", "data": FRAME, "Y": Y, "folds": 2, "by": "rows"}
    | {"draws": 2, "burn": 1, "chains": 1, "n_factors": 1},
    sg.design: {"formula": "y ~ x + (1 | line)", "data": FRAME},
    sg.kinship: {"markers": MARKERS},
    sg.pedigree_relmat: {"ped": pd.DataFrame({"id": [1, 2, 3], "dam": [0, 0, 1], "sire": [0, 0, 2]})},
    sg.links.voom: {"counts": pd.DataFrame(np.random.default_rng(1).poisson(30, (6, 8)))},
    sg.datasets.load: {"name": "penicillin"},
    sg.simulate.slam: TINY,
    sg.simulate.sparse_lmm: {"n": 20, "n_markers": 10, "causal": 2},
    sg.simulate.mr_mash: {"n": 20, "n_markers": 10, "causal": 2, "n_traits": 2},
    sg.simulate.ace: {"pairs": 4},
    sg.simulate.trio: {"families": 3},
    sg.simulate.netgsa: {"n_genes": 8, "n_pathways": 2, "n_samples": (4, 3)},
    sg.simulate.microbiome: {"pairs": 3, "n_taxa": 4, "depth": 50},
    sg.simulate.curves: {"families": 3, "per_family": 2, "n_factors": 1, "times": 5},
    sg.simulate.probes: {"n_genes": 2, "families": 3, "per_family": 2, "n_factors": 1},
}
# Every kind of thing that lands in an option by mistake.
WRONG = {
    "text": "zzz",
    "empty text": "",
    "true": True,
    "negative": -1,
    "zero": 0,
    "fraction": 1.5,
    "nan": float("nan"),
    "infinite": float("inf"),
    "none": None,
    "empty tuple": (),
    "empty dict": {},
    "pair": (1, 0),
    "list of text": ["zzz", 3],
    "dict": {"zzz": "zzz"},
    "object": object(),
    "class": dict,
    "function": lambda value: value,
    "array": np.array([0.5, np.nan]),
    "table": pd.DataFrame({"zzz": [1.0, 2.0]}),
}
# What a kind of annotation refuses whatever else is allowed. 0 and -1 are integers, and some functions take them.
REFUSED_BY_KIND = {
    int: ("empty text", "true", "fraction", "nan", "infinite", "empty tuple", "dict", "object", "array", "table"),
    float: ("empty text", "true", "nan", "infinite", "empty tuple", "dict", "object", "array", "table"),
    bool: ("text", "empty text", "negative", "fraction", "nan", "dict", "object", "array", "table"),
    str: ("empty text", "true", "fraction", "nan", "dict", "object", "array", "table"),
}
# A number of bytes without a limit.
MAY_BE_INFINITE = {"missing_memory"}
# All cores: allowed, and not worth starting them here.
NOT_TRIED = {"n_jobs": "negative"}


def options(function):
    return [
        p.name for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def kinds(function, name):
    """Which of `REFUSED_BY_KIND` the annotation of an option consists of; empty when it takes anything."""
    annotation = inspect.signature(function).parameters[name].annotation
    found = set()
    for part in annotation.split(" | ") if isinstance(annotation, str) else ():
        plain = {"int": int, "float": float, "bool": bool, "str": str, "None": None}.get(part)
        if part.startswith("Literal["):
            plain = str
        if plain is None and part != "None":
            return set()
        found |= {plain} - {None}
    return found


def call(function, **changes):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(**(CALLS[function] | changes))


CHANGES = [pytest.param(f, name, id=f"{f.__module__}.{f.__name__}-{name}") for f in CALLS for name in options(f)]


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_the_call_runs(function):
    """Otherwise its changes would be refused for another reason."""
    assert call(function) is not None


@pytest.mark.parametrize(("function", "name"), CHANGES)
def test_wrong_values(function, name):
    """An own error, or a value that may be; and what the annotation rules out is refused."""
    found = kinds(function, name)
    must_fail = set.intersection(*(set(REFUSED_BY_KIND[kind]) for kind in found)) if found else set()
    if name in MAY_BE_INFINITE:
        must_fail -= {"infinite"}
    if inspect.signature(function).parameters[name].default == "":
        must_fail -= {"empty text"}
    for what, value in WRONG.items():
        if NOT_TRIED.get(name) == what:
            continue
        try:
            call(function, **{name: value})
        except SlamError as error:
            text = str(error)
            assert len(text) < 1000
            assert len(text) > 15
        else:
            assert what not in must_fail, f"{name}={value!r} ran"


# Options that matter, or may stand, only beside others; and dicts one level down: (function, beside, option, key).
HALVES = pd.DataFrame({"first": np.arange(20) < 10, "second": np.arange(20) >= 10})
CHIP = {"formula": "y ~ x", "relmat": None, "markers": {"chip": MARKERS}, "se": "jackknife", "n_blocks": 4}
APART = {"formula": "~ x + (1 | line)", "distance": np.abs(np.subtract.outer(np.arange(N), np.arange(N))) * 1.0}
NESTED = [
    *((sg.he, CHIP | {"annotation": HALVES}, name, None) for name in ("annotation", "n_blocks", "n_probes", "seed")),
    (sg.he, CHIP, "markers", "chip"),
    *((sg.he, APART, name, None) for name in ("distance", "correction", "permutations", "weights")),
    *((sg.he, {"method": "rerehe"}, "subsample", key) for key in ("ratio", "times", "rule", "unit", "replace")),
    *((f, {}, "relmat", "line") for f in (sg.he, sg.slam)),
    *((sg.netgsa, {"method": "rerehe"}, "subsample", key) for key in ("samples", "genes", "times")),
    (sg.netgsa, {}, "networks", "condition1"),
    (sg.netgsa, {}, "pathways", "a"),
]


@pytest.mark.parametrize(("function", "beside", "name", "key"), NESTED, ids=lambda v: getattr(v, "__name__", None))
def test_wrong_values_beside_others(function, beside, name, key):
    """An own error, or a value that may be; a missing entry or text is no part of any of them."""
    for what, value in WRONG.items():
        given = CALLS[function].get(name)
        whole = value if key is None else {**(given if isinstance(given, dict) else {}), key: value}
        try:
            call(function, **(beside | {name: whole}))
        except SlamError as error:
            said = len(str(error))
        else:
            said = None
        if said is None:
            assert what in {"none", "zero", "true"}, f"{name}={whole!r} ran"
        else:
            assert 15 < said < 1000


@pytest.mark.parametrize("label", [{}, ["a"], np.zeros(2), pd.DataFrame()], ids=lambda v: type(v).__name__)
def test_groups_of_samples_are_names(label):
    with pytest.raises(DataError, match=r"groups has the entry .*: expected names or numbers of conditions"):
        call(sg.netgsa, groups=[label] * 4 + ["b"] * 3)


def test_a_missing_entry_is_no_member():
    """Of a bin of markers, or of a pathway; as a boolean it would be."""
    bins = HALVES.astype(float)
    bins.iloc[3, 1] = np.nan
    with pytest.raises(
        DataError, match=r"annotation holds nan \(1 of 40 entries are neither 0 nor 1\): expected 1 where"
    ):
        call(sg.he, **CHIP, annotation=bins)
    genes = GENES.expression.index
    table = pd.DataFrame(np.eye(2, len(genes)), index=["a", "b"], columns=genes)
    table.iloc[0, 4] = np.nan
    for form in (table, table.to_numpy()):
        with pytest.raises(DataError, match=r"pathways holds nan \(1 of 16 entries are neither 0 nor 1\)"):
            call(sg.netgsa, pathways=form)


def legal(function, name):
    """Values that the annotation of an option allows and that cost little."""
    parameter = inspect.signature(function).parameters[name]
    values = [] if parameter.default is inspect.Parameter.empty else [parameter.default]
    annotation = str(parameter.annotation)
    for listed in re.findall(r"Literal\[([^\]]*)\]", annotation):
        values += [word.strip(" '\"") for word in listed.split(",")]
    if annotation.startswith("bool"):
        values += [True, False]
    return values


@pytest.mark.parametrize("function", [sg.slam, sg.sparse_lmm, sg.mr_mash], ids=lambda f: f.__name__)
def test_several_options_at_once(function):
    """100 calls with three options changed, to values that may be more often than not: checks that lean on others."""
    rng, names = np.random.default_rng(20), [name for name in options(function) if name not in ("data", "n_jobs")]
    large = {"draws", "burn", "chains", "max_iter"}
    ran = 0
    for _ in range(100):
        changes = {}
        for name in rng.choice(names, 3, replace=False):
            values = [] if name in large else legal(function, name)
            wrong = not values or rng.random() < 0.2
            changes[name] = rng.choice(list(WRONG)) if wrong else values[rng.integers(len(values))]
            changes[name] = WRONG[changes[name]] if wrong else changes[name]
        try:
            call(function, **changes)
        except SlamError:
            continue
        ran += 1
    assert ran > 3


# Found by attack, each of which ran or ended in a raw error: what the message says.
REFUSED = [
    (sg.slam, {"draws": True}, "draws=True: expected an integer of at least 1"),
    (sg.slam, {"draws": -1}, "draws=-1: expected an integer of at least 1"),
    (sg.slam, {"chains": 0}, "chains=0: expected an integer of at least 1"),
    (sg.slam, {"thin": 0}, "thin=0: expected an integer of at least 1"),
    (sg.slam, {"n_threads": 1.5}, "n_threads=1.5: expected an integer of at least 1, or None"),
    (sg.slam, {"progress": "a"}, "progress='a': expected True, False or None"),
    (sg.slam, {"store": 3}, r"store=3: expected names of what to keep, such as \('h2', 'G_diag'\)"),
    (sg.slam, {"store": []}, "store=.*: expected names of what to keep"),
    (sg.slam, {"missing_memory": "a"}, "missing_memory='a': expected bytes, 0 or more"),
    (sg.slam, {"priors": {}}, r"priors=\{\}: expected slamglmm.Priors"),
    (sg.slam, {"n_factors": True}, "n_factors=True: expected 'adaptive' or an integer from 0"),
    (sg.slam, {"h2_grid": True}, "h2_grid=True: expected an integer of at least 2"),
    (sg.slam, {"relmat": K}, r"relmat must be a dict \{'group': matrix\}, got DataFrame. Write relmat="),
    (sg.slam, {"relmat": [K]}, r"relmat must be a dict \{'group': matrix\}, got list. Write relmat="),
    (sg.slam, {"relmat": {3: K}}, "relmat has the key 3: expected names of grouping factors"),
    (sg.slam, {"link": "binomial"}, r"slamglmm.links.Binomial\(trials=frame\['trials'\]\).*cbind\(.*link='bernoulli'"),
    (sg.slam, {"link": "probes"}, r"link='probes' needs options: write link=slamglmm.links.Probes\(genes\)"),
    (sg.slam, {"link": sg.links.Poisson}, r"link=Poisson: .* the class itself. Write link=slamglmm.links.Poisson\(\)"),
    (sg.sparse_lmm, {"relmat": K}, r"relmat must be a dict \{'group': matrix\}, got DataFrame. Write relmat="),
    (sg.sparse_lmm, {"seed": "a"}, "seed='a': expected an integer of at least 0, or None"),
    (sg.sparse_lmm, {"out": 3}, "out=3: expected the path of a file or folder, or None"),
    (sg.sparse_lmm, {"standardize": "a"}, "standardize='a': expected True or False"),
    (sg.sparse_lmm, {"max_iter": 1.5}, "max_iter=1.5: expected an integer of at least 1"),
    (sg.sparse_lmm, {"max_iter": None}, "max_iter=None: expected an integer of at least 1"),
    (sg.sparse_lmm, {"n_threads": 1.5}, "n_threads=1.5: expected an integer of at least 1, or None"),
    (sg.sparse_lmm, {"log_odds": "a"}, r"log_odds='a': expected a finite number, or one for each marker \(20\)"),
    (sg.sparse_lmm, {"tol": "a"}, "tol='a': expected a finite positive number"),
    (sg.sparse_lmm, {"n_jobs": 0}, "n_jobs=0: expected the number of responses at the same time, or -1"),
    (sg.mr_mash, {"rank": 0}, "rank=0: expected an integer of at least 1, or None. Rank 0 is residual_cov='spherical'"),
    (sg.mr_mash, {"rank": 1.5}, "rank=1.5: expected an integer of at least 1"),
    (sg.mr_mash, {"null": "a"}, "null='a': expected True or False"),
    (sg.mr_mash, {"tol": "a"}, "tol='a': expected a finite positive number"),
    (sg.mr_mash, {"max_iter": 1.5}, "max_iter=1.5: expected an integer of at least 1"),
    (sg.mr_mash, {"covariances": {"a": "x"}}, "covariance 'a' is 'x': expected a 3 x 3 matrix"),
    (sg.sparse_lmm, {"log_odds": True}, "log_odds=True: expected a finite number"),
    (sg.mr_mash, {"grid": True}, "grid must be positive variances, or 'auto', got True"),
    (sg.mr_mash, {"grid": "a"}, "grid must be 'auto' or variances, got 'a'"),
    (sg.mr_mash, {"residual_cov": np.full((3, 3), np.nan)}, "residual_cov must be finite"),
    (sg.he, {"method": "minque"}, "method='minque': expected 'rehe', 'he', 'rerehe', 'reml' or 'ml'"),
    (sg.he, {"correction": MARKERS}, r"correction=<DataFrame of shape \(12, 20\)>: expected 'sqrt', 'lingoes' or None"),
    (sg.he, {"n_blocks": 1}, "n_blocks=1: expected an integer of at least 2"),
    (sg.he, {"subsample": {"people": 1}}, "subsample has 'people'; it knows ratio, times, rule, unit, replace"),
    (
        sg.he,
        {"subsample": {"rule": MARKERS}},
        r"subsample\['rule'\]=<DataFrame .*: expected 'pooled', 'mean' or 'median'",
    ),
    (sg.netgsa, {"method": "reml"}, "method='reml': expected 'rehe', 'he' or 'rerehe'"),
    (sg.netgsa, {"subsample": 3}, r"subsample=3: expected a dict such as \{'samples': 0.2, 'times': 50\}"),
    (
        sg.netgsa,
        {"subsample": {"genes": 2}},
        r"subsample\['genes'\]=2: expected a finite number above 0 and of at most 1",
    ),
    (sg.netgsa, {"fdr": "bogus"}, "fdr='bogus': expected a method of statsmodels' multipletests, such as 'fdr_bh'"),
    (sg.netgsa, {"directed": "a"}, "directed='a': expected True, False or None"),
    (sg.cross_validate, {"n_jobs": 0}, "n_jobs=0.: expected the number of folds at the same time, or -1"),
    (sg.cross_validate, {"predict": 3}, "predict=3.: expected a function from a fit to predictions"),
    (sg.cross_validate, {"predict": lambda fit: None}, "predict= returned None: expected numbers, row × trait"),
    (sg.cross_validate, {"fitter": sg.netgsa}, r"fitter=netgsa: expected a function of \(formula, data, Y=..."),
    (sg.cross_validate, {"relmats": 3}, r"slam\(\) has no option 'relmats'. Did you mean relmat=\?"),
    (sg.cross_validate, {"seed": 1.5}, "seed=1.5.: expected an integer of at least 0"),
    (sg.simulate.slam, {"families": 1.5}, r"simulate.slam\(families=1.5\): expected an integer of at least 1"),
    (sg.simulate.slam, {"families": "a"}, r"simulate.slam\(families='a'\): expected an integer of at least 1"),
    (sg.simulate.slam, {"seed": -1}, "seed=-1.: expected an integer of at least 0, a numpy.random.Generator, or None"),
    (sg.simulate.slam, {"seed": "a"}, "seed='a'.: expected an integer of at least 0"),
    (sg.simulate.slam, {"missing": "a"}, "missing='a'.: expected a finite number of at least 0 and below 1"),
    (sg.simulate.slam, {"resid_h2": "a"}, "resid_h2='a'.: expected a finite number, or two of them"),
    (sg.simulate.slam, {"relmat": 3}, r"relmat must be a dict \{'group': matrix\}, got int"),
    (sg.simulate.curves, {"span": (1, 0)}, r"span=\(1, 0\).: expected the first and the last time"),
    (sg.simulate.microbiome, {"depth": -1}, r"simulate.microbiome\(depth=-1\): expected an integer of at least 1"),
    (sg.simulate.microbiome, {"n_taxa": 0}, r"simulate.microbiome\(n_taxa=0\): expected an integer of at least 1"),
    (sg.simulate.ace, {"additive": "a"}, r"simulate.ace\(additive='a'\): expected a finite number of at least 0"),
    (sg.simulate.netgsa, {"n_samples": (0, 0)}, "expected the number of samples of each condition, at least 1 each"),
]


@pytest.mark.parametrize(("function", "changes", "text"), REFUSED)
def test_messages_say_what_was_expected(function, changes, text):
    with pytest.raises(OptionError, match=text):
        call(function, **changes)


# Words of other packages, or of another fitter here: what the message says.
WORDS = [
    (sg.slam, "family", "Write link='poisson'"),
    (sg.slam, "weights", r"link=slamglmm.links.GaussianWeights\(weights\)"),
    (sg.slam, "REML", r"slamglmm.he\(formula, data, method='reml'\)"),
    (sg.slam, "nitt", "draws= for the draws kept of each chain, burn="),
    (sg.slam, "warmup", "Write burn=."),
    (sg.slam, "cores", "Write n_jobs=."),
    (sg.slam, "ginverse", "Write relmat=."),
    (sg.slam, "random", "Random effects stand in the formula"),
    (sg.slam, "prior", "Write priors=."),
    (sg.slam, "n_factor", r"Did you mean n_factors=\?"),
    (sg.slam, "qqqqqq", "Its options are formula, data, Y, relmat"),
    (sg.he, "REML", "Write method='reml', or method='ml'"),
    (sg.he, "family", r"slamglmm.slam\(..., link='poisson'\)"),
    (sg.sparse_lmm, "link", "Write family='gaussian' or 'binomial'"),
    (sg.sparse_lmm, "genotypes", "Write markers=."),
    (sg.mr_mash, "seed", "draws nothing, so the same call gives the same numbers: leave seed out"),
    (sg.mr_mash, "relmat", "takes no random effects"),
    (sg.netgsa, "Y", "Write expression="),
]


@pytest.mark.parametrize(("function", "word", "text"), WORDS)
def test_words_of_other_packages(function, word, text):
    """Still a TypeError, as Python has it, and an own error."""
    with pytest.raises(KeywordError, match=text) as caught:
        function("~ x", FRAME, **{word: 1})
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith(f"{function.__name__}() has no option {word!r}. ")


def test_calls_that_lack_something():
    with pytest.raises(KeywordError, match=r"slam\(\) takes formula, data in this order, and all else by name"):
        sg.slam("~ x", FRAME, Y)
    with pytest.raises(KeywordError, match=r"sparse_lmm\(\) needs markers: write sparse_lmm\(markers=..., ...\)"):
        sg.sparse_lmm("y ~ x", FRAME)
    with pytest.raises(KeywordError, match=r"slam.* got data twice, by its place and by its name"):
        sg.slam("~ x", FRAME, data=FRAME)


def test_signatures_can_be_looked_at():
    """The check of keywords does not hide names, defaults or annotations from help() and editors."""
    for function in (sg.slam, sg.he, sg.netgsa, sg.sparse_lmm, sg.mr_mash):
        assert "args" not in inspect.signature(function).parameters
        assert "kwargs" not in inspect.signature(function).parameters
        assert function.__doc__
        assert "formula" in typing.get_type_hints(function) or function is sg.netgsa


def test_every_piece_of_advice_names_something_real():
    """Words that no function has, and options that do exist."""
    from slamglmm.keywords import ADVICE, NAMES

    of = {name: set(options(getattr(sg, name))) for name in ("slam", "he", "netgsa", "sparse_lmm", "mr_mash")}
    everywhere = set.union(*of.values())
    assert {name for names in NAMES.values() for name in names} <= everywhere
    for function, advice in ADVICE.items():
        for word, text in advice.items():
            assert word not in of.get(function, ())
            if function:
                known = of[function] | of["slam"] | of["he"] | of["sparse_lmm"]
                assert set(re.findall(r"\b(\w+)=", text)) <= known | {"trials"}


# -- results ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fits():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = (*sg.DEFAULT_STORE, "U")
        return {
            "slam": call(sg.slam, store=store),
            "sparse_lmm": call(sg.sparse_lmm),
            "sparse_lmm of several": call(sg.sparse_lmm, formula="~ x", Y=Y),
            "he": sg.he("~ (1 | line)", FRAME, Y=Y, relmat={"line": K}, se="bootstrap", n_draws=4, seed=1),
        }


def intervals():
    """Methods that take the mass of an interval, whatever they call it."""
    from slamglmm.results.posterior import SlamResult
    from slamglmm.results.varcomp import HeResult
    from slamglmm.results.variational import SparseLmmFits, SparseLmmResult

    owners = {
        "slam": SlamResult,
        "sparse_lmm": SparseLmmResult,
        "sparse_lmm of several": SparseLmmFits,
        "he": HeResult,
    }
    for key, owner in owners.items():
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            for word in ("prob", "interval", "level"):
                if not name.startswith("_") and word in inspect.signature(method).parameters:
                    yield pytest.param(key, name, word, id=f"{key}.{name}-{word}")


@pytest.mark.parametrize(("key", "method", "word"), list(intervals()))
@pytest.mark.parametrize("value", ["a", 0, 1, 95, -0.5, float("nan"), True, (0.9,), np.array([0.5, 0.9])], ids=repr)
def test_mass_of_an_interval(fits, key, method, word, value):
    """Strictly between 0 and 1."""
    needs = {"curve_variances": {"newdata": FRAME}}.get(method, {})
    text = f"{word}=.*: expected a probability between 0 and 1"
    with pytest.raises(OptionError, match=text):
        getattr(fits[key], method)(**needs, **{word: value})


def test_extend_checks_its_options(fits):
    with pytest.raises(OptionError, match=r"extend\(draws=0\): expected an integer of at least 1"):
        fits["slam"].extend(0)
    with pytest.raises(OptionError, match=r"extend\(draws=1.5\): expected an integer of at least 1"):
        fits["slam"].extend(1.5)


# -- links and matrices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: sg.links.NegativeBinomial(prior=("a", 1)),
            "expected two finite positive numbers",
        ),
        (lambda: sg.links.NegativeBinomial(prior=3), "expected two finite positive numbers"),
        (lambda: sg.links.Ordinal(cut_sd="a"), r"Ordinal\(cut_sd='a'\): expected a finite positive number"),
        (lambda: sg.links.Ordinal(categories=3), r"Ordinal\(categories=3\): expected at least two integers"),
        (lambda: sg.links.Ordinal(categories="ab"), "expected at least two integers in increasing order"),
        (lambda: sg.links.Probes({}, noise_V="a"), r"Probes\(noise_V='a'\): expected a finite positive number"),
        (lambda: sg.links.Probes({}, noise_nu=1), r"Probes\(noise_nu=1\): expected a finite number above 1"),
        (lambda: sg.Relmat(pd.Index(LINES[:10]), np.ones((3, 10))), "expected a matrix of 10 × 10 for 10 labels"),
        (lambda: sg.Relmat(pd.Index(LINES), np.nan), "Relmat: expected labels .* then the matrix .* then float"),
        (lambda: sg.Relmat(pd.Index(LINES), np.full((N, N), np.nan)), "expected finite numbers in the matrix"),
    ],
)
def test_links_and_matrices(make, text):
    with pytest.raises(SlamError, match=text):
        make()


@pytest.mark.parametrize("limits", [float("nan"), {"t1": float("nan")}, {"t1": "a"}, np.full(N, np.nan)], ids=repr)
def test_a_limit_that_is_none(limits):
    """Nothing would be censored, without a word."""
    with pytest.raises(OptionError, match=r"censored: left= (has .* for 't1': expected a number|is NaN everywhere)"):
        call(sg.slam, link=sg.links.Censored(left=limits))


def test_infinite_weights_are_the_identity():
    """Infinity says that a value is the latent trait itself: allowed, and the same chain."""
    weighted, plain = call(sg.slam, link=sg.links.GaussianWeights(np.inf)), call(sg.slam)
    assert np.isfinite(weighted.h2().to_numpy()).all()
    assert plain.posterior["h2"].shape == weighted.posterior["h2"].shape

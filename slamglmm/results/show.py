"""All text and HTML that results print; tables are statsmodels' `SimpleTable`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import OptionError
from .alignment import factors_carrying

if TYPE_CHECKING:
    from .base import Result
    from .posterior import SlamResult
    from .varcomp import HeResult, NetgsaResult
    from .variational import MrMashResult, SparseLmmFits, SparseLmmResult, VariationalResult

# Rows of a printed table; the frame has all of them.
PRINTED_ROWS = 30
# "good" asks for these of every quantity (Vehtari et al. 2021); from the second R-hat on, chains are in different
# places.
LARGEST_R_HAT, DISAGREE = 1.01, 1.05
SMALLEST_ESS = 400


@dataclass(frozen=True, eq=False, repr=False)
class Summary:
    """A title, lines of facts, and tables; prints as text, shows as HTML in a notebook.

    Attributes
    ----------
    title : str
    facts : tuple of (str, str)
    tables : tuple of (str, DataFrame)
        Caption and content; the first is what `to_frame` returns.
    remarks : tuple of str
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[tuple[str, pd.DataFrame], ...]
    remarks: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """The main table."""
        return self.tables[0][1].copy()

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.facts)
        lines = [self.title, "=" * len(self.title)]
        lines += [f"{name:<{width}}  {value}" for name, value in self.facts]
        for caption, frame in self.tables:
            lines += ["", _simple_table(frame, caption).as_text()]
            lines += _cut(frame)
        lines += ["", *(f"* {remark}" for remark in self.remarks)] if self.remarks else []
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts)
        parts = [f"<h4>{escape(self.title)}</h4><table>{rows}</table>"]
        for caption, frame in self.tables:
            parts.append(_simple_table(frame, caption).as_html())
            parts += [f"<p>{escape(line)}</p>" for line in _cut(frame)]
        if self.remarks:
            parts.append("<ul>" + "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks) + "</ul>")
        return "\n".join(parts)


def number(value: object) -> str:
    """A cell: text as it is, numbers with four significant digits, missing as a dash."""
    if isinstance(value, str):
        return value
    if not isinstance(value, float):  # NumPy's float64 is one
        return str(value)
    if not np.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _simple_table(frame: pd.DataFrame, caption: str):  # type: ignore[no-untyped-def]
    from statsmodels.iolib.table import SimpleTable

    shown = frame.head(PRINTED_ROWS)
    data = [[number(v) for v in row] for row in shown.itertuples(index=False)]
    stubs = [" ".join(map(str, i)) if isinstance(i, tuple) else str(i) for i in shown.index]
    return SimpleTable(data, headers=[str(c) for c in frame.columns], stubs=stubs, title=caption)


def _cut(frame: pd.DataFrame) -> list[str]:
    left = len(frame) - PRINTED_ROWS
    return [f"... {left} more rows in to_frame()"] if left > 0 else []


def slam_summary(fit: SlamResult, prob: float) -> Summary:
    """Summary of a SLAM fit."""
    title = "SLAM: sparse factor mixed model"
    posterior, design = fit.posterior, fit.design
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    dropped = f" ({design.n_dropped} dropped: {_reasons(design.dropped_because)})" if design.n_dropped else ""
    facts = [
        ("formula", design.formula),
        ("rows", f"{design.n}{dropped}"),
        ("traits", str(len(fit.traits))),
        ("random effects", ", ".join(c.label for c in fit.components) or "none"),
        ("factors", f"{posterior.sizes['factor']}{_used_factors(fit)}"),
        (
            "draws",
            f"{chains} chain(s) × {draws}, after {fit.options['burn']} burn-in, thin {fit.options['thin']}; "
            f"{fit.seconds:.1f} s",
        ),
    ]
    try:
        table, diagnostics = fit.h2(prob), fit.diagnostics()
    except OptionError as error:
        kept = {name: [" × ".join(map(str, v.dims)), v.nbytes / 2**20] for name, v in posterior.items()}
        table = pd.DataFrame.from_dict(kept, orient="index", columns=["dimensions", "MiB"])
        return Summary(title, tuple(facts), (("What was kept", table),), (*fit.notes, str(error)))
    facts.append(("convergence", _convergence(fit, diagnostics)))
    variable, caption = "h2", "Variance shares (h2)"
    if not fit.components:
        variable, caption, table = "R", "Residual variances", fit.varcorr(prob).drop(columns="share")
    for column in ("ess_bulk", "r_hat"):
        table[column] = diagnostics.loc[variable].loc[table.index, column].to_numpy()
    if variable == "h2" and fit.prior_only:
        table["remark"] = np.where(table.index.isin(fit.prior_only), "prior only", "")
    tables = [(f"{caption}, posterior mean and {prob:.0%} interval", table)]
    worst = diagnostics.sort_values("ess_bulk").head(3)[["mean", "sd", "mcse", "ess_bulk", "ess_tail", "r_hat"]]
    tables.append(("Smallest effective sample sizes", worst))
    return Summary(title, tuple(facts), tuple(tables), fit.notes)


def _reasons(because: dict[str, int]) -> str:
    return ", ".join(f"{column} missing in {count}" for column, count in because.items())


def _used_factors(fit: SlamResult) -> str:
    """Mean over draws of how many factors it takes to explain 99 % of what all factors explain."""
    if "Lambda" not in fit.posterior:
        return ""
    if fit.posterior.sizes["factor"] == 0:
        return ""
    used = np.mean(factors_carrying(fit.posterior["Lambda"].to_numpy()))
    return f" ({used:.1f} carry 99 % of the shared variance)"


def _convergence(fit: SlamResult, diagnostics: pd.DataFrame) -> str:
    """How far the draws can be relied on: "good" only when all that is printed can, otherwise what to do about it."""
    moving = diagnostics[np.isfinite(diagnostics["r_hat"])]
    if moving.empty:
        return "not assessed (fewer than four draws)"
    worst, (bulk, tail) = moving["r_hat"].max(), moving[["ess_bulk", "ess_tail"]].min()
    facts = f"worst R-hat {worst:.3f}, smallest ESS {bulk:.0f} (bulk) and {tail:.0f} (tail): "
    chains, draws = fit.posterior.sizes["chain"], fit.posterior.sizes["draw"]
    if worst >= DISAGREE:
        burn = max(2 * fit.options["burn"], draws)
        return facts + (
            f"chains disagree, so do not read the tables yet: refit with a longer burn-in (burn={burn}), and with more "
            "draws or thin"
        )
    # R-hat - 1 falls, and effective sample sizes grow, in proportion to the draws.
    times = max((worst - 1.0) / (LARGEST_R_HAT - 1.0), SMALLEST_ESS / min(bulk, tail))
    if worst >= LARGEST_R_HAT or min(bulk, tail) < SMALLEST_ESS:
        total = _round_up(draws * times)
        longer = _round_up(times * fit.options["thin"])
        return facts + (
            f"not enough for R-hat below {LARGEST_R_HAT} and {SMALLEST_ESS} effective draws of everything, which takes "
            f"about {total} draws a chain: fit.extend({total - draws}), or refit with thin={longer}"
        )
    if chains == 1:
        return facts + "no verdict, as one chain cannot show that others would agree: refit with chains=2 or more"
    still = _never_moved(fit, diagnostics)
    if len(still):
        return facts + (
            f"good but for {len(still)} quantities that have one value in all draws (first: "
            f"{' '.join(map(str, still[0]))}), whose intervals mean nothing: see the notes"
        )
    return facts + "good"


def _never_moved(fit: SlamResult, diagnostics: pd.DataFrame) -> pd.Index:
    """Quantities of a single value, but for random effects whose share the prior allows no other."""
    still = diagnostics.index[diagnostics["sd"] <= 1e-12 * diagnostics["mean"].abs()]
    allowed = fit.grid[fit.grid["prior_traits"] > 0.0]
    fixed = [c.label for c in fit.components if np.ptp(allowed[c.label].to_numpy()) == 0.0]
    return still[~still.get_level_values("term").isin(fixed)]


def _round_up(value: float) -> int:
    """To two digits."""
    unit = 10 ** max(0, int(np.floor(np.log10(max(value, 1.0)))) - 1)
    return int(np.ceil(value / unit - 1e-9) * unit)


HE_METHODS = {
    "he": "Haseman-Elston regression (moments, unconstrained)",
    "rehe": "REHE: Haseman-Elston regression, variances not below zero",
    "rerehe": "reREHE: REHE from subsamples",
    "reml": "REML",
    "ml": "Maximum likelihood",
}
HE_INNER = {"full": "all pairs", "triangle": "upper triangle with diagonal", "offdiag": "pairs of different rows only"}


def he_summary(fit: HeResult) -> Summary:
    """Summary of variance components."""
    design, options = fit.design, fit.options
    dropped = f" ({design.n_dropped} dropped: {_reasons(design.dropped_because)})" if design.n_dropped else ""
    facts = [
        ("formula", design.formula),
        ("rows", f"{design.n}{dropped}"),
        ("traits", str(len(fit.traits)) if design.Y is not None else "a distance between rows"),
        ("fixed effects", f"{design.X.shape[1]} columns" + ("" if options["project"] else ", not projected")),
        ("seconds", f"{fit.seconds:.3g}"),
    ]
    if fit.loglik:
        facts.insert(4, ("log likelihood", ", ".join(f"{value:.6g}" for value in fit.loglik[:4])))
    else:
        facts.insert(4, ("inner product", HE_INNER[options["inner"]]))
    table = fit.varcorr()
    if len(fit.traits) == 1:
        table = table.droplevel("trait")
    tables = [("Variance components", table)]
    return Summary(HE_METHODS[options["method"]], tuple(facts), tuple(tables), fit.notes)


def netgsa_summary(fit: NetgsaResult) -> Summary:
    """Summary of pathway tests."""
    sizes = ", ".join(f"{name} ({n})" for name, n in zip(fit.conditions, fit.n_samples, strict=True))
    facts = (
        ("genes", str(len(fit.genes))),
        ("conditions", sizes),
        ("variance of genes", f"{fit.sigma2_gamma:.4g}"),
        ("variance of noise", f"{fit.sigma2_epsilon:.4g}"),
        ("seconds", f"{fit.seconds:.3g}"),
    )
    return Summary("NetGSA: pathway tests on networks", facts, (("Pathways", fit.table),), fit.notes)


def sparse_lmm_summary(fit: SparseLmmResult, prob: float) -> Summary:
    """Summary of a sparse linear mixed model.

    Parameters
    ----------
    fit : SparseLmmResult
    prob : float
        Mass of the interval of the share of variance explained.
    """
    pve = fit.pve(prob)
    found = fit.pip.sort_values(ascending=False, kind="stable")
    top = found.index[:10] if len(found) > 10 else found.index
    table = pd.DataFrame({"pip": fit.pip[top], "coef": fit.coef[top], "sd": fit.coef_sd[top]})
    facts = [
        *_design_facts(fit),
        ("markers", f"{len(fit.pip)}; {(fit.pip > 0.5).sum()} with PIP > 0.5, sum of PIP {fit.pip.sum():.1f}"),
        ("family", fit.family),
        ("explained", f"{pve['mean']:.3f} of the variance ({prob:.0%}: {pve['lower']:.3f} to {pve['upper']:.3f})"),
        ("residual variance", number(fit.residual_var)),
        ("prior", f"pi {number(fit.pi)}, variance of an effect {number(fit.prior_var)} × residual"),
        ("bound", f"{fit.elbo[-1]:.3f}, {_sweeps(fit)}"),
    ]
    if fit.share is not None:
        facts.append(("random effect", f"{fit.design.terms[0].label}, share {fit.share:.3f} of the rest"))
    tables = (("Markers with the highest inclusion probability", table), ("Covariates", fit.fixef()))
    return Summary("Sparse linear mixed model", tuple(facts), tables, fit.notes)


def sparse_lmm_fits_summary(fits: SparseLmmFits, prob: float) -> Summary:
    """Summary of sparse linear mixed models of several responses.

    Parameters
    ----------
    fits : SparseLmmFits
    prob : float
        Mass of the interval of the share of variance explained.
    """
    rows = {
        trait: {
            "markers with PIP > 0.5": int((fit.pip > 0.5).sum()),
            "sum of PIP": fit.pip.sum(),
            "explained": explained["mean"],
            "lower": explained["lower"],
            "upper": explained["upper"],
            "residual variance": fit.residual_var,
            "pi": fit.pi,
            "sweeps": len(fit.elbo),
        }
        for (trait, fit), (_, explained) in zip(fits.items(), fits.pve(prob).iterrows(), strict=True)
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "response"
    facts = (
        *_design_facts(fits),
        ("responses", str(len(fits))),
        ("markers", str(len(fits.pip))),
        ("explained", f"share of the variance after covariates, with the limits of {prob:.0%}"),
        ("seconds", f"{fits.seconds:.2f}"),
    )
    return Summary("Sparse linear mixed models, response by response", facts, (("Responses", table),), fits.notes)


def mr_mash_summary(fit: MrMashResult) -> Summary:
    """Summary of a multivariate regression with a mixture of covariances.

    Parameters
    ----------
    fit : MrMashResult
    """
    best = fit.lfsr.min(axis=1)
    top = best.sort_values(kind="stable").index[:10]
    table = pd.DataFrame(
        {
            "min lfsr": best[top],
            "responses with lfsr < 0.05": (fit.lfsr.loc[top] < 0.05).sum(axis=1),
            "largest effect": fit.coef.loc[top].abs().max(axis=1),
            "on": fit.coef.loc[top].abs().idxmax(axis=1).astype(str),
        }
    )
    weights = fit.covariance_weights.sort_values(ascending=False).to_frame()
    filled = fit.design.Y.isna().to_numpy().sum() if fit.design.Y is not None else 0
    kind = fit.options["residual_cov"]
    facts = [
        *_design_facts(fit),
        ("responses", f"{len(fit.design.traits)}" + (f" ({filled} cells missing, filled)" if filled else "")),
        ("markers", f"{len(fit.null)}; {(best < 0.05).sum()} with a local false sign rate below 0.05"),
        ("prior", f"{len(fit.weights)} components: {len(fit.prior.names)} covariances × {len(fit.prior.grid)} sizes"),
        ("residual covariance", kind if isinstance(kind, str) else "known"),
        ("bound", f"{fit.elbo[-1]:.3f}, {_sweeps(fit)}"),
    ]
    tables = (("Markers with the surest signs", table), ("Weights of the covariances", weights))
    return Summary("Multiple regression with adaptive shrinkage (mr.mash)", tuple(facts), tables, fit.notes)


def _design_facts(fit: Result) -> list[tuple[str, str]]:
    design = fit.design
    dropped = f" ({design.n_dropped} dropped: {_reasons(design.dropped_because)})" if design.n_dropped else ""
    return [("formula", design.formula), ("rows", f"{design.n}{dropped}")]


def _sweeps(fit: VariationalResult) -> str:
    state = "converged" if fit.converged else "NOT converged: raise max_iter"
    return f"{len(fit.elbo)} sweeps, {state}; {fit.seconds:.2f} s"


def html_page(title: str, parts: Sequence[str]) -> str:
    """A self-contained HTML page."""
    style = "body{font-family:sans-serif;max-width:60em;margin:2em auto}td,th{padding:.1em .7em;text-align:right}"
    head = f"<head><meta charset='utf-8'><title>{escape(title)}</title><style>{style}</style></head>"
    return "\n".join(["<!doctype html><html>", head, "<body>", *parts, "</body></html>"])

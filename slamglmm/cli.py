"""The command line: ``demo`` on bundled data, ``fit`` on files of your own, ``summary`` of a saved fit."""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import DataError, OptionError, SlamError, shortlist

if TYPE_CHECKING:
    import pandas as pd

    from .results.posterior import SlamResult

# The list of what a report folder holds; its first line tells a folder of ours from any other.
CONTENTS = "CONTENTS.txt"
CONTENTS_TITLE = "Written by slamglmm; running the command again replaces these files."
LARGEST_R_HAT = 1.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit status: 0, or 2 after an error that the user can mend.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, options.name)
            options.command(options)
    except BrokenPipeError:
        # The reader (such as head) has seen enough; nothing may be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (SlamError, OSError) as error:
        print(f"slamglmm {options.name}: {error}", file=sys.stderr)
        return 2
    return 0


def _show_warning(command: str, message: Warning | str, *_: Any) -> None:
    """A warning as one line: there is no line of code of the user's to point at."""
    print(f"slamglmm {command}: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("slamglmm", description="Mixed models for many traits of related individuals.")
    parser.add_argument("--version", action="version", version=f"slamglmm {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="command")

    demo = commands.add_parser("demo", help="fit 24 metabolites of 162 Arabidopsis lines; takes one to three minutes")
    demo.set_defaults(command=_demo)
    demo.add_argument("--out", type=Path, default=Path("slamglmm-demo"), help="folder for the results (%(default)s)")

    fit = commands.add_parser("fit", help="fit csv files of your own")
    fit.set_defaults(command=_fit)
    fit.add_argument("data", type=Path, help="csv file, one row an individual or record")
    fit.add_argument("formula", help="'y1 + y2 ~ sex + (1 | line)', or '~ sex + (1 | line)' with --traits or --Y")
    traits = fit.add_mutually_exclusive_group()
    traits.add_argument("--traits", help="columns of the data, by commas, or a regular expression they match in full")
    traits.add_argument("--Y", type=Path, help="csv file of the traits, one row for each row of the data")
    fit.add_argument("--id", help="column that labels the rows of the data and of --Y, to match them by label")
    of_group = {"action": "append", "default": [], "metavar": "GROUP=FILE"}
    fit.add_argument("--relmat", **of_group, help="csv file of a relationship matrix with labels on both sides")  # type: ignore[arg-type]
    fit.add_argument("--markers", **of_group, help="csv file of dosages, labels in the first column")  # type: ignore[arg-type]
    fit.add_argument("--pedigree", **of_group, help="csv file with the columns id, dam, sire")  # type: ignore[arg-type]
    fit.add_argument(
        "--link", action="append", default=[], metavar="LINK[=TRAITS]",
        help="distribution of the data, such as poisson; with traits (by commas) of these only, and again for others",
    )  # fmt: skip
    fit.add_argument("--trials", metavar="COLUMN", help="column of the data for link binomial: number of trials")
    fit.add_argument(
        "--size-factors", metavar="COLUMN", help="column for poisson and negative_binomial, or 'library': row sums"
    )
    fit.add_argument("--factors", type=_count_or_adaptive, help="number of factors, or 'adaptive'")
    fit.add_argument("--chains", type=int, default=2, help="number of chains (%(default)s)")
    fit.add_argument("--out", type=Path, required=True, help="folder for the results")

    lengths = {demo: (1000, 5000, 50), fit: (1000, 1000, 1)}
    for command, (draws, burn, thin) in lengths.items():
        command.add_argument("--draws", type=int, default=draws, help="draws kept of each chain (%(default)s)")
        command.add_argument("--burn", type=int, default=burn, help="iterations before them (%(default)s)")
        command.add_argument("--thin", type=int, default=thin, help="iterations from one to the next (%(default)s)")
        command.add_argument("--jobs", type=int, default=2, help="chains run at the same time (%(default)s)")
        command.add_argument("--seed", type=int, default=1, help="same seed, same draws (%(default)s)")

    summary = commands.add_parser("summary", help="print the summary of a saved fit")
    summary.set_defaults(command=_summary)
    summary.add_argument("folder", type=Path, help="folder of demo or fit, or one that fit.save wrote")
    return parser


def _count_or_adaptive(text: str) -> int | str:
    if text == "adaptive":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or 'adaptive', got {text!r}") from None


def _demo(options: argparse.Namespace) -> None:
    import numpy as np

    from . import datasets
    from .api import slam
    from .relmat import kinship

    _refuse_foreign(options.out)
    data = datasets.load("glucosinolates")
    assert data.Y is not None
    print(f"{data.about}\n\nFitting the natural logarithm of the {data.Y.shape[1]} traits ...", flush=True)
    begin = time.perf_counter()
    fit = slam(
        "~ 1 + (1 | line)",
        data.frame,
        # Intensities are positive and skewed; the source analyses their logarithm too.
        Y=np.log(data.Y),
        relmat={"line": kinship(data.markers, method="standardized")},
        n_factors=8,
        chains=2,
        **_run_length(options),
    )
    print(f"\n{fit.summary()}\n")
    print("\n".join(convergence_checks(fit)))
    write_report(fit, options.out)
    print(f"{time.perf_counter() - begin:.0f} s. Wrote {_listing(options.out)}")


def _fit(options: argparse.Namespace) -> None:
    from .api import slam
    from .relmat import kinship, pedigree_relmat

    _refuse_foreign(options.out)
    frame = _table(options.data)
    if options.id is not None:
        frame = _indexed(frame, options.id, options.data)
    Y = None
    if options.Y is not None:
        Y = _table(options.Y)
        if _has_row_names(Y):
            raise OptionError(
                f"--Y {options.Y}: the first column has no name, so it seems to hold row labels. Name it as the column "
                "of the data that --id names, or leave it out (R: write.csv(row.names = FALSE))."
            )
        if options.id is None:
            _refuse_label_columns(Y, options, list(frame.columns))
        else:
            Y = _indexed(Y, options.id, options.Y).drop(columns=options.id)
    elif options.traits is not None:
        Y = frame[_chosen_traits(options.traits, list(frame.columns))]
    relmat: dict[str, Any] = {}
    sources: tuple[tuple[str, list[str], Callable[[Path], Any]], ...] = (
        ("relmat", options.relmat, _labelled),
        ("markers", options.markers, lambda path: kinship(_labelled(path), method="standardized")),
        ("pedigree", options.pedigree, lambda path: pedigree_relmat(_table(path))),
    )
    for option, pairs, read in sources:
        for pair in pairs:
            group, equals, path = pair.partition("=")
            if not (group and equals and path):
                raise OptionError(f"--{option} {pair}: expected GROUP=FILE, such as line=K.csv.")
            if group in relmat:
                raise OptionError(f"--{option} {pair}: group {group!r} has a relationship matrix already.")
            relmat[group] = read(Path(path))
    fit = slam(
        options.formula,
        frame,
        Y=Y,
        relmat=relmat or None,
        link=_link_choice(options, frame),
        n_factors=options.factors,
        chains=options.chains,
        **_run_length(options),
    )
    print(f"{fit.summary()}\n")
    write_report(fit, options.out)
    print(f"Wrote {_listing(options.out)}")


def _link_choice(options: argparse.Namespace, frame: pd.DataFrame) -> Any:
    """What `slam` takes as its links: one for all traits, or each with its traits."""
    from .links import Binomial, Link, NegativeBinomial, Poisson

    # Option of the command line -> the links that take it.
    takers: dict[str, dict[str, Callable[..., Link]]] = {
        "trials": {"binomial": Binomial},
        "size_factors": {"poisson": Poisson, "negative_binomial": NegativeBinomial},
    }
    pairs = [text.partition("=") for text in options.link]
    made: dict[str, Link] = {}
    for option, links in takers.items():
        column = getattr(options, option)
        if column is None:
            continue
        flag, used = f"--{option.replace('_', '-')} {column}", links.keys() & {name for name, _, _ in pairs}
        if not used:
            raise OptionError(f"{flag} goes with --link {' or '.join(links)}.")
        if column not in frame.columns and not (option == "size_factors" and column == "library"):
            raise OptionError(f"{flag}: no such column; the data have {shortlist(frame.columns, 10)}.")
        made |= {name: links[name](frame[column] if column in frame.columns else column) for name in used}
    if not pairs:
        return "identity"
    chosen = [(made.get(name, name), traits.split(",") if equals else None) for name, equals, traits in pairs]
    if len(chosen) == 1 and chosen[0][1] is None:
        return chosen[0][0]
    if any(traits is None for _, traits in chosen):
        raise OptionError("--link: with more than one, give each its traits, as in --link poisson=eggs,ticks.")
    return chosen


def _summary(options: argparse.Namespace) -> None:
    from .results import load

    inside = options.folder / "fit"
    print(load(inside if inside.is_dir() else options.folder).summary())


def convergence_checks(fit: SlamResult) -> list[str]:
    """One line on the worst R-hat of the variance shares, one on that of the variances in G.

    Parameters
    ----------
    fit : SlamResult

    Returns
    -------
    list of str
    """
    table = fit.diagnostics()["r_hat"]
    terms, traits = list(fit.posterior["term"].to_numpy()), list(fit.traits)
    lines = []
    for variable, what in (("h2", "variance shares h2"), ("G", "variances in G")):
        chosen = table.loc[[(variable, term, trait) for term in terms for trait in traits]]
        if not chosen.notna().any():
            lines.append(f"worst R-hat of the {what}: not assessed (too few draws)")
            continue
        _, term, trait = chosen.idxmax()
        limit = LARGEST_R_HAT
        verdict = f"below {limit}" if chosen.max() < limit else f"not below {limit}, draw more"
        lines.append(f"worst R-hat of the {what}: {chosen.max():.3f} ({term}, {trait}): {verdict}")
    return lines


def write_report(fit: SlamResult, folder: Path) -> Path:
    """Write a fit, its tables, its pictures and its summary to a folder.

    Parameters
    ----------
    fit : SlamResult
    folder : Path
        New, empty, or written by this function before: then its files are replaced.

    Returns
    -------
    Path

    Raises
    ------
    DataError
        The folder holds anything else.
    """
    _refuse_foreign(folder)
    _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONTENTS).write_text(CONTENTS_TITLE + "\n")
    fit.save(folder / "fit")
    contents = [("fit", "the saved fit: slamglmm.load(...) reads it")]
    for name, table, about in _tables(fit):
        table.to_csv(folder / name)
        contents.append((name, about))
    summary = fit.summary()
    (folder / "summary.txt").write_text(f"{summary}\n\n" + "\n".join(convergence_checks(fit)) + "\n", encoding="utf-8")
    pictures = _draw_pictures(fit, folder)
    (folder / "summary.html").write_text(_page(fit, folder, pictures), encoding="utf-8")
    contents += [*pictures, ("summary.txt", "summary and convergence"), ("summary.html", "summary and pictures")]
    lines = [f"{name:<28} {about}" for name, about in contents]
    (folder / CONTENTS).write_text("\n".join([CONTENTS_TITLE, "", *lines, ""]), encoding="utf-8")
    return folder


def _tables(fit: SlamResult) -> list[tuple[str, pd.DataFrame, str]]:
    """File name, content and meaning of every table."""
    terms = [str(term) for term in fit.posterior["term"].to_numpy()]
    tables = [("h2.csv", fit.h2(), "share of each random effect in each trait's variance")] if terms else []
    for term in terms:
        of_term = _filename(term)
        tables += [
            (f"G_{of_term}.csv", fit.G(term), f"covariance among traits: '{term}'"),
            (
                "genetic_correlation.csv" if len(terms) == 1 else f"genetic_correlation_{of_term}.csv",
                fit.correlation(term),
                f"correlation among traits: '{term}'",
            ),
            (f"ranef_{of_term}.csv", fit.ranef(term), f"effects of the levels of '{term}' on every trait"),
        ]
    tables += [
        ("R.csv", fit.R(), "residual covariance among traits"),
        ("loadings.csv", fit.loadings(), "loadings, factor x trait, on the scale of the data"),
        ("fixef.csv", fit.fixef(prob=0.9), "fixed effects"),
        ("diagnostics.csv", fit.diagnostics(), "ESS, R-hat and Monte Carlo error"),
    ]
    return tables


def _draw_pictures(fit: SlamResult, folder: Path) -> list[tuple[str, str]]:
    if find_spec("matplotlib") is None:
        print('No pictures: matplotlib is not installed (pip install "slamglmm[plot]").', file=sys.stderr)
        return []
    import matplotlib

    terms = [str(term) for term in fit.posterior["term"].to_numpy()]
    pictures: list[tuple[str, str, Callable[[], Any]]] = []
    if terms:
        pictures += [
            ("trace.png", "draws of the variance shares that mix worst", fit.plot.trace),
            ("h2.png", "variance shares with intervals", fit.plot.h2),
        ]
    for term in terms:
        name = "G.png" if len(terms) == 1 else f"G_{_filename(term)}.png"
        pictures.append((name, f"correlation among traits: '{term}'", partial(fit.plot.G, term)))
    if fit.posterior.sizes["factor"]:
        pictures.append(("loadings.png", "loadings of the factors", fit.plot.loadings))
    # Files only: no window, whatever the user's backend.
    with matplotlib.rc_context():
        matplotlib.use("agg")
        import matplotlib.pyplot as plt

        for name, _, draw in pictures:
            figure = draw().figure
            figure.savefig(folder / name, dpi=120)
            plt.close(figure)
    return [(name, about) for name, about, _ in pictures]


def _page(fit: SlamResult, folder: Path, pictures: Sequence[tuple[str, str]]) -> str:
    from .results.show import html_page

    parts = [fit.summary()._repr_html_()]
    for name, about in pictures:
        code = base64.b64encode((folder / name).read_bytes()).decode()
        parts.append(f'<h4>{about}</h4><img alt="{about}" style="max-width:100%" src="data:image/png;base64,{code}">')
    return html_page("SLAM fit", parts)


def _refuse_foreign(folder: Path) -> None:
    """Refuse to write among files that are not ours; said before a long run, not after it."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the results.")
    listing = folder / CONTENTS
    ours = listing.is_file() and listing.read_text(encoding="utf-8").startswith(CONTENTS_TITLE)
    if any(folder.iterdir()) and not ours:
        raise DataError(f"the folder {folder} holds files that slamglmm did not write; name a new or empty one.")


def _clear(folder: Path) -> None:
    """Remove the files an earlier report lists; fits of other formulas have other names."""
    listing = folder / CONTENTS
    if not listing.is_file():
        return
    for line in listing.read_text(encoding="utf-8").splitlines()[1:]:
        name = line.split(" ", 1)[0]
        if name and (folder / name).is_file() and (folder / name).parent == folder:
            (folder / name).unlink()


def _listing(folder: Path) -> str:
    return f"{folder.resolve()}:\n" + "\n".join(
        f"  {line}" for line in (folder / CONTENTS).read_text(encoding="utf-8").splitlines()[2:]
    )


def _filename(label: str) -> str:
    """A term's label as part of a file name: ``x|g`` becomes ``x_g``."""
    return re.sub(r"[^\w.-]+", "_", label).strip("_")


def _run_length(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "draws": options.draws,
        "burn": options.burn,
        "thin": options.thin,
        "seed": options.seed,
        "n_jobs": options.jobs,
    }


def _indexed(frame: pd.DataFrame, column: str, path: Path) -> pd.DataFrame:
    if column not in frame.columns:
        raise OptionError(f"--id {column}: {path} has no such column; it has {shortlist(frame.columns)}.")
    return frame.set_index(frame[column].to_numpy())


def _refuse_label_columns(Y: pd.DataFrame, options: argparse.Namespace, known: Sequence[str]) -> None:
    """Say how to name a column of --Y that labels its rows: text, or numbers that the formula takes from the data."""
    text = Y.select_dtypes(exclude=["number", "bool"]).columns
    in_formula = set(re.findall(r"[\w.]+", options.formula)).intersection(known)
    named = [name for name in Y.columns if name in in_formula]
    suspects = dict.fromkeys(named, "is in the formula") | dict.fromkeys(text, "is not numeric")
    if not suspects:
        return
    name = min(suspects, key=lambda name: (name not in known, list(Y.columns).index(name)))
    also = "" if name in known else f" and give the data a column {name!r} too"
    raise OptionError(
        f"--Y {options.Y}: column {name!r} {suspects[name]}, so it is no trait. If it labels the rows, write --id "
        f"{name}{also}; otherwise take it out of the file."
    )


def _labelled(path: Path) -> pd.DataFrame:
    """A table with text labels in its first column."""
    return _table(path, index_col=0, converters={0: str})


def _table(path: Path, **how: Any) -> pd.DataFrame:
    """A csv file."""
    import pandas as pd

    try:
        table = pd.read_csv(path, **how)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a csv file with commas and a first line of names; {error}.") from error
    names = [str(name) for name in (table.index.name, *table.columns) if name is not None]
    if len(names) == 1 and re.search(r"[;\t]", names[0]):
        raise DataError(f"{path}: expected commas between columns, got the one column {names[0]!r}.")
    return table


def _has_row_names(table: pd.DataFrame) -> bool:
    """Whether the first column is what pandas and R write without a name for it."""
    return table.shape[1] > 0 and str(table.columns[0]) == "Unnamed: 0"


def _chosen_traits(wanted: str, columns: list[str]) -> list[str]:
    names = [name.strip() for name in wanted.split(",")]
    if all(name in columns for name in names):
        return names
    try:
        matching = [column for column in columns if re.fullmatch(wanted, column)]
    except re.error as error:
        raise OptionError(f"--traits {wanted}: neither columns nor a regular expression ({error}).") from error
    if not matching:
        raise OptionError(f"--traits {wanted}: matches no column; the data have {shortlist(columns, 10)}.")
    return matching

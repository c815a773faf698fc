"""Small real data sets, read from the csv files beside this module; PROVENANCE.md says where each is from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import pandas as pd

from ..errors import DataError, shortlist
from ..options import shown

__all__ = ["Dataset", "load", "names"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set; whatever it does not have is None.

    Attributes
    ----------
    name : str
        What `load` was asked for.
    frame : pandas.DataFrame, n rows
        Covariates and grouping factors (and the response, when there is only one).
    Y : pandas.DataFrame (n x p) or None
        Traits, with the index of `frame`; NaN where not measured.
    markers : pandas.DataFrame (n x m) or None
        Dosages of one allele, with the index of `frame`; NaN where not genotyped.
    map : pandas.DataFrame (m rows) or None
        Columns marker, chromosome (strings) and position_cM, in the order of `markers`.
    about : str
        What it is, units, coding, source and licence.
    """

    name: str
    frame: pd.DataFrame
    Y: pd.DataFrame | None
    markers: pd.DataFrame | None
    map: pd.DataFrame | None
    about: str

    def __repr__(self) -> str:
        parts = [f"frame {self.frame.shape[0]} x {self.frame.shape[1]}"]
        parts += [f"Y {self.Y.shape[0]} x {self.Y.shape[1]}"] if self.Y is not None else []
        parts += [f"markers {self.markers.shape[0]} x {self.markers.shape[1]}"] if self.markers is not None else []
        return f"Dataset({self.name!r}: {', '.join(parts)}; print(.about) tells more)"


_GLUCOSINOLATES = """\
Metabolites of 162 Arabidopsis thaliana recombinant inbred lines (Ler x Cvi, selfed).

frame    162 rows, one a line: line. The labels RIL001 .. RIL162 are the order of the lines in the source,
         which has no names for them.
Y        24 glucosinolates and flavonoids (names as in the source), liquid chromatography - mass spectrometry
         peak intensities on the original, skewed scale (up to 34 623; the source analyses their logarithm).
         No zeros and no negative values. The smallest value, 4, comes up to 92 times in a trait and in 14 of
         the 24 traits, which looks like a floor of detection (our reading; the source does not say).
         RIL001, RIL154, RIL155 and RIL157 have no measurements (NaN in all traits); the other 158 lines have all.
markers  117 markers, 0 for genotype AA and 2 for BB (10 415 and 8 462 cells). Lines are homozygous: there are no
         heterozygotes. 77 cells are missing (NaN). The source does not say which parent is A.
map      5 chromosomes (28, 19, 25, 18, 27 markers); position_cM in centimorgan from the chromosome's first marker.

Source   Keurentjes et al. (2006) The genetics of plant metabolism. Nature Genetics 38:842-849; marker map and lines
         from Alonso-Blanco et al. (1998) Plant Journal 14:259-271. Taken from `multitrait` of the R package qtl 1.58.
Licence  GPL-3 (that of qtl)."""

_SLEEPSTUDY = """\
Reaction times in a sleep deprivation study: 18 subjects on each of 10 days.

frame    180 rows: Reaction (average reaction time, ms), Days (0 to 9), Subject (categorical, 18 levels).
         Days 0 and 1 were adaptation and training, day 2 the baseline; sleep was restricted after day 2.

Source   Belenky et al. (2003) Journal of Sleep Research 12:1-12, the group with 3 hours in bed.
         Taken from `sleepstudy` of the R package lme4 1.1-31.
Licence  GPL (>= 2) (that of lme4)."""

_PENICILLIN = """\
Variation in penicillin testing: 6 samples on each of 24 plates, fully crossed.

frame    144 rows: diameter (of the zone without growth, mm), plate (categorical, a to x), sample (categorical, A to F).

Source   Davies and Goldsmith, eds (1972) Statistical Methods in Research and Production, 4th edition, section 6.6.
         Taken from `Penicillin` of the R package lme4 1.1-31.
Licence  GPL (>= 2) (that of lme4)."""

_PASTES = """\
Strength of a chemical paste: 2 assays of each of 3 casks in each of 10 delivery batches, nested.

frame    60 rows: strength (no unit in the source), batch (categorical, A to J), cask (categorical, a to c, within
         batch), sample (categorical, batch and cask together: A:a to J:c).

Source   Davies and Goldsmith, eds (1972) Statistical Methods in Research and Production, 4th edition, section 6.5.
         Taken from `Pastes` of the R package lme4 1.1-31.
Licence  GPL (>= 2) (that of lme4)."""

_CBPP = """\
Contagious bovine pleuropneumonia: new cases in 15 zebu herds in Ethiopia, over four periods of three months.

frame    56 rows: herd (categorical, 1 to 15), incidence (new serological cases in the herd and period), size (animals
         in the herd at the beginning of the period), period (categorical, 1 to 4). Four herd-periods were lost to
         follow-up.

Source   Lesnoff et al. (2004) Preventive Veterinary Medicine 64:27-40.
         Taken from `cbpp` of the R package lme4 1.1-31.
Licence  GPL (>= 2) (that of lme4)."""

_GROUSETICKS = """\
Ticks on the heads of 403 red grouse chicks from 118 broods at 63 places in Scotland.

frame    403 rows: INDEX (categorical, the chick), TICKS (number of ticks, 0 to 85), BROOD (categorical), HEIGHT (above
         sea level, m), YEAR (categorical, 95 to 97), LOCATION (categorical), cHEIGHT (HEIGHT less its mean).

Source   Elston et al. (2001) Parasitology 122:563-569.
         Taken from `grouseticks` of the R package lme4 1.1-31.
Licence  GPL (>= 2) (that of lme4)."""

_DIETOX = """\
Growth of 72 pigs from 21 litters in a 3 x 3 trial of vitamin E and copper, weighed every week for 12 weeks.

frame    861 rows: Pig (categorical), Evit (categorical: vitamin E, 0, 100 or 200 mg in a kg of feed), Cu (categorical:
         copper, 0, 35 or 175 mg), Litter (categorical), Start (weight in the first week, kg), Weight (kg), Feed (feed
         taken since the first week, kg; missing there), Time (week, 1 to 12). Three pigs have no record of week 12.

Source   Lauridsen, Hojsgaard and Sorensen (1999) Journal of Animal Science 77:906-916.
         Taken from `dietox` of the R package geepack 1.3.9.
Licence  GPL (>= 3) (that of geepack)."""

_AIRWAY = """\
RNA-seq of airway smooth muscle cells: lines from four donors, each without and with dexamethasone.

frame    8 rows, one a sequencing run: run, cell (categorical, the donor's line, 4 levels), dex (categorical, untrt and
         trt), library (reads of the run, summed over all 64 102 genes of the source).
Y        149 genes (Ensembl names), whole counts of reads, 10 to 213 578: six that the drug is known to move (CRISPLD2
         ENSG00000103196, DUSP1 ENSG00000120129, FKBP5 ENSG00000096060, KLF15 ENSG00000163884, PER1 ENSG00000179094,
         TSC22D3 ENSG00000157514), then every hundredth of the 14 221 genes with at least ten reads in every run.

Source   Himes et al. (2014) RNA-Seq transcriptome profiling identifies CRISPLD2 as a glucocorticoid responsive gene
         that modulates cytokine function in airway smooth muscle cells. PLoS ONE 9:e99625.
         Taken from `inmoose.data.airway` of the Python package inmoose 0.9.1.
Licence  GPL (>= 3) (that of inmoose)."""

# name -> (grouping factors, about), for the data sets that are one table
_TABLES = {
    "sleepstudy": (("Subject",), _SLEEPSTUDY),
    "penicillin": (("plate", "sample"), _PENICILLIN),
    "pastes": (("batch", "cask", "sample"), _PASTES),
    "cbpp": (("herd", "period"), _CBPP),
    "grouseticks": (("INDEX", "BROOD", "YEAR", "LOCATION"), _GROUSETICKS),
    "dietox": (("Pig", "Evit", "Cu", "Litter"), _DIETOX),
}


def names() -> list[str]:
    """Names that `load` knows."""
    return ["glucosinolates", *_TABLES, "airway"]


def load(name: str) -> Dataset:
    """Read a data set that comes with the package.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    Dataset
        Read anew each time, so changing it changes nobody else's.

    Raises
    ------
    DataError
        For a name that is not known.

    Examples
    --------
    >>> import slamglmm as sg
    >>> sg.datasets.load("penicillin").frame.shape
    (144, 3)
    """
    if not isinstance(name, str):
        raise DataError(f"load: expected the name of a data set, got {shown(name)}; see slamglmm.datasets.names().")
    if name == "glucosinolates":
        return _glucosinolates()
    if name == "airway":
        return _airway()
    if name in _TABLES:
        return _table(name)
    raise DataError(f"no data set is called {name!r}; there are {shortlist(names(), 20)}.")


def _glucosinolates() -> Dataset:
    traits = _read("glucosinolates_traits.csv").set_index("line").astype(float)
    markers = _read("glucosinolates_markers.csv").set_index("line").astype(float)
    # The index stays without a name: pandas calls 'line' ambiguous when it is a column and the index as well.
    for table in (traits, markers):
        table.index.name = None
    frame = pd.DataFrame({"line": traits.index}, index=traits.index)
    positions = _read("glucosinolates_map.csv", {"chromosome": str})
    return Dataset("glucosinolates", frame, traits, markers, positions, _GLUCOSINOLATES)


def _airway() -> Dataset:
    table = _read("airway.csv").set_index("run", drop=False)
    table.index.name = None
    genes = [name for name in table.columns if name.startswith("ENSG")]
    frame = table.drop(columns=genes)
    for column in ("cell", "dex"):
        frame[column] = _in_order(frame[column])
    return Dataset("airway", frame.astype({"library": float}), table[genes].astype(float), None, None, _AIRWAY)


def _table(name: str) -> Dataset:
    factors, about = _TABLES[name]
    frame = _read(f"{name}.csv", dict.fromkeys(factors, str))
    for column in frame.columns:
        frame[column] = _in_order(frame[column]) if column in factors else frame[column].astype(float)
    return Dataset(name, frame, None, None, None, about)


def _in_order(values: pd.Series) -> pd.Categorical:
    """Levels as they come: their order in R too, but for places of grouseticks, doses and litters of dietox."""
    return pd.Categorical(values, categories=values.unique())


def _read(filename: str, dtype: dict[str, type] | None = None) -> pd.DataFrame:
    with resources.files(__name__).joinpath(filename).open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=dtype)


def __dir__() -> list[str]:
    return sorted(__all__)

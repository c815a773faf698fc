"""The command line on small files: what is read, written, replaced and refused."""

import subprocess
import sys

import matplotlib
import pandas as pd
import pytest

import slamglmm as sg
from slamglmm import cli

matplotlib.use("agg")

SHORT = ["--draws", "8", "--burn", "8", "--jobs", "1", "--factors", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """data.csv (with traits), Y.csv (rows in another order), K.csv, markers.csv, ped.csv."""
    folder = tmp_path_factory.mktemp("files")
    data = sg.simulate.slam(families=6, per_family=4, n_traits=3, n_factors=1, seed=3)
    frame = data.frame.join(data.Y)
    frame.to_csv(folder / "data.csv", index=False)
    shuffled = data.Y.assign(animal=data.frame["animal"]).sample(frac=1, random_state=1)
    shuffled.to_csv(folder / "Y.csv", index=False)
    shuffled.rename(columns={"animal": "who"}).to_csv(folder / "Y_names.csv", index=False)
    data.Y.assign(sire=range(len(data.Y))).to_csv(folder / "Y_numbers.csv", index=False)
    data.relmat["animal"].to_csv(folder / "K.csv")
    data.Y.to_csv(folder / "numbered.csv")
    data.Y.to_csv(folder / "semicolons.csv", index=False, sep=";")
    (folder / "empty.csv").touch()
    pd.DataFrame({"id": frame["animal"], "dam": "", "sire": frame["sire"]}).to_csv(folder / "ped.csv", index=False)
    return folder


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_fit_writes_tables_pictures_and_the_fit(files, tmp_path, capsys):
    """A table that is not the fit's, or a picture left out."""
    out = tmp_path / "out"
    status = run("fit", files / "data.csv", "~ x + (1 | animal)", "--traits", r"trait\d",
                 "--relmat", f"animal={files / 'K.csv'}", "--out", out, *SHORT)  # fmt: skip
    assert status == 0
    fit = sg.load(out / "fit")
    assert list(fit.design.traits) == ["trait1", "trait2", "trait3"]
    read = pd.read_csv(out / "G_animal.csv", index_col=0)
    pd.testing.assert_frame_equal(read, fit.G("animal"), check_names=False)
    effects = pd.read_csv(out / "ranef_animal.csv", index_col=0)
    pd.testing.assert_frame_equal(effects, fit.ranef("animal"), check_names=False)
    listed = [line.split()[0] for line in (out / cli.CONTENTS).read_text().splitlines()[2:]]
    assert sorted([*listed, cli.CONTENTS]) == sorted(path.name for path in out.iterdir())
    for name in ("trace.png", "h2.png", "G.png", "loadings.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert (out / "summary.html").read_text().count("data:image/png;base64,") == 4
    printed = capsys.readouterr().out
    assert "SLAM: sparse factor mixed model" in printed
    assert str(out) in printed


def test_rows_of_two_files_are_matched_by_id(files, tmp_path):
    """Traits given to the wrong individuals."""
    same = {}
    for name, traits in {"inside": ["--traits", "trait1,trait2,trait3"], "beside": ["--Y", files / "Y.csv"]}.items():
        status = run("fit", files / "data.csv", "~ (1 | animal)", *traits, "--id", "animal",
                     "--relmat", f"animal={files / 'K.csv'}", "--out", tmp_path / name, *SHORT)  # fmt: skip
        assert status == 0
        same[name] = sg.load(tmp_path / name / "fit").design.Y
    pd.testing.assert_frame_equal(same["inside"], same["beside"])


def test_number_of_factors(files, tmp_path, capsys):
    """Only numbers, where `slam` knows more."""
    command = [
        "fit",
        files / "data.csv",
        "trait1 + trait2 ~ (1 | sire)",
        "--out",
        tmp_path / "out",
        *SHORT,
        "--factors",
    ]
    assert run(*command, "adaptive") == 0
    assert any("n_factors='adaptive'" in note for note in sg.load(tmp_path / "out" / "fit").notes)
    with pytest.raises(SystemExit):
        run(*command, "many")
    assert "expected a number or 'adaptive', got 'many'" in capsys.readouterr().err


def test_traits_left_of_the_tilde_and_a_pedigree(files, tmp_path):
    """Parents of the pedigree must be levels without records."""
    status = run("fit", files / "data.csv", "trait1 + trait3 ~ (1 | animal)",
                 "--pedigree", f"animal={files / 'ped.csv'}", "--out", tmp_path / "out", *SHORT)  # fmt: skip
    assert status == 0
    fit = sg.load(tmp_path / "out" / "fit")
    assert list(fit.design.traits) == ["trait1", "trait3"]
    assert fit.ranef("animal").shape == (24 + 6, 2)


def test_links_by_name_with_columns_of_the_data(files, tmp_path, capsys):
    """Counts with effort and cases of trials beside a measured trait: the link of the wrong trait, or rows astray."""
    frame = pd.read_csv(files / "data.csv")
    frame["eggs"] = range(1, len(frame) + 1)
    frame["sick"] = [i % 3 for i in range(len(frame))]
    frame["seen"], frame["days"] = 2 + frame["sick"], 1.0 + frame["eggs"] % 4
    frame.to_csv(tmp_path / "kinds.csv", index=False)
    chosen = ["--traits", "trait1,eggs,sick", "--link", "poisson=eggs", "--link", "binomial=sick",
              "--link", "gaussian=trait1"]  # fmt: skip
    command = ["fit", tmp_path / "kinds.csv", "~ (1 | sire)", *SHORT, "--out", tmp_path / "out"]
    assert run(*command, *chosen, "--trials", "seen", "--size-factors", "days") == 0
    choice = sg.load(tmp_path / "out" / "fit").options["link"]
    assert [traits for _, traits in choice] == [["eggs"], ["sick"], ["trait1"]]
    pd.testing.assert_series_equal(choice[0][0].size_factors, frame["days"])
    pd.testing.assert_series_equal(choice[1][0].trials, frame["seen"])
    assert run(*command, "--traits", "eggs", "--link", "poisson", "--size-factors", "library") == 0
    capsys.readouterr()

    def refused(*arguments):
        assert run(*command, *arguments) == 2
        return capsys.readouterr().err

    assert "--trials seen goes with --link binomial." in refused("--traits", "eggs", "--trials", "seen")
    assert "--trials cases: no such column; the data have" in refused(*chosen, "--trials", "cases")
    assert "give each its traits" in refused("--traits", "eggs,sick", "--link", "poisson", "--link", "probit")
    assert "unknown link. Choose one of 'identity'" in refused("--traits", "eggs", "--link", "poison")
    assert "link='binomial' needs options" in refused("--traits", "sick", "--link", "binomial")


def test_no_random_effects_and_no_factors(files, tmp_path):
    """Tables and summaries of nothing."""
    status = run(
        "fit", files / "data.csv", "trait1 + trait2 ~ x", "--out", tmp_path / "out", *SHORT[:-2], "--factors", "0"
    )
    assert status == 0
    assert not (tmp_path / "out" / "h2.csv").exists()
    fit = sg.load(tmp_path / "out" / "fit")
    assert fit.h2().empty
    assert fit.loadings().shape == (0, 2)
    assert fit.varcorr()["share"].to_list() == [1, 1]


def test_another_formula_leaves_no_file_of_the_first(files, tmp_path):
    """Tables of an earlier fit among those of this one."""
    out = tmp_path / "out"
    common = ["--traits", r"trait\d", "--out", out, *SHORT]
    assert run("fit", files / "data.csv", "~ (1 | sire)", *common) == 0
    assert (out / "G_sire.csv").exists()
    assert run("fit", files / "data.csv", "~ (1 | animal)", "--relmat", f"animal={files / 'K.csv'}", *common) == 0
    assert not (out / "G_sire.csv").exists()
    assert (out / "G_animal.csv").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    """A user's files overwritten, or noticed only after the run."""
    (tmp_path / "thesis.tex").write_text("precious")
    assert run("demo", "--out", tmp_path, "--draws", "1", "--burn", "0") == 2
    assert "holds files that slamglmm did not write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert run("demo", "--out", tmp_path / "thesis.tex") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["~ (1 | animal", "--traits", "trait1"], "this parenthesis is never closed"),
        (["~ (1 | animal)", "--traits", "height"], "--traits height: matches no column"),
        (["~ (1 | animal)", "--traits", "("], "neither columns nor a regular expression"),
        (["~ (1 | animal)", "--traits", "trait1", "--relmat", "K.csv"], "expected GROUP=FILE"),
        (["~ (1 | animal)", "--traits", "trait1", "--relmat", "animal=nowhere.csv"], "nowhere.csv"),
        (["~ (1 | animal)", "--traits", "trait1", "--id", "row"], "has no such column"),
        (["~ (1 | animal)", "--Y", "{files}/numbered.csv"], "the first column has no name"),
        (
            ["~ (1 | animal)", "--Y", "{files}/Y.csv"],
            "column 'animal' is not numeric, so it is no trait. If it labels the "
            "rows, write --id animal; otherwise take it out of the file.",
        ),
        (["~ (1 | sire)", "--Y", "{files}/Y_numbers.csv"], "column 'sire' is in the formula, so it is no trait"),
        (["~ (1 | sire)", "--Y", "{files}/Y_names.csv"], "write --id who and give the data a column 'who' too;"),
        (["~ (1 | animal)", "--Y", "{files}/semicolons.csv"], "expected commas between columns, got the one column"),
        (["~ (1 | animal)", "--Y", "{files}/empty.csv"], "empty.csv: expected a csv file with commas"),
    ],
)
def test_what_the_user_can_mend_is_one_message(files, tmp_path, capsys, arguments, message):
    """A traceback, or row numbers fitted as a trait."""
    arguments = [argument.format(files=files) for argument in arguments]
    assert run("fit", files / "data.csv", *arguments, "--out", tmp_path / "out", *SHORT) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("slamglmm fit: ")


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(files, tmp_path, capsys):
    """A file and a line of code that the user has not written."""
    labels = pd.read_csv(files / "K.csv", index_col=0)
    (labels * 3).to_csv(tmp_path / "K3.csv")
    assert run("fit", files / "data.csv", "trait1 ~ (1 | animal)", "--relmat", f"animal={tmp_path / 'K3.csv'}",
               "--out", tmp_path / "out", *SHORT) == 0  # fmt: skip
    assert capsys.readouterr().err.startswith("slamglmm fit: warning: relmat for 'animal': mean diagonal")


def test_summary_of_a_saved_fit(files, tmp_path, capsys):
    """A folder of the command line and one that fit.save wrote."""
    frame = pd.read_csv(files / "data.csv")
    fit = sg.slam("trait1 + trait2 ~ (1 | sire)", frame, n_factors=1, draws=8, burn=8, chains=1, seed=1)
    fit.save(tmp_path / "mine" / "fit")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "fit"):
        assert run("summary", folder) == 0
        assert capsys.readouterr().out.strip() == str(fit.summary())
    assert run("summary", tmp_path) == 2
    assert "no saved result there" in capsys.readouterr().err


def test_convergence_checks_name_the_worst(files):
    """The check that the demonstration prints."""
    frame = pd.read_csv(files / "data.csv")
    options = {"n_factors": 1, "draws": 20, "burn": 5, "seed": 1}
    fit = sg.slam("trait1 + trait2 ~ (1 | sire)", frame, chains=2, **options)
    shares, variances = cli.convergence_checks(fit)
    worst = fit.diagnostics().sort_index().loc[("h2", "sire"), "r_hat"]
    assert f"h2: {worst.max():.3f} (sire, {worst.idxmax()})" in shares
    of_traits = fit.diagnostics().sort_index().loc[("G", "sire"), "r_hat"].loc[["trait1", "trait2"]]
    assert f"{of_traits.max():.3f}" in variances
    short = sg.slam("trait1 + trait2 ~ (1 | sire)", frame, chains=1, **(options | {"draws": 3}))
    assert all("not assessed" in line for line in cli.convergence_checks(short))


def test_module_runs_as_a_command():
    """No __main__, or one that starts over in worker processes."""
    out = subprocess.run([sys.executable, "-m", "slamglmm", "--help"], check=True, capture_output=True, text=True)
    for command in ("demo", "fit", "summary"):
        assert command in out.stdout

"""Tables of many runs beside the paper's numbers."""

import csv
import io

import numpy as np
import pytest

from avdiff_jax.results import plots, runs, tables
from avdiff_jax.results.runs import Key
from tests.results.finished import NONE, config, finish, two_rows

# ml_collections loads configuration files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_the_table_has_bold_spread_paper_and_time(tmp_path):
    text = tables.markdown(tables.benchmark_table(two_rows(tmp_path)))
    header, _, avdiff, ncm = text.splitlines()[2:6]
    assert header == (
        "| data set | shots | method | seeds x draws | B | N | HM | FSL | AUSUC | minutes |"
    )
    assert avdiff == (
        "| ucf | 5 | avdiff | 2 x 3 | 76.00 ± 4.56 (74.11) | **46.00** ± 4.56 (50.35) | "
        "**57.30** ± 4.81 (59.96) | **51.00** ± 4.56 (51.45) | 38.00 ± 2.28 | 2.00 |"
    )
    # One draw has no spread; the paper has no such method; the best B and AUSUC are here.
    assert ncm == (
        "| ucf | 5 | ncm | 1 x 1 | **90.00** | 20.00 | 32.73 | 30.00 | **45.00** | 1.50 |"
    )


def test_best_is_per_data_set_and_shots_and_shared_by_what_prints_alike(tmp_path):
    cells = runs.group([
        finish(tmp_path / "a", numbers=[(50.001, 30.0, 30.0)]),
        finish(tmp_path / "b", "5shot,method=ncm", numbers=[(50.0, 20.0, 20.0)]),
        finish(tmp_path / "c", "1shot,method=ncm", numbers=[(10.0, 20.0, 20.0)]),
        finish(tmp_path / "d", "1shot,method=mbt", numbers=[(90.0, 10.0, 20.0)]),
        finish(tmp_path / "e", "10shot,method=mbt", numbers=[(99.0, 99.0, 99.0)]),
    ])
    table = tables.benchmark_table(cells)
    best = {(t[1], t[2]): [e.best for e in entries[:2]] for t, entries in table.rows}
    assert best == {
        ("1", "mbt"): [True, False], ("1", "ncm"): [False, True],
        ("5", "avdiff"): [True, True], ("5", "ncm"): [True, False],
        ("10", "mbt"): [False, False],  # alone
    }
    assert not any(entries[-1].best for _, entries in table.rows)  # slow is not good


def test_csv_and_latex_say_the_same(tmp_path):
    table = tables.benchmark_table(two_rows(tmp_path) | {Key("ucf", 5, "avdiff", NONE): []})
    read = list(csv.DictReader(io.StringIO(tables.csv_text(table))))
    assert [row["method"] for row in read] == ["avdiff", "ncm", "avdiff,generator=none"]
    assert float(read[0]["B"]) == 76.0 and float(read[0]["B_paper"]) == 74.11
    assert float(read[0]["B_spread"]) == pytest.approx(4.5607, abs=1e-4)
    assert (read[1]["B_spread"], read[1]["B_paper"], read[2]["B"]) == ("", "", "")
    lines = tables.latex(table).splitlines()
    assert lines[1] == r"\begin{tabular}{llllrrrrrr}" and lines[-1] == r"\end{tabular}"
    body = [line for line in lines if line.endswith(r"\\")]
    assert [line.count("&") for line in body] == [9] * 4
    assert r"\textbf{46.00} $\pm$ 4.56 (50.35)" in body[1] and "& -- &" in body[3]
    assert "booktabs" not in tables.latex(table) and "rule" not in tables.latex(table)
    fusion = table._replace(rows=[(("a_b&c", "5", "x", "y"), table.rows[0][1])])
    assert r"a\_b\&c &" in tables.latex(fusion)


def test_the_papers_tables(tmp_path):
    finish(tmp_path / "main", numbers=[(70.0, 40.0, 45.0)])
    finish(tmp_path / "one", "1shot", numbers=[(60.0, 30.0, 35.0)])
    finish(tmp_path / "twenty", "20shot,method=mbt", numbers=[(81.0, 41.0, 43.0)])
    finish(tmp_path / "cross", "5shot,attention=cross", numbers=[(71.0, 41.0, 46.0)])
    finish(tmp_path / "gan", "5shot,method=avgan", numbers=[(72.0, 30.0, 31.0)])
    finish(tmp_path / "none", "5shot,generator=none", numbers=[(73.0, 20.0, 32.0)])
    finish(tmp_path / "audio", "5shot,modality=audio", numbers=[(50.0, 20.0, 33.0)])
    finish(tmp_path / "proto", "5shot,condition=prototype", numbers=[(52.0, 22.0, 34.0)])
    finish(tmp_path / "t50", overrides=["--config.diffusion.steps=50"], numbers=[(9.0, 8.0, 7.0)])
    made = {t.name: t for t in tables.paper_tables(runs.group(runs.find([tmp_path]), ucf_default))}
    shown = {
        name: {row[:len(table.heads)]: row[len(table.heads):] for row in printed(table)}
        for name, table in made.items()
    }
    two = shown["table2"]
    assert two["ucf", "avdiff"] == (
        "40.00 (51.50)", "35.00 (39.89)", "**50.91** (59.96)", "**45.00** (51.45)",
    )
    # of what was run, nothing is empty: no 10-shot columns, no rows of other methods
    assert two.keys() == {("ucf", name) for name in ("avdiff", "avdiff,generator=none", "avgan")}
    assert made["table2"].numbers == ("1-shot HM", "1-shot FSL", "5-shot HM", "5-shot FSL")
    assert two["ucf", "avdiff,generator=none"][3] == "32.00"
    assert shown["supplement1"]["ucf", "20", "mbt"] == (
        "81.00 (81.73)", "41.00 (42.35)", "54.44 (55.80)", "43.00 (44.58)",
    )
    assert len(shown["supplement1"]) == 5
    assert shown["table3"] == {
        ("ucf", "cross"): (
            "**71.00** (82.89)", "**41.00** (44.33)", "**51.98** (57.77)", "**46.00** (47.02)"),
        ("ucf", "hybrid"): ("70.00 (74.11)", "40.00 (50.35)", "50.91 (59.96)", "45.00 (51.45)"),
    }
    assert [row[1] for row in shown["table4"]] == ["avgan", "none", "diffusion"]
    assert shown["table4"]["ucf", "avgan"][3] == "31.00 (37.33)"
    assert shown["table4"]["ucf", "none"][0] == "**73.00**"
    assert shown["table5"]["ucf", "audio"][0] == "50.00 (55.31)"
    assert shown["table5"]["ucf", "both"][0] == "**70.00** (74.11)"
    assert shown["table6"]["ucf", "prototype"][0] == "52.00 (83.38)"
    assert shown["figure1"] == {
        ("ucf", "5", "50"): ("9.00", "8.00", "8.47", "7.00"),
        ("ucf", "5", "200"): ("**70.00**", "**40.00**", "**50.91**", "**45.00**"),
    }


def ucf_default(dataset, shots):
    return config(f"{shots}shot") if dataset == "ucf" else {}


def printed(table) -> list[tuple[str, ...]]:
    """The cells of the Markdown, row by row."""
    lines = [line for line in tables.markdown(table).splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def test_the_picture_of_a_sweep_shows_its_numbers(tmp_path):
    def draw(means):
        path = tmp_path / "sweep.png"
        spreads = {name: [1.0] * 3 for name in means}
        return plots.sweep_plot([50, 100, 200], means, spreads, "T", path), path

    one, path = draw({"B": [70.0, 71.0, 72.0], "N": [40.0, 44.0, 42.0]})
    assert path.is_file() and one.dtype == np.uint8 and one.shape[2] == 3
    other, _ = draw({"B": [70.0, 71.0, 72.0], "N": [40.0, 41.0, 42.0]})
    assert (one != other).any()


def test_a_table_that_would_compare_nothing_is_left_out(tmp_path):
    made = tables.paper_tables(runs.group([
        finish(tmp_path / "a"), finish(tmp_path / "b", "5shot,modality=audio"),
        finish(tmp_path / "c", overrides=["--config.dataset=mine"]),
        finish(tmp_path / "d", "5shot,modality=video", overrides=["--config.dataset=mine"]),
    ]))
    assert [table.name for table in made] == ["table2", "table5", "supplement1"]
    assert [texts for texts, _ in made[0].rows] == [("ucf", "avdiff")]  # the paper's only
    assert [texts for texts, _ in made[1].rows] == [
        ("ucf", "audio"), ("ucf", "both"), ("mine", "video"), ("mine", "both"),
    ]


def test_the_legend_explains_what_is_there(tmp_path):
    parts = ("In parentheses the paper's number.", "Bold:", "A dash:", "minutes:")

    def told(cells):
        return [part in tables.markdown(tables.benchmark_table(cells)) for part in parts]

    assert told(two_rows(tmp_path)) == [True, True, False, True]
    mine = finish(tmp_path / "mine", overrides=["--config.dataset=mine"])
    assert told(runs.group([mine])) == [False, False, False, True]
    assert told(runs.group([mine]) | {Key("mine", 5, "ncm"): []}) == [False, False, True, True]


def test_a_table_over_class_splits_says_so(tmp_path):
    made = [finish(tmp_path / f"s{n}", numbers=[(60.0 + n, 40.0, 45.0)], split=n) for n in (0, 1)]
    ncm = finish(tmp_path / "ncm", "5shot,method=ncm", split=0)
    text = tables.markdown(tables.benchmark_table(runs.group([*made, ncm])))
    # half of the interval of 60 and 61: t(1, 0.975) / 2
    assert "| ucf | 5 | avdiff | 2 x 1 x 1 | 60.50 ± 6.35 (74.11) |" in text
    assert "| ucf | 5 | ncm | 1 x 1 x 3 | **72.00** ± 2.00 |" in text
    assert "splits x seeds x draws" in text and tables.OVER_SPLITS in text
    assert tables.OVER_SPLITS not in tables.markdown(tables.benchmark_table(runs.group([ncm])))


@pytest.mark.parametrize("changed", [[], ["--config.train.epochs1=2"]])
def test_another_experiment_beside_the_papers_numbers_is_remarked(tmp_path, changed):
    cells = runs.group([
        finish(tmp_path / "a", overrides=changed),
        finish(tmp_path / "b", "5shot,generator=none", overrides=["--config.train.epochs1=3"]),
    ])
    told = "Not the paper's experiment: ucf 5-shot avdiff (train.epochs1 = 2, not 30)."
    for table in (tables.benchmark_table(cells), *tables.paper_tables(cells)):
        assert (told in tables.markdown(table)) == bool(changed)
        assert "generator=none (" not in tables.markdown(table)  # of which the paper has no number

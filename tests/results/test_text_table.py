"""A table in three notations."""

from avdiff_jax.results import text_table
from avdiff_jax.results.text_table import TextTable

TABLE = TextTable(
    "Sizes", ["data_set", "k", "A - B", "n"],
    [["a", "5", "+1.50 ± 0.25 (2.00)", "3"], ["longer name", "10", "-12.00", "12"]],
    names=2, notes=["One.", "two " * 26],
)


def test_plain_columns_are_aligned():
    assert text_table.plain(TABLE).splitlines() == [
        "Sizes",
        "",
        "data_set     k    A - B                 n",
        "-----------------------------------------",
        "a            5    +1.50 ± 0.25 (2.00)   3",
        "longer name  10  -12.00                12",
        "",
        "One.",
        " ".join(["two"] * 25),
        "two",
    ]


def test_a_head_may_be_longer_than_its_numbers():
    table = TextTable("T", ["", "a long head", "spread"], [["x", "1", "1 ± 2"]])
    assert text_table.plain(table).splitlines()[2:] == [
        "   a long head  spread", "----------------------", "x            1  1 ± 2",
    ]


def test_markdown_sets_numbers_to_the_right():
    assert text_table.markdown(TABLE).splitlines()[2:5] == [
        "| data_set | k | A - B | n |", "| --- | --- | ---: | ---: |",
        "| a | 5 | +1.50 ± 0.25 (2.00) | 3 |",
    ]


def test_latex_escapes_names():
    lines = text_table.latex(TABLE).splitlines()
    assert lines[0] == "% Sizes" and lines[1] == r"\begin{tabular}{llrr}"
    assert lines[3] == r"data\_set & k & A - B & n \\" and lines[-1] == r"\end{tabular}"

"""One table in three forms: numbers in full for programs, and nothing in a text that a reader's program would obey."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from ift.pages.tables import Cell, Column, Table, as_latex, as_markdown, number_cell, text_cell, write_tables
from tests.pages.test_hostile_answers import HOSTILE


def table(*rows):
    return Table("runs", "Runs", [Column("run"), Column("loss", -1, True)], rows)


def test_the_three_forms_of_a_table():
    found = table(
        (text_cell("a"), Cell(1 / 3, "0.333", "0.2 to 0.5", low=0.2, high=0.5)),
        (text_cell("b_1"), number_cell(None, ".3f")),
        (text_cell("c"), number_cell(float("nan"), ".3f")),
        (text_cell("d"), number_cell(-1, ".1f")),
    )
    assert found.csv().splitlines() == [
        "run,loss,loss low,loss high",
        "a,0.3333333333,0.2,0.5",
        "b_1,,,",
        "c,,,",
        "d,-1,,",
    ]
    assert found.markdown().splitlines() == [
        "| run | loss |",
        "| --- | ---: |",
        "| a | 0.333 (0.2 to 0.5) |",
        r"| b\_1 | – |",
        "| c | – |",
        "| d | -1.0 |",
    ]
    assert found.latex().splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"run & loss \\",
        r"\midrule",
        r"a & 0.333 (0.2 to 0.5) \\",
        r"b\_1 & -- \\",
        r"c & -- \\",
        r"d & $-$1.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_hostile_texts_are_no_formula_no_markup_and_no_command():
    columns = [Column(text) for text in HOSTILE]
    found = Table("t", "T", columns, [[text_cell(text) for text in HOSTILE]])
    cells = [cell for line in csv.reader(io.StringIO(found.csv(), newline="")) for cell in line]
    assert len(cells) == 2 * len(HOSTILE)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    lines = found.markdown().splitlines()
    assert len(lines) == 3
    for line in (lines[0], lines[2]):
        assert len(re.findall(r"(?<!\\)\|", line)) == len(HOSTILE) + 1
        assert not re.search(r"<|(?<!\\)[\[`]|https?:|www\.", line)
    tex = found.latex()
    assert "\x1b" not in found.csv() + found.markdown() + tex
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip()
    assert len(body.splitlines()) == 1
    assert len(re.findall(r"(?<!\\)&", body)) == len(HOSTILE) - 1
    assert not re.search(r"(?<!\\)[%#_^~]", body)


def test_a_text_is_one_line_in_which_every_sign_stands_for_itself():
    assert as_latex("50% of\nx_1 & {y} \\input{z} $2^3$ ~") == (
        r"50\% of x\_1 \& \{y\} \textbackslash{}input\{z\} \$2\textasciicircum{}3\$ \textasciitilde{}"
    )
    assert as_markdown("a|b <img src=x> [x](http://y)\n# z") == r"a\|b &lt;img src=x&gt; \[x\](http&#58;//y) \# z"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX on this machine")
def test_latex_sets_it(tmp_path):
    texts = [text for text in HOSTILE if text.isascii() and text.isprintable()]
    found = Table("t", "T", [Column("text")], [[text_cell(text)] for text in texts])
    document = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(document + "\n" + found.latex() + r"\end{document}")
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_each_table_is_written_in_each_form(tmp_path):
    write_tables(tmp_path / "new", [table()])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["runs.csv", "runs.md", "runs.tex"]

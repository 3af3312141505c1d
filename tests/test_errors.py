import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ift.errors import (
    LIMIT,
    ConfigError,
    DataError,
    DivergedError,
    IftError,
    MachineError,
    WeightsError,
    missing_extra,
    one_line,
    report,
    warn,
)


@pytest.mark.parametrize(
    ("kind", "code"), [(ConfigError, 2), (DataError, 3), (WeightsError, 4), (MachineError, 5), (DivergedError, 6)]
)
def test_each_kind_of_error_has_its_exit_code_and_prints_one_line(kind, code, capsys):
    assert report(kind("rows.json:3: what is wrong (what to do)")) == code
    assert capsys.readouterr().err == "ift: error: rows.json:3: what is wrong (what to do)\n"
    assert issubclass(kind, IftError)


def test_an_error_nobody_foresaw_is_one_line_too_and_says_how_to_see_where(capsys):
    assert report(KeyError("output")) == 1
    assert capsys.readouterr().err == "ift: error: KeyError: 'output' (IFT_DEBUG=1 shows where)\n"


def test_ift_debug_shows_the_traceback_before_the_line(capsys, monkeypatch):
    monkeypatch.setenv("IFT_DEBUG", "1")
    try:
        raise DataError("here")
    except DataError as error:
        report(error)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ift: error: here"


def test_a_long_path_is_shortened_in_its_middle_and_the_rest_stays(capsys):
    report(DataError("/data/" + 300 * "x" + "/rows.json:3: what is wrong (what to do)"))
    line = capsys.readouterr().err.rstrip("\n")
    assert len(line) == 300
    assert line.startswith("ift: error: /data/xxx")
    assert line.endswith("xxx/rows.json:3: what is wrong (what to do)")


def test_a_long_list_of_names_is_shortened_in_its_middle_and_the_advice_stays(capsys):
    names = ", ".join(f"column{i}" for i in range(90))
    report(DataError(f'rows.json:3: no "output" (it has: {names}) (set data.fields.output=column7)'))
    line = capsys.readouterr().err.rstrip("\n")
    assert len(line) == 300
    assert line.startswith('ift: error: rows.json:3: no "output" (it has: column0, column1, ')
    assert line.endswith("column89) (set data.fields.output=column7)")


ANYTHING = st.text(max_size=400)
BRACKETS = st.recursive(
    st.text("abc =./'", max_size=30),
    lambda inner: st.builds(lambda a, b, c: f"{a}({b}){c}", inner, inner, inner),
    max_leaves=6,
).map(lambda text: text[:200])


@settings(max_examples=50)
@given(ANYTHING, BRACKETS)
def test_the_advice_is_never_cut(what, advice):
    advice = " ".join(advice.split())
    if advice.count("(") != advice.count(")"):  # its end was cut off by this test
        advice = advice.replace("(", "").replace(")", "")
    line = one_line(f"{what} ({advice})", LIMIT - len("ift: error: "))
    assert line.endswith(f"({advice})")
    assert len(line) <= 288


@settings(max_examples=50)
@given(ANYTHING, st.integers(12, 400))
def test_any_text_is_one_printable_line_of_at_most_so_many_characters(text, limit):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert one_line(line, limit) == line


def test_advice_that_would_leave_no_room_is_cut_like_any_text():
    assert one_line("where: what (" + 100 * "x" + ")", limit=60) == "where: what (" + 20 * "x" + "..." + 23 * "x" + ")"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\r\nand\ta tab", "two lines and a tab"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("half a character \ud83d ends", "half a character ends"),
        ("über 日本", "über 日本"),
    ],
)
def test_text_from_anywhere_becomes_one_printable_line(text, line):
    assert one_line(text) == line


def test_one_line_cuts_in_the_middle_to_the_very_limit():
    assert one_line("0123456789" * 3, limit=18) == "012345678...456789"
    assert one_line("0123456789", limit=10) == "0123456789"


def test_a_missing_package_is_a_sentence_with_the_line_to_type():
    error = missing_extra("pyarrow", "parquet")
    assert isinstance(error, MachineError)
    assert str(error) == 'this needs the package pyarrow (pip install "ift[parquet]")'


def test_a_warning_is_one_line_on_stderr(capsys):
    warn("results.json: cut off\nin the middle (delete it)")
    assert capsys.readouterr().err == "ift: warning: results.json: cut off in the middle (delete it)\n"

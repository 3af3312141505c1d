import pytest

from ift.errors import (
    ConfigError,
    DataError,
    DivergedError,
    IftError,
    MachineError,
    WeightsError,
    missing_extra,
    one_line,
    report,
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


def test_the_whole_line_is_at_most_200_characters_and_keeps_both_ends(capsys):
    report(DataError("rows.json:3: " + 300 * "x" + " (what to do)"))
    line = capsys.readouterr().err.rstrip("\n")
    assert len(line) == 200
    assert line.startswith("ift: error: rows.json:3: xxx")
    assert line.endswith("xxx (what to do)")


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

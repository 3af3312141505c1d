"""What was written is there again, whatever killed the writer; what is none of it is refused."""

import json

import pytest

from ift.errors import MachineError
from ift.evaluation.journal import Journal


def test_what_was_put_is_there_again_and_half_a_line_is_not(tmp_path):
    path = tmp_path / "deep" / "kept.jsonl"
    with Journal(path) as lines:
        lines.put("a", {"text": "ü"})
        lines.put("b", {"text": "two"})
    with path.open("ab") as file:
        file.write(b'{"key": "c", "te')
    with Journal(path) as lines:
        assert lines.lines == {"a": {"key": "a", "text": "ü"}, "b": {"key": "b", "text": "two"}}
        lines.put("d", {})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "d"]


def test_one_process_at_a_time(tmp_path):
    with Journal(tmp_path / "kept.jsonl"), pytest.raises(MachineError, match="another process is writing here"):
        Journal(tmp_path / "kept.jsonl")


@pytest.mark.parametrize("line", ["[]", "7", "{}", "no json", '{"key": []}', "[" * 20000])
def test_a_line_that_is_none_of_its_own_is_named_and_stops_nothing(tmp_path, line, capsys):
    path = tmp_path / "kept.jsonl"
    path.write_text('{"key": "a"}\n' + line + '\n{"key": "b"}')
    with Journal(path) as lines:
        assert list(lines.lines) == ["a", "b"]
        lines.put("c", {})
    assert "kept.jsonl:2: not a line of such a file" in capsys.readouterr().err
    assert path.read_text() == '{"key": "a"}\n' + line + '\n{"key": "b"}\n{"key": "c"}\n'


def test_many_lines_are_put_together(tmp_path):
    with Journal(tmp_path / "kept.jsonl") as lines:
        lines.put_all({"a": {"n": 1}, "b": {"n": 2}})
        lines.put_all({})
        assert lines.lines == {"a": {"key": "a", "n": 1}, "b": {"key": "b", "n": 2}}
    with Journal(tmp_path / "kept.jsonl") as lines:
        assert list(lines.lines) == ["a", "b"]

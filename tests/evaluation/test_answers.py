"""Files of answers from here and from other tools, and what is said of broken ones."""

import json

import pytest

from ift.errors import ConfigError, DataError
from ift.evaluation.answers import Answer, Answers, aligned, content_key, open_answers, read_answers
from ift.run import RunFolder, write_jsonl

OURS = {
    "instruction": "Say hi.",
    "input": "to Ann",
    "reference": "Hi, Ann.",
    "response": "Hi.",
    "stop_reason": "end",
    "response_tokens": 2,
    "file": "f.json",
    "row": 7,
    "category": "talk",
}


def test_a_runs_own_file_is_read_whole(tmp_path):
    run = RunFolder(tmp_path)
    write_jsonl(run.responses, [OURS])
    answers = open_answers(tmp_path)
    assert answers.name == tmp_path.name
    assert answers.rows == [Answer("Say hi.", "to Ann", "Hi, Ann.", "Hi.", "talk", "end", 2, "f.json", 7)]


def test_alpacaevals_layout_has_the_response_as_output_and_no_reference(write):
    path = write("out.json", [{"instruction": "Why?", "output": "So.", "generator": "m", "dataset": "koala"}])
    (answer,) = read_answers(path)
    assert (answer.instruction, answer.reference, answer.response) == ("Why?", "", "So.")


def test_the_books_layout_has_the_reference_as_output(write):
    row = {"instruction": "2+2?", "input": "", "output": "4"}
    (answer,) = read_answers(write("one.json", [{**row, "model_response": "5"}]))
    assert (answer.reference, answer.response) == ("4", "5")
    path = write("two.json", [{**row, "model 1 response": "4!", "model 2 response": "22"}])
    with pytest.raises(DataError, match=r"answers of 2 models \(give FILE#model 1 response for one of them\)"):
        open_answers(path)
    answers = open_answers(f"{path}#model 2 response")
    assert [answer.response for answer in answers.rows] == ["22"]
    assert answers.run.path == path.with_name("two-model-2-response.ift")


def test_where_there_is_nothing_it_says_what_to_give(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: no such run folder or file of answers"):
        open_answers(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"responses.jsonl: no such file \(ift evaluate run="):
        open_answers(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"instruction": "a", "response": 5}', ':1: "response" is a number, not text'),
        ('{"instruction": null, "response": "x"}', ':1: "instruction" is null, not text'),
        ('{"response": "x"}', ':1: "instruction" is missing, not text'),
        ('{"instruction": "a", "answer": "x"}', ':1: no "response" (it has: instruction, answer; FILE#NAME takes'),
        ('{"instruction": "a", "response": "x", "input": ["b"]}', ':1: "input" is a list, not text'),
        ("[1, 2]", ":1: a number, not an object with instruction and response"),
        ('{"instruction": "a", "response": "x"}\n{"instruction": ', ":2: "),
        ("", ""),
        (b"\xff\xfe\x00junk", ""),
        ("[" * 100_000, ""),
    ],
)
def test_a_broken_file_is_one_line_with_its_place(write, content, message):
    with pytest.raises(DataError) as caught:
        read_answers(write("bad.json", content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_characters_become_question_marks(write):
    (answer,) = read_answers(write("r.jsonl", '{"instruction": "a", "response": "x\\ud800y"}'))
    assert answer.response == "x?y"
    json.dumps(answer.response).encode()


def test_rows_are_paired_by_what_was_asked_and_repeats_in_turn(tmp_path):
    def run(*pairs):
        return Answers("r", RunFolder(tmp_path), [Answer(asked, "", "", said) for asked, said in pairs])

    first = run(("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"))
    second = run(("c", "C"), ("a", "A1"), ("a", "A2"), ("d", "D"))
    assert [tuple(a.response for a in row) for row in aligned([first, second])] == [
        ("1", "A1"),
        ("3", "A2"),
        ("4", "C"),
    ]


def test_keys_tell_apart_where_one_text_ends_and_the_next_begins():
    assert content_key("ab", "c") != content_key("a", "bc")
    assert content_key("a", "b") == content_key("a", "b")

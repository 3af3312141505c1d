import dataclasses
import json

import pytest
import yaml

from ift.errors import ConfigError, WeightsError
from ift.text.conversations import Conversation
from ift.text.templates import Piece, Segment, Template
from tests.running import TRAIN
from tests.text.chats import marked

WITH = Conversation("Name its color.", "sky", "Blue.")
WITHOUT = Conversation("Name a color.", "", "Red.")

OUTPUT = Segment("{output}", supervised=True)
SMALL = Template("small", (Segment("Q: {instruction}"), Segment(" ({input})", when="input"), Segment("\nA: "), OUTPUT))


@pytest.fixture
def template(settings_of):
    """template(name): the template of conf/prompt/NAME.yaml."""

    def template(name, *overrides):
        settings = settings_of(f"prompt={name}", *overrides).prompt
        return Template.make(settings.name, settings.segments, mask=settings.mask)

    return template


def full_text(template, row):
    return "".join(piece.text for piece in template.pieces(row))


def seed_text(row):
    """The training text of the seed chapter, put together as it does."""
    text = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{row.instruction}"
    )
    text += f"\n\n### Input:\n{row.input}" if row.input else ""
    return text + f"\n\n### Response:\n{row.output}"


@pytest.mark.parametrize("row", [WITH, WITHOUT])
@pytest.mark.parametrize("name", ["alpaca", "seed_chapter"])
def test_alpaca_and_seed_chapter_are_the_text_of_the_seed_chapter(template, name, row):
    assert full_text(template(name), row) == seed_text(row)


def test_alpaca_keeps_the_header_out_of_the_loss_and_seed_chapter_keeps_it_in(template):
    assert [piece.supervised for piece in template("alpaca").render(WITH)[0]] == [False]
    assert [piece.supervised for piece in template("seed_chapter").render(WITH)[0]] == [True]
    masked = template("seed_chapter", "prompt.mask=true")  # exercise 7.2: the instruction alone is masked
    assert masked.render(WITHOUT)[0][1:] == [Piece("\n\n### Response:\n", supervised=True)]


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("phi3", WITH, "<|user|>\nName its color.\nsky\n<|assistant|>:\nBlue."),
        ("phi3", WITHOUT, "<|user|>\nName a color.\n<|assistant|>:\nRed."),
        (
            "chatml",
            WITH,
            "<|im_start|>user\nName its color.\nsky<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>",
        ),
        ("chatml", WITHOUT, "<|im_start|>user\nName a color.<|im_end|>\n<|im_start|>assistant\nRed.<|im_end|>"),
        (
            "alpaca_stanford",
            WITH,
            "Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\nName its color."
            "\n\n### Input:\nsky\n\n### Response:Blue.",
        ),
        (
            "alpaca_stanford",
            WITHOUT,
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nName a color.\n\n### Response:Red.",
        ),
    ],
)
def test_each_shipped_template_is_this_text_character_by_character(template, name, row, text):
    assert full_text(template(name), row) == text


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("alpaca", "\n\n### Response:\n"),
        ("phi3", "\n<|assistant|>:\n"),
        ("chatml", "<|im_start|>assistant\n"),
        ("alpaca_stanford", "\n\n### Response:"),
        ("seed_chapter", "\n\n### Response:\n"),
    ],
)
def test_the_prompt_for_inference_ends_with_the_response_header(template, name, header):
    for row in (WITH, WITHOUT):
        prompt = template(name).prompt(row)
        assert prompt.endswith(header)
        assert full_text(template(name), row).startswith(prompt + row.output)


def test_only_the_response_and_its_closing_marker_are_supervised(template):
    before, response, after = template("chatml").render(WITH)
    assert [piece.supervised for piece in before] == [False]
    assert response == Piece("Blue.", supervised=True)
    assert after == [Piece("<|im_end|>", supervised=True)]


def test_mask_false_supervises_the_prompt_too(template):
    before, response, after = template("alpaca", "prompt.mask=false").render(WITH)
    assert before == [Piece(seed_text(WITH).removesuffix("Blue."), supervised=True)]
    assert response == Piece("Blue.", supervised=True)
    assert after == []


def test_neighbours_with_the_same_supervision_are_one_piece_and_others_are_not():
    half = Template("half", (Segment("{instruction}"), Segment(" "), Segment("So: ", supervised=True), OUTPUT))
    assert half.render(WITHOUT)[0] == [Piece("Name a color. ", False), Piece("So: ", True)]


THREE = Conversation("Why?", "", "So.", history=(("Who?", "Me."), ("When?", "Now.")))
CLOSED = dataclasses.replace(SMALL, segments=(*SMALL.segments, Segment("#", supervised=True)))


@pytest.mark.parametrize(
    ("marks", "turns", "text"),
    [
        ({}, "all", "Q: Who?\nA: «Me.#¶»Q: When?\nA: «Now.#¶»Q: Why?\nA: «So.#»"),
        ({"unlearnt": (0,)}, "all", "Q: Who?\nA: Me.#¶Q: When?\nA: «Now.#¶»Q: Why?\nA: «So.#»"),
        ({"unlearnt": (2,)}, "all", "Q: Who?\nA: «Me.#¶»Q: When?\nA: «Now.#¶»Q: Why?\nA: So.#"),
        ({"unlearnt": (0,)}, "last", "Q: Who?\nA: Me.#¶Q: When?\nA: Now.#¶Q: Why?\nA: «So.#»"),
        ({"unlearnt_parts": ((1, 0, 2),)}, "all", "Q: Who?\nA: «Me.#¶»Q: When?\nA: No«w.#¶»Q: Why?\nA: «So.#»"),
        ({"unlearnt_parts": ((1, 2, 4),)}, "all", "Q: Who?\nA: «Me.#¶»Q: When?\nA: «No»w.#¶Q: Why?\nA: «So.#»"),
        ({"unlearnt_parts": ((2, 1, 2),)}, "last", "Q: Who?\nA: Me.#¶Q: When?\nA: Now.#¶Q: Why?\nA: «S»o«.#»"),
        ({"unlearnt_parts": ((2, 2, 3), (2, 0, 1))}, "last", "Q: Who?\nA: Me.#¶Q: When?\nA: Now.#¶Q: Why?\nA: S«o».#"),
    ],
)
def test_what_a_row_marks_bears_no_loss_with_the_end_that_follows_it(marks, turns, text):
    template, row = dataclasses.replace(CLOSED, turns=turns), dataclasses.replace(THREE, **marks)
    assert marked(template.pieces(row)) == text
    assert template.prompt(row) == template.prompt(THREE)


def test_a_mark_is_obeyed_where_the_prompt_is_in_the_loss_too():
    row = dataclasses.replace(THREE, unlearnt=(1, 2))
    assert marked(dataclasses.replace(CLOSED, mask=False).pieces(row)) == (
        "«Q: Who?\nA: Me.#¶Q: When?\nA: »Now.#¶«Q: Why?\nA: »So.#"
    )


def test_what_a_model_would_write_before_an_answer_without_a_loss_has_none_either():
    half = Template("half", (Segment("{instruction} "), Segment("So: ", supervised=True), OUTPUT))
    assert marked(half.pieces(WITHOUT)) == "Name a color. «So: Red.»"
    assert marked(half.pieces(dataclasses.replace(WITHOUT, unlearnt=(0,)))) == "Name a color. So: Red."


def test_plain_text_stands_between_two_ends_and_is_learnt_from_its_first_token(template):
    none, text = template("none"), Conversation("", output="Once upon a time.")
    assert none.pieces(text) == [Piece("", False, end=True), Piece("Once upon a time.", True)]
    assert none.render(text)[0] == [Piece("", False, end=True)]  # what a model is asked with
    part = dataclasses.replace(text, unlearnt_parts=((0, 0, 5),))
    assert marked(none.pieces(part)) == "¶Once «upon a time.»"
    assert none.refusal(text) is None


CHAT = '{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""%s}]%s}'


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("alpaca", WITH, None),
        (
            "seed_chapter",
            dataclasses.replace(WITH, system="x"),
            "the prompt template seed_chapter has no place for its system",
        ),
        ("none", WITHOUT, "has no place for its instruction (prompt=alpaca has one; this one is for plain text)"),
        ("none", WITH, "has no place for its input"),
        ("none", THREE, "has no place for its instruction"),
        ("alpaca", Conversation("", output="x"), "plain text without an instruction"),
        ("phi3", Conversation(" \n", output="x"), "and phi3 needs one (prompt=none learns the whole text)"),
        ("phi3", Conversation("", output="x", history=(("a", "b"),)), "last instruction is empty"),
        *(
            (
                "alpaca",
                Conversation("?", output="x", chat=CHAT % more),
                f"has no place for its {what} (prompt=chat with a",
            )
            for what, more in {
                "tool calls": (', "tool_calls": [{}]', ', "tools": [{}]'),
                "tools": ("", ', "tools": [{}]'),
                "reasoning": (', "reasoning_content": "x"', ""),
                "order of turns": ("", ""),
            }.items()
        ),
    ],
)
def test_a_row_that_a_template_cannot_carry_is_refused_by_the_name_of_what_it_has(template, name, row, said):
    refusal = template(name).refusal(row)
    assert refusal is None if said is None else said in refusal


def test_a_row_of_which_the_settings_leave_nothing_to_learn_is_refused():
    row = dataclasses.replace(THREE, unlearnt=(2,))
    assert SMALL.refusal(row) is None
    assert "(prompt.turns=all learns the others)" in dataclasses.replace(SMALL, turns="last").refusal(row)


@pytest.mark.parametrize(
    "text",
    ["{output}", "{instruction}{input}", "{", "}}{{", "{0}", "\\1 \\g<0>", "### Response:\n", "<|im_end|>", "%s"],
)
def test_row_text_is_put_in_as_it_stands(text):
    row = Conversation(text, text, text)
    assert full_text(SMALL, row) == f"Q: {text} ({text})\nA: {text}"
    assert SMALL.prompt(row) == f"Q: {text} ({text})\nA: "


def test_clean_takes_away_the_closing_text_of_the_template_and_nothing_else(template):
    chatml, alpaca = template("chatml"), template("alpaca")
    assert chatml.clean(" Blue.<|im_end|>\n", WITH) == "Blue."
    assert chatml.clean("Blue.", WITH) == "Blue."
    assert alpaca.clean("\nI write ### Response: here.\n", WITH) == "I write ### Response: here."


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "{output} must stand once in a row with input"),
        ([Segment("{instruction}")], "{output} must stand once in a row with input"),
        ([Segment("{instruction}"), OUTPUT, OUTPUT], "{output} must stand once in a row with input"),
        ([Segment("{instruction}{output}{output}", True)], "{output} must stand once in a row with input"),
        (
            [Segment("{instruction}"), Segment("{output}", True, "input")],
            "{output} must stand once in a row without input",
        ),
        ([Segment("A: "), OUTPUT], "{instruction} must stand before {output}"),
        ([OUTPUT, Segment("{instruction}")], "{instruction} must stand before {output}"),
        (
            [Segment("{instruction}", when="input"), Segment("{input}"), OUTPUT],
            "{instruction} must stand before {output}",
        ),
        ([Segment("{instruction}{output}")], "the segment with {output} must be supervised"),
        (
            [Segment("{instruction}", when="sometimes"), OUTPUT],
            "when=sometimes: must be of always, input, no_input, system, no_system, later",
        ),
    ],
)
def test_a_template_that_cannot_train_is_refused_with_its_name(segments, message):
    with pytest.raises(ConfigError) as caught:
        Template("mine", tuple(segments))
    assert message in str(caught.value)
    assert "(mine)" in str(caught.value)


@pytest.mark.parametrize("name", ["alpaca", "alpaca_stanford", "chatml", "phi3", "seed_chapter", "none"])
def test_a_template_survives_the_model_folder(template, name):
    stored = json.loads(json.dumps(template(name).to_json()))
    again = Template.from_json(stored)
    assert again == template(name)
    assert again.hash == template(name).hash


def test_the_hash_changes_with_any_character_and_any_mark():
    first, *rest = SMALL.segments
    others = [
        dataclasses.replace(SMALL, mask=False),
        dataclasses.replace(SMALL, name="smaller"),
        dataclasses.replace(SMALL, segments=(dataclasses.replace(first, supervised=True), *rest)),
        dataclasses.replace(SMALL, segments=(dataclasses.replace(first, text="Q: {instruction} "), *rest)),
        dataclasses.replace(SMALL, segments=(dataclasses.replace(first, text="q: {instruction}"), *rest)),
        dataclasses.replace(SMALL, segments=(*SMALL.segments, Segment(" ", when="input"))),
        dataclasses.replace(SMALL, segments=(*SMALL.segments, Segment(" "))),
    ]
    hashes = {SMALL.hash, *(other.hash for other in others)}
    assert len(hashes) == 1 + len(others)
    assert all(len(value) == 16 for value in hashes)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {},
        {"name": "x", "mask": True, "segments": None},
        {"name": "x", "mask": True, "segments": [{"text": "{instruction}{output}"}]},
        {"name": "x", "mask": True, "segments": [{"text": 3, "supervised": True, "when": "always"}]},
        {"name": "x", "mask": True, "segments": [{"text": "{output}", "supervised": True, "when": "always"}]},
    ],
)
def test_what_is_no_template_in_a_model_folder_is_an_error_of_the_folder(value):
    with pytest.raises(WeightsError, match=r"prompt\.json: not a prompt template"):
        Template.from_json(value)


def test_ones_own_template_is_a_file_in_a_config_dir(tmp_path, warm_without_torch):
    mine = {
        "name": "mine",
        "mask": True,
        "segments": [{"text": "?{instruction}!\n"}, {"text": "{output}", "supervised": True}],
    }
    (tmp_path / "mine/prompt").mkdir(parents=True)
    (tmp_path / "mine/prompt/short.yaml").write_text(yaml.safe_dump(mine))
    words = ["data=json", "data.path=none.json", "--config-dir=mine", "prompt=short", "output_dir=run"]
    done = warm_without_torch.run(TRAIN, *words, cwd=tmp_path)
    assert "none.json: no such file" in done.stderr  # it got as far as the rows
    decided = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["prompt"]
    assert decided["name"] == "mine"
    assert [segment["text"] for segment in decided["segments"]] == ["?{instruction}!\n", "{output}"]

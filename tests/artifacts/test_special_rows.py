import pytest

from ift.artifacts.special_rows import untrained_rows, untrained_tokens, warning
from ift.model.low_rank import LowRank
from ift.text.templates import Segment, Special, Template


class Tokens:
    special_ids = {"<a>": 10, "<b>": 11, "<end>": 12}  # noqa: RUF012 - stands for a mapping that nobody changes
    end_of_text, end_text = 13, "</s>"


SEGMENTS = (Segment("<a>{instruction}<b>"), Segment("{output}<end>", supervised=True))
TEMPLATE = Template("marked", SEGMENTS).with_tokens(map(Special, Tokens.special_ids))


@pytest.mark.parametrize(
    ("tied", "zero", "equal", "found"),
    [
        (True, [], [], {}),
        (True, [("wte", 10)], [], {"<a>": "zero in the embedding"}),
        (True, [("wte", 20), ("wte", 13)], [], {}),  # of tokens that the template does not put
        (True, [], [("wte", 11, 30), ("wte", 11, 31)], {"<b>": "equal to 2 other rows in the embedding"}),
        (False, [("lm_head", 12)], [], {"<end>": "zero in the head"}),
        (
            False,
            [("wte", 12)],
            [("lm_head", 12, 5)],
            {"<end>": "zero in the embedding and equal to 1 other row in the head"},
        ),
    ],
)
def test_rows_of_the_templates_tokens_that_are_zero_or_equal_to_others_are_found(make_model, tied, zero, equal, found):
    model = make_model(tie_weights=tied)
    for matrix, row in zero:
        getattr(model, matrix).weight.data[row] = 0
    for matrix, row, like in equal:
        weight = getattr(model, matrix).weight.data
        weight[like] = weight[row]
    assert untrained_tokens(model, TEMPLATE, Tokens()) == found


def test_the_warning_names_them_and_says_what_to_do_and_more_where_they_are_frozen(make_model):
    model = make_model()
    said = warning({"<a>": "zero in the embedding"}, model)
    assert "<a> is zero in the embedding" in said
    assert "prompt.special_tokens=false" in said
    assert "model.freeze" not in said
    model.wte.weight.requires_grad_(False)
    assert "model.freeze keeps the embedding so, and the model can never learn them" in warning({"<a>": "zero"}, model)


def test_rows_that_an_adapter_trains_are_said_so_and_others_cannot_be_learnt(make_model):
    model = make_model()
    model.wte.weight.data[12] = 0
    assert untrained_rows(model, TEMPLATE, Tokens()) == {12: "zero in the embedding"}
    wrong = untrained_tokens(model, TEMPLATE, Tokens())
    model.requires_grad_(False)
    model.low_rank = LowRank("base", (), 4, 8.0)
    said = warning(wrong, model, turn_end="<end>")
    assert "an adapter leaves these rows as they are, and the model cannot learn to stop" in said
    assert "adapter.trainable_tokens=auto trains them" in said
    assert "cannot learn to read or write them" in warning(wrong, model, turn_end="</s>")
    model.low_rank = LowRank("base", (), 4, 8.0, tokens=(12,))
    said = warning(wrong, model, turn_end="<end>")
    assert said == "untrained special tokens: <end> is zero in the embedding; their rows are trained beside the adapter"

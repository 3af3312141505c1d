"""Which added tokens a row's text may become."""

import pytest

from ift.text.added_tokens import added_token, is_mark, is_word


@pytest.mark.parametrize(
    "text",
    [
        *("<think>", "</tool_call>", "[INST]", "<|im_end|>", "<｜tool▁calls▁begin｜>", "<s>", "</s>", "<unk>"),
        *("|||IP_ADDRESS|||", "<0x0A>", "[gMASK]", "<extra_id_0>", " <mask>", "<|fim_prefix|>", "{{system}}"),
    ],
)
def test_what_is_written_in_brackets_is_a_mark(text):
    assert is_mark(text)
    assert not is_word(added_token(text, 7, special=False))


@pytest.mark.parametrize("text", ["  ", "\n\n", "\t", "haus", "ø", "<h1>", "</td>", "▁▁", "...", "=>", "<", "a<b"])
def test_what_looks_like_text_is_a_word_unless_it_is_special(text):
    assert not is_mark(text)
    assert is_word(added_token(text, 7, special=False))
    assert not is_word(added_token(text, 7, special=True))

"""Which added tokens the text of a row may become. Decided here, once.

A tokenizer.json lists added tokens beside its vocabulary. The library matches all of them in any text, and so would
turn a row that spells "<|im_end|>" or "</think>" into control. Here an added token is

* a mark, where it is special, or is written in brackets as marks are: <think>, <tool_call>, [INST], <|im_end|>. A text
  that spells it stays ordinary characters; the token enters only where a template puts it.
* a word, where it is not special and looks like text: Pythia's runs of spaces, "\\n\\n", Gemma's tags of HTML. It is
  vocabulary like any other, and is matched as the library matches it, the longest of the leftmost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
MARK = re.compile(r"\s*(?:[<\[{|｜].*[>\]}|｜]|.*[<|｜][|｜].*|.*[|｜][>|｜].*)\s*", re.DOTALL)
HTML = re.compile(  # without <s>, which begins a text of Llama 2
    r"</?(?:h[1-6]|table|caption|thead|tbody|tfoot|tr|th|td|ul|ol|li|blockquote|strong|em|code|pre|p|br|hr|a|b|i|u|sub|sup)>"
)


def added_token(text: str, id: int, *, special: bool = True) -> dict[str, Any]:
    """An entry of tokenizer.json's added_tokens."""
    return {"id": id, "content": text, "special": special, **dict.fromkeys(FLAGS, False)}


def is_mark(text: str) -> bool:
    """Whether an added token is written as control is, and not as text."""
    return bool(MARK.fullmatch(text)) and not HTML.fullmatch(text)


def is_word(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of added_tokens is vocabulary of ordinary text."""
    return not entry.get("special") and not is_mark(entry["content"])

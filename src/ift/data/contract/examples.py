"""From a row to token ids, each with a mark: does it count in the loss? Lengths are decided here, once.

ids         8 ... 21 30 31 32          prompt and response; collate adds the end
supervised  0 ...  0  1  1  1          by position, never by looking for a token
ends        True                       the response is whole and learnt up to its end, so the end is learnt too

The end is the template's, as ChatML's <|im_end|>, or the end-of-text. Those of earlier turns of a conversation stand in
ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from unicodedata import category

import numpy as np

from ift.data.contract.fewer_turns import count_turns, only_turns
from ift.data.reading.rows import Row
from ift.text.encoding import as_read, encode_pieces, encode_prompt
from ift.text.templates import Piece, Template
from ift.text.tokenizers import Tokenizer

TOO_LONG = " tokens, more than "  # stands in the reason of each row that is dropped for its length
# what a length policy takes away, in the words of the report
CUTS = {
    "prompt": "the end of the prompt cut",
    "response": "the end of the response cut",
    "prompt start": "the start of the prompt cut",
    "turns": "whole turns dropped",
}
SHORTER = ("drop_turns", "truncate_prompt", "truncate_response")  # the policies that keep a part of a row


@dataclass(frozen=True)
class Example:
    ids: np.ndarray  # (T,) int32
    supervised: np.ndarray  # (T,) bool
    ends: bool = True
    row: int = 0  # number of the row in its file, for messages
    truncated: str | None = None  # one of CUTS where the length policy cut

    pieces: Sequence[Piece] = ()  # the text that was encoded, while it is at hand
    shorter: Row | None = None  # the row without the turns that were dropped, while it is at hand

    @property
    def tokens(self) -> int:
        """Positions the model computes: one for each id; the end-of-text is only ever a target."""
        return len(self.ids)

    @property
    def targets(self) -> int:
        """How many positions bear a loss: the first id is never a target, the end is one if it is learnt."""
        return int(self.supervised[1:].sum()) + (1 if self.ends else 0)


class TooLong(ValueError):
    """A row that does not fit, with the reason."""


def make_example(
    row: Row, template: Template, tokenizer: Tokenizer, *, max_length: int, too_long: str, truncate: str = "end"
) -> Example:
    """Encode one row, prompt and response apart, so that no token spans the border of what is supervised.

    too_long: drop or error (raise TooLong), drop_turns (the oldest turns, until the rest fits), truncate_prompt
    (shorten the longest of instruction and input, never the template), truncate_response (cut its end; the end-of-text
    is then not learnt, since the answer does not end there).
    truncate: which end of a text goes under truncate_prompt, its end or its start.
    Raises TooLong too where a policy leaves nothing to learn.
    """
    example = encode(template.pieces(row), tokenizer, row.number)
    if example.tokens <= max_length:
        return example
    length = f"{example.tokens}{TOO_LONG}{max_length}"
    if too_long == "truncate_response":
        if len(encode_prompt(row, template, tokenizer)) >= max_length:
            raise TooLong(f"{length}: the prompt alone fills the context")
        ids, supervised = example.ids[:max_length], example.supervised[:max_length]
        if not supervised.any():
            raise TooLong(f"{length}: no token with a loss is left")
        return replace(example, ids=ids, supervised=supervised, ends=False, truncated="response")
    if too_long == "truncate_prompt":
        shorter = row
        while example.tokens > max_length:
            shorter, left = _shorten(shorter, tokenizer, by=example.tokens - max_length, start=truncate == "start")
            if not left:
                raise TooLong(f"{length}: {_what_fills(row, template, tokenizer, max_length, example.tokens)}")
            example = encode(template.pieces(shorter), tokenizer, row.number)
        what = "prompt start" if truncate == "start" else "prompt"
        return replace(example, truncated=what, pieces=template.pieces(shorter))
    if too_long == "drop_turns":
        fitting = _drop_turns(row, template, tokenizer, max_length)
        if fitting is None:
            why = "no turn with an answer to learn fits" if count_turns(row) > 1 else "in one turn"
            raise TooLong(f"{length}: {why}")
        return fitting
    raise TooLong(length)


def what_keeps_a_part(row: Row, template: Template, tokenizer: Tokenizer, *, max_length: int) -> list[str]:
    """The policies under which this row fits, each tried: turns cannot be dropped where there is but one."""

    def fits(policy: str) -> bool:
        try:
            make_example(row, template, tokenizer, max_length=max_length, too_long=policy)
        except TooLong:
            return False
        return True

    return [policy for policy in SHORTER if fits(policy)]


def keep_a_part(policies: Sequence[str]) -> str:
    """These policies as what is said to a person; an empty text for none."""
    return f"{', '.join(policies)} keep{'s' * (len(policies) == 1)} a part" if policies else ""


def encode(pieces: list[Piece], tokenizer: Tokenizer, row: int) -> Example:
    ids: list[int] = []
    runs: list[tuple[int, int]] = []
    for piece, tokens in zip(pieces, encode_pieces(pieces, tokenizer), strict=True):
        begin = len(ids)
        ids += tokens
        if piece.supervised:
            runs.append((begin, len(ids)))
    supervised = np.zeros(len(ids), dtype=bool)
    for begin, end in runs:
        supervised[begin:end] = True
    ends = not (pieces and pieces[-1].unlearnt)
    return Example(np.array(ids, dtype=np.int32), supervised, ends, row, pieces=pieces)


def _shorten(row: Row, tokenizer: Tokenizer, *, by: int, start: bool) -> tuple[Row, bool]:
    """Take `by` tokens off one end of the longest text of the last prompt; False when there is nothing to take.

    That is the longer of instruction and input; of messages, what user and tools have said since the last question.
    """
    if row.chat:
        value = json.loads(row.chat)
        messages = value["messages"]
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
        asked = [message for message in messages[last:] if message["role"] in ("user", "tool")]
        if not asked:
            return row, False
        longest = max(asked, key=lambda message: len(message["content"]))
        text = longest["content"]
        longest["content"] = shorter = _shortened(text, tokenizer, by=by, start=start)
        return replace(row, chat=json.dumps(value, ensure_ascii=False)), shorter != text
    name = "input" if len(row.input) > len(row.instruction) else "instruction"
    text = getattr(row, name)
    shorter = _shortened(text, tokenizer, by=by, start=start)
    return (replace(row, input=shorter) if name == "input" else replace(row, instruction=shorter)), shorter != text


def _shortened(text: str, tokenizer: Tokenizer, *, by: int, start: bool) -> str:
    ids = tokenizer.encode(text)
    kept = (ids[by:] if start else ids[:-by]) if by < len(ids) else []
    length = len(tokenizer.decode_bytes(kept).decode(errors="ignore"))  # without a character that was cut apart
    return _end_of(text, length) if start else _start_of(text, length)


def _start_of(text: str, length: int) -> str:
    """At most so many characters, without a part of one that is made of several (an accent, a family of emoji)."""
    while 0 < length < len(text) and _is_joined(text[length - 1], text[length]):
        length -= 1
    return text[:length]


def _end_of(text: str, length: int) -> str:
    begin = len(text) - length
    while 0 < begin < len(text) and _is_joined(text[begin - 1], text[begin]):
        begin += 1
    return text[begin:]


def _is_joined(before: str, after: str) -> bool:
    """Whether two characters are seen as one: a mark, a joiner, the tone of a skin."""
    return "\u200d" in (before, after) or category(after)[0] == "M" or "\U0001f3fb" <= after <= "\U0001f3ff"


def _what_fills(row: Row, template: Template, tokenizer: Tokenizer, max_length: int, tokens: int) -> str:
    """Why a row of so many tokens does not fit, however short its last question becomes."""
    last = count_turns(row) - 1
    alone, left = only_turns(row, last, last + 1), True
    while left:  # without any text of its prompt
        alone, left = _shorten(alone, tokenizer, by=tokens, start=False)

    def fits(part: Row) -> bool:
        return encode(template.pieces(part), tokenizer, row.number).tokens <= max_length

    if last and fits(alone):
        return "the earlier turns fill the context (data.too_long=drop_turns leaves the oldest out)"
    if row.system and not row.chat and fits(replace(alone, system="")):
        return "the system text leaves no room"
    return "answers, reasoning and tools fill the context" if row.chat else "the response alone fills the context"


def _drop_turns(row: Row, template: Template, tokenizer: Tokenizer, max_length: int) -> Example | None:
    """The row without its oldest turns, as few as it takes; without the last ones too where these fit by no means.

    None where no turns that follow each other fit and bear a loss.
    """

    def encoded(begin: int, end: int) -> tuple[Row, Example]:
        part = only_turns(row, begin, end)
        return part, encode(template.pieces(part), tokenizer, row.number)

    for end in range(count_turns(row), 0, -1):
        low, high, fitting = 0, end - 1, None  # the first turn that can stay is looked for between the two
        while low <= high:
            middle = high if fitting is None else (low + high) // 2
            part, example = encoded(middle, end)
            if example.tokens <= max_length:
                fitting, high = (part, example), middle - 1
            elif fitting is None:
                break  # not even the last of these turns fits
            else:
                low = middle + 1
        if fitting and fitting[1].supervised.any():
            return replace(fitting[1], truncated="turns", shorter=fitting[0])
    return None


def broken_law(example: Example, tokenizer: Tokenizer) -> str | None:
    """The first law that an example breaks, or None. It decodes the tokens and knows nothing of how they were made.

    The supervised tokens decode to the supervised text, byte for byte, and the others to the rest; special tokens stand
    where the template's own text has them or a turn ends, and nowhere else; no end is learnt after a response that was
    cut or bears no loss. The text is meant as the model's tokenizer writes it: with NFC, say, or a space before it.
    """
    pieces = example.pieces
    read = list(as_read(pieces, tokenizer))
    for supervised, part in ((True, example.supervised), (False, ~example.supervised)):
        ids = example.ids[part].tolist()
        own = [one for one in read if one.piece.supervised == supervised]
        put = [
            tokenizer.special_ids[piece.text] if piece.special else tokenizer.end_of_text
            for piece, _, _ in own
            if piece.end or piece.special
        ]
        found = [] if tokenizer.special.isdisjoint(ids) else [id for id in ids if id in tokenizer.special]
        if found != put[: len(found) if example.truncated == "response" else None]:
            if found.count(tokenizer.end_of_text) != put.count(tokenizer.end_of_text):
                return "an end-of-text stands where no turn ends, or is missing where one does"
            return "a special token stands where the template has none, or is missing where it has one"
        if found:
            ids = [id for id in ids if id not in tokenizer.special]
        text = b"".join([tokenizer.written(text, place) for piece, text, place in own if not piece.special])
        decoded = tokenizer.decode_bytes(ids)
        if decoded != text and not (example.truncated == "response" and text.startswith(decoded)):
            what = ("supervised", "response") if supervised else ("unsupervised", "prompt")
            return f"{what[0]} tokens do not decode to the {what[1]}"
    if any(piece.supervised and piece.unlearnt for piece in pieces):
        return "what is marked as not to be learnt would be learnt"
    if example.ends == (example.truncated == "response" or bool(pieces and pieces[-1].unlearnt)):
        return "an end would be learnt after a response that was cut or bears no loss, or not after a whole one"
    return None


def length_summary(lengths: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Percentiles a person reads: p50, p90, p99, max and mean, in tokens."""
    if not len(lengths):
        return {}
    values = np.asarray(lengths)
    p50, p90, p99 = (int(np.percentile(values, q, method="higher")) for q in (50, 90, 99))
    return {"mean": round(float(values.mean()), 1), "p50": p50, "p90": p90, "p99": p99, "max": int(values.max())}

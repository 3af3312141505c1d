"""From a row to token ids, each with a mark: does it count in the loss? Lengths are decided here, once.

ids         8 ... 21 30 31 32          prompt and response; collate adds the end-of-text
supervised  0 ...  0  1  1  1          by position, never by looking for a token
ends        True                       the response is whole and learnt up to its end, so the end is learnt too

The ends of earlier turns of a conversation stand in ids; no other end-of-text does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ift.data.reading.rows import Row
from ift.text.encoding import encode_piece, encode_prompt
from ift.text.templates import Piece, Template
from ift.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Example:
    ids: np.ndarray  # (T,) int32
    supervised: np.ndarray  # (T,) bool
    ends: bool = True
    row: int = 0  # number of the row in its file, for messages
    truncated: str | None = None  # "prompt" or "response" where the length policy cut

    pieces: Sequence[Piece] = ()  # the text that was encoded, while it is at hand

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


def make_example(row: Row, template: Template, tokenizer: Tokenizer, *, max_length: int, too_long: str) -> Example:
    """Encode one row, prompt and response apart, so that no token spans the border of what is supervised.

    too_long: drop or error (raise TooLong), truncate_prompt (shorten the longest of instruction and input, never the
    template), truncate_response (cut its end; the end-of-text is then not learnt, since the answer does not end there).
    Raises TooLong too where a policy leaves no response token.
    """
    example = encode(template.pieces(row), tokenizer, row.number)
    if example.tokens <= max_length:
        return example
    length = f"{example.tokens} tokens, more than {max_length}"
    if too_long == "truncate_response":
        if len(encode_prompt(row, template, tokenizer)) >= max_length:
            raise TooLong(f"{length}: the prompt alone fills the context")
        ids, supervised = example.ids[:max_length], example.supervised[:max_length]
        return replace(example, ids=ids, supervised=supervised, ends=False, truncated="response")
    if too_long == "truncate_prompt":
        shorter = row
        while example.tokens > max_length:
            shorter, left = _shorten(shorter, tokenizer, by=example.tokens - max_length)
            if not left:
                raise TooLong(f"{length}: the response alone fills the context")
            example = encode(template.pieces(shorter), tokenizer, row.number)
        return replace(example, truncated="prompt", pieces=template.pieces(shorter))
    raise TooLong(length)


def encode(pieces: list[Piece], tokenizer: Tokenizer, row: int) -> Example:
    ids: list[int] = []
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        begin = len(ids)
        ids += encode_piece(piece, tokenizer)
        if piece.supervised:
            runs.append((begin, len(ids)))
    supervised = np.zeros(len(ids), dtype=bool)
    for begin, end in runs:
        supervised[begin:end] = True
    ends = not (pieces and pieces[-1].unlearnt)
    return Example(np.array(ids, dtype=np.int32), supervised, ends, row, pieces=pieces)


def _shorten(row: Row, tokenizer: Tokenizer, *, by: int) -> tuple[Row, bool]:
    """Take `by` tokens off the end of the longer of instruction and input; False when there is nothing to take."""
    name = "input" if len(row.input) > len(row.instruction) else "instruction"
    text: str = getattr(row, name)
    ids = tokenizer.encode(text)
    shorter = tokenizer.decode(ids[:-by] if by < len(ids) else []).rstrip("\ufffd")
    if shorter == text:
        return row, False
    return (replace(row, input=shorter) if name == "input" else replace(row, instruction=shorter)), True


def broken_law(example: Example, tokenizer: Tokenizer) -> str | None:
    """The first law that an example breaks, or None. It decodes the tokens and knows nothing of how they were made.

    The supervised tokens decode to the supervised text, byte for byte, and the others to the rest; an end-of-text
    stands where a turn ends and nowhere else; none is learnt after a response that was cut or bears no loss.
    """
    pieces = example.pieces
    is_end = example.ids == tokenizer.end_of_text
    for supervised in (True, False):
        part = example.supervised == supervised
        if int((is_end & part).sum()) != sum(piece.end for piece in pieces if piece.supervised == supervised):
            return "an end-of-text stands where no turn ends, or is missing where one does"
        text = "".join([piece.text for piece in pieces if piece.supervised == supervised]).encode()
        decoded = tokenizer.decode_bytes(example.ids[part & ~is_end].tolist())
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

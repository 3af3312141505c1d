"""Rendered text to token ids: the one place where pieces of a template become what a model reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ift.text.conversations import Conversation
from ift.text.templates import Piece, Special, Template
from ift.text.tokenizers import Place, Tokenizer

WHITE = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def made_for(template: Template, tokenizer: Tokenizer, *, special_tokens: bool = True) -> Template:
    """The template with the special tokens of a model's tokenizer wherever its own text spells them.

    special_tokens: False leaves it as it is, all of it ordinary text.
    """
    if not special_tokens:
        return template
    known = [Special(text, *tokenizer.swallows.get(text, ())) for text in tokenizer.special_ids]
    bos = (text for text, id in tokenizer.special_ids.items() if id == tokenizer.beginning)
    return template.with_tokens(known, next(bos, ""))


class Read(NamedTuple):
    """A piece as a tokenizer meets it."""

    piece: Piece
    text: str  # without the white space that a special token beside it swallows
    place: Place


def as_read(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[Read]:
    """Each piece with its text and place as the published tokenizer sees them in the whole rendered text.

    Some put a space where a text starts, or after each special token too, but none where text goes on.
    """
    place: Place = "start"
    before: Piece | None = None
    following = list(pieces)
    for number, piece in enumerate(following):
        text = piece.text
        if tokenizer.swallows and not (piece.special or piece.end):
            after = following[number + 1] if number + 1 < len(following) else None
            text = text.lstrip(WHITE) if _swallows(before, tokenizer)[1] else text
            text = text.rstrip(WHITE) if _swallows(after, tokenizer)[0] else text
        yield Read(piece, text, place)
        if piece.special or piece.end:
            place, before = "after_special", piece
        elif text:
            place, before = "inside", piece


def _swallows(piece: Piece | None, tokenizer: Tokenizer) -> tuple[bool, bool]:
    return tokenizer.swallows.get(piece.text, (False, False)) if piece and piece.special else (False, False)


def encode_pieces(
    pieces: Iterable[Piece], tokenizer: Tokenizer, encode: Callable[[str, Place], Sequence[int]] | None = None
) -> Iterator[Sequence[int]]:
    """The tokens of each piece. encode: what makes tokens of text, if not the tokenizer itself.

    Raises KeyError for a special token that the tokenizer does not know.
    """
    encode = encode or tokenizer.encode
    for piece, text, place in as_read(pieces, tokenizer):
        if piece.special:
            yield [tokenizer.special_ids[piece.text]]
        else:
            yield [tokenizer.end_of_text] if piece.end else encode(text, place)


def place_after(pieces: Sequence[Piece]) -> Place:
    """Where text stands that follows these pieces."""
    if not pieces:
        return "start"
    return "after_special" if pieces[-1].special or pieces[-1].end else "inside"


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a text that stands in no template, as the model's own tokenizer begins it."""
    return [*([] if tokenizer.beginning is None else [tokenizer.beginning]), *tokenizer.encode(text, "start")]


def encode_prompt(conversation: Conversation, template: Template, tokenizer: Tokenizer) -> list[int]:
    """The tokens a model is given at inference: the same ones that stood before the response in training."""
    return [token for ids in encode_pieces(template.render(conversation)[0], tokenizer) for token in ids]


def turn_end(template: Template, tokenizer: Tokenizer) -> int:
    """The token that is learnt after a whole response, and ends what the model writes."""
    return tokenizer.special_ids[template.ending] if template.ending else tokenizer.end_of_text

"""Rendered text to token ids: the one place where pieces of a template become what a model reads."""

from __future__ import annotations

from ift.text.conversations import Conversation
from ift.text.templates import Piece, Special, Template
from ift.text.tokenizers import Tokenizer


def made_for(template: Template, tokenizer: Tokenizer, *, special_tokens: bool = True) -> Template:
    """The template with the special tokens of a model's tokenizer wherever its own text spells them.

    special_tokens: False leaves it as it is, all of it ordinary text.
    """
    if not special_tokens:
        return template
    known = [Special(text, *tokenizer.swallows.get(text, ())) for text in tokenizer.special_ids]
    bos = (text for text, id in tokenizer.special_ids.items() if id == tokenizer.beginning)
    return template.with_tokens(known, next(bos, ""))


def encode_piece(piece: Piece, tokenizer: Tokenizer) -> list[int]:
    """Raises KeyError for a special token that the tokenizer does not know."""
    if piece.special:
        return [tokenizer.special_ids[piece.text]]
    return [tokenizer.end_of_text] if piece.end else tokenizer.encode(piece.text)


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a text that stands in no template, as the model's own tokenizer begins it."""
    return [*([] if tokenizer.beginning is None else [tokenizer.beginning]), *tokenizer.encode(text, "start")]


def encode_prompt(conversation: Conversation, template: Template, tokenizer: Tokenizer) -> list[int]:
    """The tokens a model is given at inference: the same ones that stood before the response in training."""
    return [token for piece in template.render(conversation)[0] for token in encode_piece(piece, tokenizer)]


def turn_end(template: Template, tokenizer: Tokenizer) -> int:
    """The token that is learnt after a whole response, and ends what the model writes."""
    return tokenizer.special_ids[template.ending] if template.ending else tokenizer.end_of_text

"""Rendered text to token ids: the one place where pieces of a template become what a model reads."""

from __future__ import annotations

from ift.text.conversations import Conversation
from ift.text.templates import Piece, Template
from ift.text.tokenizers import Tokenizer


def encode_piece(piece: Piece, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.end_of_text] if piece.end else tokenizer.encode(piece.text)


def encode_prompt(conversation: Conversation, template: Template, tokenizer: Tokenizer) -> list[int]:
    """The tokens a model is given at inference: the same ones that stood before the response in training."""
    return [token for piece in template.render(conversation)[0] for token in encode_piece(piece, tokenizer)]

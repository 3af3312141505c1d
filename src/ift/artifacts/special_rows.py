"""Rows of the embedding and the head that pretraining left as they began, of special tokens that a template puts.

Base models have tokens that no text of their training held (Llama 3's headers, some of Qwen's): their rows are zero, or
equal to those of other such tokens. A model reads nothing in them and can hardly write them until it has learnt them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ift.text.encoding import turn_end
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from ift.model.gpt import GPT

SAMPLE = 1000  # rows by which it is told how large a row is
SHOWN = 4  # tokens that are named in the warning
NOTHING = 1e-3  # of the middle one of these: a smaller row says nothing
ADVICE = "prompt.special_tokens=false spells them as text instead, and prompt=alpaca needs none"


def untrained_tokens(model: GPT, template: Template, tokenizer: Tokenizer) -> dict[str, str]:
    """Spelling of each token of the template, or that ends its turns, -> what is wrong with its row."""
    spelled = {id: text for text, id in tokenizer.special_ids.items()}
    return {
        spelled.get(id, tokenizer.end_text): fault for id, fault in untrained_rows(model, template, tokenizer).items()
    }


def untrained_rows(model: GPT, template: Template, tokenizer: Tokenizer) -> dict[int, str]:
    """The same by the ids of the tokens."""
    own = [tokenizer.special_ids[text] for text in (template.bos, *(token.text for token in template.tokens)) if text]
    wrong = {}
    for id in dict.fromkeys((*own, turn_end(template, tokenizer))):
        found = [
            f"{fault} in the {name}" for name, rows in model.token_rows.items() if (fault := _fault(rows.detach(), id))
        ]
        if found:
            wrong[id] = " and ".join(found)
    return wrong


def warning(wrong: dict[str, str], model: GPT, turn_end: str = "") -> str:
    """What to say of them, and what to do. turn_end: the spelling of the token that ends an answer"""
    names = "; ".join([f"{text} is {fault}" for text, fault in wrong.items()][:SHOWN])
    names += f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    if model.low_rank is not None:
        if model.low_rank.tokens:
            return f"untrained special tokens: {names}; their rows are trained beside the adapter"
        cannot = "stop" if turn_end in wrong else "read or write them"
        return (
            f"untrained special tokens: {names}; an adapter leaves these rows as they are, and the model cannot learn "
            f"to {cannot} (adapter.trainable_tokens=auto trains them; {ADVICE})"
        )
    frozen = [name for name, rows in model.token_rows.items() if not rows.requires_grad]
    if frozen:
        return (
            f"untrained special tokens: {names}; model.freeze keeps the {' and the '.join(frozen)} so, and the model "
            f"can never learn them (take it out of model.freeze; {ADVICE})"
        )
    return f"untrained special tokens: {names}; they begin from nothing and need more rows than others ({ADVICE})"


def _fault(rows: Tensor, id: int) -> str | None:
    """(V, C) and the number of a row -> what is wrong with it."""
    row = rows[id]
    step = max(1, len(rows) // SAMPLE)
    usual = rows[::step].abs().amax(dim=1).float().median()
    if row.abs().max().float() <= NOTHING * usual:
        return "zero"
    alike = (rows[:, 0] == row[0]).nonzero()[:, 0]
    same = int((rows[alike] == row).all(dim=1).sum()) - 1
    return f"equal to {same:,} other row{'s' * (same > 1)}" if same else None

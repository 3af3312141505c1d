"""Which part of the network a parameter belongs to, from the embeddings up to the head."""

from __future__ import annotations

from ift.model.gpt import GPT

_PARTS = {
    "wte": "embeddings", "wpe": "embeddings", "ln_f": "last norm", "lm_head": "head",
    "own_rows.embedding": "embeddings of single tokens", "own_rows.head": "head of single tokens",
}  # fmt: skip


def layers_above(model: GPT, name: str) -> int:
    """How many blocks stand above the part: 0 for the head, the last norm and the top block; embeddings have all above
    them, a head that is the embedding too."""
    part, *rest = name.split(".")
    if part == "h":
        return len(model.h) - 1 - int(rest[0])
    return len(model.h) if part in ("wte", "wpe") or name == "own_rows.embedding" else 0


def parts_of(model: GPT, name: str) -> list[str]:
    """What a person calls what the parameter is in: "layer 3"; a tied embedding is the head too."""
    parts = [what for part, what in _PARTS.items() if name.startswith(part)] or [f"layer {name.split('.')[1]}"]
    return [*parts, "head"] if model.config.tie_weights and name == "wte.weight" else parts

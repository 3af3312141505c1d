"""Which model it is, in 16 characters that every process computes alike."""

from __future__ import annotations

import hashlib
from itertools import chain

import torch

from ift.model.gpt import GPT


def fingerprint(model: GPT, *also: str) -> str:
    """Of all that its logits depend on, and of what else is given: config, type of products, and all weights."""
    digest = hashlib.sha256("\0".join([repr(model.config), str(model.compute_dtype), *also]).encode())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):  # a tied head once; 4 bits are buffers
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]

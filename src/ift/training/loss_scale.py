"""Loss scaling for products in fp16, whose least number is 6e-8: smaller gradients would vanish.

The loss is multiplied before the backward, and gradients are divided by the same number where they are divided by the
weight of the step (Micikevicius et al. 2018, arXiv:1710.03740). It moves as in torch's GradScaler, by the operation
that is in there, and never waits for the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The loss is a sum over some hundred to some thousand tokens, so it needs less than a mean, which begins at 65,536.
START = 256.0
GROWTH, BACKOFF, AFTER = 2.0, 0.5, 2000  # twice after so many steps without overflow, half after one with it
LEAST = 2.0**-20  # below it gradients overflow whatever they are multiplied by: the run has diverged


class LossScale:
    def __init__(self, start: float = START):
        self.state = (start, 0)
        self._tensors: tuple[Tensor, Tensor] | None = None  # the number, and steps since it last changed

    def on(self, device: torch.device) -> Tensor:
        """() fp32: what losses are multiplied by."""
        return self._on(device)[0]

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._tensors is None or self._tensors[0].device != device:
            number, steps = self.state
            self._tensors = (
                torch.full((), number, dtype=torch.float32, device=device),
                torch.full((), steps, dtype=torch.int32, device=device),
            )
        return self._tensors

    def update(self, finite: Tensor) -> None:
        """After a step, whose gradients were finite or not: the same on every rank, for they are summed over ranks."""
        number, steps = self._on(finite.device)
        torch._amp_update_scale_(number, steps, (~finite).float(), GROWTH, BACKOFF, AFTER)

    def state_dict(self) -> dict[str, float]:
        number, steps = self.state if self._tensors is None else tuple(tensor.item() for tensor in self._tensors)
        return {"number": float(number), "steps": int(steps)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.state, self._tensors = (state["number"], int(state["steps"])), None

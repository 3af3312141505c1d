"""torch's record of a few steps."""

import json

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from ift.training.profiling import Trace


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


@pytest.mark.parametrize(("steps", "recorded"), [(9, 3), (5, 3), (2, 2)])
def test_whole_steps_are_recorded_the_optimizers_too(tmp_path, steps, recorded):
    """Each recorded step holds its optimizer's step: none begins before a record of it and ends within."""
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Trace(tmp_path / "profile")],
    )  # fmt: skip
    trainer.fit(Line(), DataLoader(torch.ones(steps, 1, 2), batch_size=None))
    events = json.loads((tmp_path / "profile" / "pytorch-0.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X" and event.get("cat") == "user_annotation"]
    assert sum(name.startswith("ProfilerStep#") for name in names) == recorded
    assert sum(name == "Optimizer.step#AdamW.step" for name in names) == recorded
    assert "aten::addmm" in (tmp_path / "profile" / "pytorch-0.txt").read_text()

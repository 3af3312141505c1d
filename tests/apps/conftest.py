"""A model that is talked to: tiny and untrained, a token for every byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ift.apps.speaker import ModelPlace, Speaker


@pytest.fixture(scope="session")
def talking(tmp_path_factory, byte_tokenizer) -> Path:
    """A run with the model of `model/` alone, and a data report that counts no row with earlier turns."""
    import torch

    from ift.artifacts.model_folder import save_model_folder
    from ift.model.config import GPTConfig
    from ift.model.gpt import GPT
    from ift.run import write_json
    from ift.text.templates import Segment, Template

    torch.manual_seed(0)
    segments = (
        Segment("S: {system}\n", when="system"),
        Segment("U: {instruction}\nA: "),
        Segment("{output}\n", supervised=True),
    )
    run = tmp_path_factory.mktemp("talking") / "run"
    run.mkdir()
    save_model_folder(run / "model", GPT(GPTConfig(257, 96, 2, 2, 16)), byte_tokenizer, Template("plain", segments))
    write_json(run / "data_report.json", {"rows_with": {"input": 0, "system": 0, "history": 0}})
    return run


@pytest.fixture(scope="session")
def speaker(talking: Path) -> Speaker:
    return Speaker.open(ModelPlace("run", talking / "model", single_turns=True), accelerator="cpu", precision="fp32")


@pytest.fixture
def say(speaker: Speaker) -> Callable[..., Any]:
    """say(conversation, max_new_tokens=..., temperature=...): the reply, and the pieces that were shown."""
    from ift.generation.sampling import Sampling

    def say(conversation: Any, *, max_new_tokens: int = 8, temperature: float = 0.0, **more: Any) -> Any:
        pieces: list[str] = []
        steps = speaker.answering(
            conversation,
            sampling=Sampling(temperature),
            max_new_tokens=max_new_tokens,
            show=pieces.append,
            **more,
        )
        return next(reply for reply in steps if reply), pieces

    return say

"""What tests in several folders share. Nothing here needs a network, a GPU or a file from outside the repository."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hydra import compose, initialize_config_dir

from ift.entry import settings_from
from ift.settings import Settings
from ift.text.bpe import GPT2_PATTERN
from ift.text.tokenizers import END_OF_TEXT, Tokenizer
from tests.browser import CHROMIUM, Browser
from tests.running import NO_TORCH, ROOT
from tests.warm import Warm

BEFORE_TORCH = (
    *("hydra", "jinja2.compiler", "numpy.random", "rensa", "rich.console", "tiktoken", "ift.entry"),
    *(
        "ift.text.chat_templates",
        "ift.pages.data_report",
        "ift.data.contract.prepare",
        "ift.data.show",
        "ift.text.tokenizers",
    ),
    "ift.artifacts.weights",
)
WITH_TORCH = (  # but not wandb: its folder of temporary files would go with the first process that ends
    *("lightning", "ift.data.datamodule", "ift.training.finish", "ift.evaluation.responses", "ift.training.callbacks"),
    *("ift.training.checkpoint", "ift.training.dry_run", "ift.training.loggers", "ift.artifacts.machine"),
    *("ift.artifacts.model_folder", "ift.training.module", "ift.training.trainer"),
    *("ift.training.resume", "matplotlib.figure", "matplotlib.backends.backend_agg"),
)
# read when torch is imported, here and in processes of tests: with tiny models, threads only wait for each other, and
# a test that forks would wait for threads that its child does not have
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["IFT_CACHE_DIR"] = tempfile.mkdtemp(prefix="ift-tests-")  # never the person's own cache
atexit.register(shutil.rmtree, os.environ["IFT_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several workers none is to be left at the end with the files that take a minute and more: they come first."""
    if hasattr(config, "workerinput"):
        longest = ("test_resume", "test_demo_run", "test_bad_files", "test_readme")
        items.sort(key=lambda item: longest.index(item.path.stem) if item.path.stem in longest else len(longest))


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Tokenizer:
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("needs GPT-2's vocabulary: set TIKTOKEN_CACHE_DIR to a folder that holds it")
    return Tokenizer(tiktoken.get_encoding("gpt2"))


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """A token for every byte, so that ids can be read: "ab" is [97, 98]; end-of-text is 256."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return Tokenizer(
        tiktoken.Encoding("bytes", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 256})
    )


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """make_model(seed=0, **changes): a GPT of two layers with 50 tokens and a context of 16."""

    def make(*, seed: int = 0, **changes: Any) -> Any:
        import torch

        from ift.model.config import GPTConfig
        from ift.model.gpt import GPT

        torch.manual_seed(seed)
        sizes = {"vocab_size": 50, "context_length": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}
        return GPT(GPTConfig(**sizes | changes))

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """write(name, content): bytes as they are, text in UTF-8, anything else as JSON."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., Settings]:
    """settings_of(*overrides): what `python train.py *overrides` is told, by the files in conf/. Not to be changed."""

    @cache
    def settings_of(*overrides: str) -> Settings:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return settings_from(compose("train", list(overrides)), Settings)

    return settings_of


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium with one tab, for all tests of a worker."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Starts of train.py and evaluate.py by which everything is imported already."""
    warm = Warm(*BEFORE_TORCH, *WITH_TORCH)
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def warm_without_torch() -> Iterator[Warm]:
    """Starts of `ift check` and of train.py by which all but torch is imported, and torch cannot be."""
    warm = Warm(*BEFORE_TORCH, **NO_TORCH)
    yield warm
    warm.close()

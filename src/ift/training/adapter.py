"""The adapter of a training: what settings mean for a model, and what is printed before the first step.

Imported without torch; it is needed where a model is there.
"""

from __future__ import annotations

import difflib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ift.artifacts.weights import Folder, weights_hash
from ift.errors import ConfigError, WeightsError, warn
from ift.model.config import GPTConfig
from ift.model.low_rank import LowRank, chosen
from ift.sealed import Sealed
from ift.settings import AdapterSettings, ModelSettings, Settings
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from ift.artifacts.machine import Device
    from ift.data.datamodule import SFTDataModule
    from ift.model.gpt import GPT
    from ift.training.module import SFTModule

LARGE = 32  # rows of a step, above which adapters fall behind full fine-tuning (Schulman et al. 2025)


def low_rank_of(settings: AdapterSettings, config: GPTConfig, base: str = "", base_hash: str = "") -> LowRank | None:
    """None for adapter=none. Raises ConfigError for a target or a layer that the model does not have."""
    if settings.name == "none":
        return None
    rank, alpha = settings.rank, settings.alpha
    assert rank is not None  # ift.rules.adapter_has
    assert alpha is not None
    return LowRank(
        base,
        chosen(settings.targets, settings.layers, config),
        rank,
        alpha,
        rslora=settings.rslora,
        dora=settings.dora,
        dropout=settings.dropout,
        base_hash=base_hash,
        four_bits=settings.name == "qlora",
    )


def planned(settings: Settings, config: GPTConfig, weights: Folder | None) -> LowRank | None:
    """The adapter of a training, with the name and the hash of its base.

    A folder is named by its whole path: the adapter is opened from anywhere. Raises ConfigError as `low_rank_of`, where
    the base is an adapter itself, and where its tied head were to be untied.
    """
    if settings.adapter.name == "none" or weights is None:
        return None
    name = base_name(settings.model)
    if weights.adapter:
        raise ConfigError(
            f"adapter={settings.adapter.name}: {name} is an adapter on {weights.adapter.low_rank.base} itself "
            "(ift merge makes one model of both; resume=RUN trainer.max_epochs=N trains it longer)"
        )
    if weights.tied and not config.tie_weights:
        raise ConfigError(
            f"model.tie_weights=false: the head of {name} is its embedding, and adapter={settings.adapter.name} leaves "
            "both as they are (leave it out; ift merge --untie writes a head of its own)"
        )
    return low_rank_of(settings.adapter, config, name, weights_hash(weights))


def with_tokens(
    low_rank: LowRank, wanted: str | int | list[str | int], model: GPT, template: Template, tokenizer: Tokenizer
) -> LowRank:
    """The adapter with the tokens whose rows are trained too. auto: special tokens that the base never learnt.

    Raises ConfigError for what is no token.
    """
    from ift.artifacts.special_rows import untrained_rows

    if wanted == "none":
        return low_rank
    if wanted == "auto":
        ids = set(untrained_rows(model, template, tokenizer))
    else:
        ids = {_token(word, tokenizer) for word in (wanted if isinstance(wanted, list) else [wanted])}
    return replace(low_rank, tokens=tuple(sorted(ids)))


def _token(word: str | int, tokenizer: Tokenizer) -> int:
    key = f"adapter.trainable_tokens={word}"
    if isinstance(word, int):
        if 0 <= word < tokenizer.vocab_size:
            return word
        raise ConfigError(f"{key}: the tokenizer has the ids 0 to {tokenizer.vocab_size - 1}")
    if word == tokenizer.end_text:
        return tokenizer.end_of_text
    if word not in tokenizer.special_ids:
        near = difflib.get_close_matches(word, [*tokenizer.special_ids, tokenizer.end_text], n=1)
        hint = f"did you mean {near[0]}?" if near else "an id names any token: [7]"
        raise ConfigError(f"{key}: no special token of this tokenizer ({hint})")
    return tokenizer.special_ids[word]


def base_name(model: ModelSettings) -> str:
    """As PEFT's base_model_name_or_path has it: a name on the Hub, or the whole path of a folder."""
    name = str(model.pretrained)
    return str(Path(name).resolve()) if Path(name).exists() else name


def refuse_other_base(checkpoint: Sealed, low_rank: LowRank) -> None:
    """Raises WeightsError where the base's weights are not those that the run began with."""
    before = checkpoint.about.get("base")
    if before != low_rank.base_hash:
        raise WeightsError(
            f"{low_rank.base}: the base has changed since the run began: sha256 {low_rank.base_hash[:12]}..., then "
            f"{str(before)[:12]}... (bring those weights back, or begin a new run)"
        )


def warn_of_large_steps(settings: Settings, world: int) -> None:
    rows = settings.data.batch_size * settings.trainer.accumulate * world
    if rows > LARGE:
        warn(
            f"adapter={settings.adapter.name}: a step of {rows} rows; above {LARGE} adapters fall behind full "
            "fine-tuning, and a higher rank does not help (lower data.batch_size or trainer.accumulate)"
        )


def show_trained(model: GPT) -> str:
    """What is trained; with four bits, what all weights take."""
    from ift.model.nf4 import numbers, stored_bytes

    its, every = model.low_rank, numbers(model)
    assert its is not None
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kind = "DoRA" if its.dora else "rsLoRA" if its.rslora else "LoRA"
    rows = f" and rows of {len(its.tokens)} tokens" if its.tokens else ""
    bits = " in 4 bits" if its.four_bits else ""
    held = f"\n          the weights take {stored_bytes(model) / 1e6:,.1f} MB" if its.four_bits else ""
    return (
        f"adapter   {kind} of rank {its.rank} on {len(its.matrices)} matrices{bits}{rows}: {trained:,} of {every:,} "
        f"parameters ({trained / every:.1%}) are trained{held}"
    )


def show_cost(module: SFTModule, datamodule: SFTDataModule, device: Device) -> str:
    """What the batch that needs most memory takes: it runs forward and backward once.

    Leaves no gradient and no random number used.
    """
    import torch

    from ift.artifacts.machine import peak_memory_bytes
    from ift.training.preflight import run_once

    module.to(device.torch_device).train()
    batch = datamodule.longest_batch()
    with torch.random.fork_rng(devices=[device.torch_device] if device.accelerator == "gpu" else []):
        for _ in range(2 if device.accelerator == "gpu" else 1):  # the first one on a GPU chooses its kernels
            started = time.perf_counter()
            run_once(module, batch, device)
            seconds = time.perf_counter() - started
            module.zero_grad(set_to_none=True)
    return (
        f"          the longest batch: {batch.tokens:,} tokens in {seconds:.2f} s "
        f"({batch.tokens / seconds:,.0f} tok/s forward and backward), {peak_memory_bytes(device) / 1e9:.2f} GB at most"
    )

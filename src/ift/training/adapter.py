"""The adapter of a training: what settings mean for a model, and what is printed before the first step.

Imported without torch; it is needed where a model is there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ift.artifacts.weights import Folder, weights_hash
from ift.errors import ConfigError, WeightsError, warn
from ift.model.config import GPTConfig
from ift.model.low_rank import LowRank, chosen
from ift.sealed import Sealed
from ift.settings import AdapterSettings, ModelSettings, Settings

if TYPE_CHECKING:
    from ift.artifacts.machine import Device
    from ift.data.datamodule import SFTDataModule
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
    )


def planned(settings: Settings, config: GPTConfig, weights: Folder | None) -> LowRank | None:
    """The adapter of a training, with the name and the hash of its base.

    A folder is named by its whole path: the adapter is opened from anywhere. Raises ConfigError as `low_rank_of`, and
    where the base is an adapter itself.
    """
    if settings.adapter.name == "none" or weights is None:
        return None
    name = base_name(settings.model)
    if weights.adapter:
        raise ConfigError(
            f"adapter={settings.adapter.name}: {name} is an adapter on {weights.adapter.low_rank.base} itself "
            "(ift merge makes one model of both; resume=RUN trainer.max_epochs=N trains it longer)"
        )
    return low_rank_of(settings.adapter, config, name, weights_hash(weights))


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


def show_cost(module: SFTModule, datamodule: SFTDataModule, device: Device) -> str:
    """What is trained, and what the batch that needs most memory takes: it runs forward and backward once.

    Leaves no gradient and no random number used.
    """
    import torch

    from ift.artifacts.machine import peak_memory_bytes
    from ift.training.preflight import run_once

    model, its = module.model, module.model.low_rank
    assert its is not None
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    module.to(device.torch_device).train()
    batch = datamodule.longest_batch()
    with torch.random.fork_rng(devices=[device.torch_device] if device.accelerator == "gpu" else []):
        for _ in range(2 if device.accelerator == "gpu" else 1):  # the first one on a GPU chooses its kernels
            started = time.perf_counter()
            run_once(module, batch, device)
            seconds = time.perf_counter() - started
            module.zero_grad(set_to_none=True)
    kind = "DoRA" if its.dora else "rsLoRA" if its.rslora else "LoRA"
    return (
        f"adapter   {kind} of rank {its.rank} on {len(its.matrices)} matrices: {trained:,} of {every:,} parameters "
        f"({trained / every:.1%}) are trained\n"
        f"          the longest batch: {batch.tokens:,} tokens in {seconds:.2f} s "
        f"({batch.tokens / seconds:,.0f} tok/s forward and backward), {peak_memory_bytes(device) / 1e9:.2f} GB at most"
    )

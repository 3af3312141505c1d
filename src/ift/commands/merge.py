"""`ift merge RUN`: an adapter and its base as one model, which every program loads.

Computed in fp32 and rounded once. An adapter that was trained on four bits can go into the base as its files hold it,
or into the base as it comes back from four bits. Which is better depends on the model, so both are measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ift.artifacts.model_folder import open_model_folder
from ift.errors import ConfigError, IftError, warn
from ift.export.export import export, refuse_to_replace
from ift.run import RunFolder
from ift.settings import Settings, load_settings

if TYPE_CHECKING:
    from ift.data.contract.examples import Example
    from ift.model.gpt import GPT

TYPES = {"F32": "fp32", "F64": "fp32", "BF16": "bf16", "F16": "fp16"}  # of a base's files -> what is written
WAYS = {
    "full": "merged into the base as its files hold it",
    "4bit": "merged into the base as it comes back from 4 bits",
}
ROWS = 8  # that are computed together


@dataclass(frozen=True)
class Merged:
    lines: list[str]
    losses: dict[str, float]  # beside, full, 4bit: nats per supervised token of the validation rows


def merge(
    run: RunFolder,
    *,
    output: Path | None = None,
    dtype: str | None = None,
    base: str | None = None,
    untied: bool = False,
    force: bool = False,
) -> Merged:
    """Write RUN/merged, or another folder.

    dtype   of the weights; None: that of the base's files
    base    full or 4bit, for an adapter that was trained on four bits; None: whichever has the smaller loss
    untied  the head is written as a matrix of its own, where the base has it in the embedding

    Raises ConfigError for a run without an adapter, and as `export` does.
    """
    folder, _, _ = open_model_folder(run.model)
    if folder.adapter is None:
        raise ConfigError(f"{run.path}: has no adapter, all weights were trained (ift export --to hf writes them)")
    if untied and not folder.tied:
        raise ConfigError("--untie: the head of this base is a matrix of its own already (leave it out)")
    four_bits = folder.adapter.low_rank.four_bits
    if base == "4bit" and not four_bits:
        raise ConfigError("--base 4bit: this adapter was trained on the base as its files hold it (leave it out)")
    target = output or run.path / "merged"
    refuse_to_replace(target.absolute(), force=force)
    losses = measured(run) if four_bits else {}
    lines = list(_of_losses(losses))
    if four_bits and base is None:
        base = min(WAYS, key=lambda way: losses.get(way, 0.0))
    done = export(
        run,
        "hf",
        dtype=dtype or TYPES[folder.dtype],
        output=target,
        force=force,
        untied=untied,
        four_bits=base == "4bit",
    )
    return Merged([*lines, *([f"merged    {WAYS[base]}"] if four_bits and base else []), *done.lines], losses)


def _of_losses(losses: dict[str, float]) -> Iterator[str]:
    if losses:
        yield "val loss  of the validation rows, in nats per supervised token:"
        for way, words in {"beside": "the adapter beside its 4-bit base, as it was trained", **WAYS}.items():
            yield f"          {losses[way]:.4f}  {words}"


def measured(run: RunFolder) -> dict[str, float]:
    """The loss of an adapter on four bits by itself, and merged in both ways. {} where the rows are no longer there."""
    from ift.artifacts.weights import build_model

    settings = load_settings(run.config)
    folder, tokenizer, _ = open_model_folder(run.model)
    try:
        examples, end = validation_rows(settings, run)
    except IftError as error:
        warn(f"the two ways of merging are not measured: {error}")
        return {}
    if not examples:
        warn("the two ways of merging are not measured: the run has no validation rows")
        return {}
    adapter = folder.adapter
    assert adapter is not None
    config = replace(folder.config, tokens=tokenizer.vocab_size)
    in_full = replace(folder, adapter=replace(adapter, low_rank=replace(adapter.low_rank, four_bits=False)))
    found = {"full": _loss(build_model(config, in_full), examples, end)}
    beside = build_model(config, folder)
    found["beside"] = _loss(beside, examples, end)

    from ift.model.adapters import merge_adapters

    merge_adapters(beside)
    return {**found, "4bit": _loss(beside, examples, end)}


def validation_rows(settings: Settings, run: RunFolder) -> tuple[Sequence[Example], int]:
    """The run's validation rows, read from its data anew, and the token that is learnt after an answer."""
    from ift.data.contract.prepare import prepare
    from ift.text.encoding import turn_end

    folder, tokenizer, template = open_model_folder(run.model)
    context = settings.model.context_length or folder.config.context_length
    data = prepare(settings.data, template, tokenizer, context_length=context)
    return data.examples["val"], turn_end(template, tokenizer)


def _loss(model: GPT, examples: Sequence[Example], end_of_text: int) -> float:
    import torch

    from ift.artifacts.machine import placed
    from ift.data.batches import collate_unpadded
    from ift.training.objectives import CrossEntropy

    objective, loss, weight = CrossEntropy(), 0.0, 0
    placed(model, "auto", "fp32")
    with torch.no_grad():
        for begin in range(0, len(examples), ROWS):
            batch = collate_unpadded(
                examples[begin : begin + ROWS], end_of_text=end_of_text, border=model.config.border
            )
            there = {name: getattr(batch, name).to(model.device) for name in ("input_ids", "targets", "supervised")}
            sums = objective(model, batch._replace(**there))
            loss, weight = loss + float(sums.loss), weight + sums.weight
    return loss / max(weight, 1)

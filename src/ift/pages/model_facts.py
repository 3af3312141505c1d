"""What a run's model is, in lines that a person reads: off the files of its folder, and no weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ift.forms import DATA_REPORT
from ift.model.config import GPTConfig
from ift.model.families import read_config, stops_of
from ift.pages.plots import finite
from ift.run import DAMAGE, RunFolder, read_object

STOPS = 12  # that are named


def model_facts(run: RunFolder) -> dict[str, str]:
    """Family, size, vocabulary, tokenizer, template and what ends an answer; what is not known is left out."""
    adapter, report = _read(run, "adapter_config.json"), read_object(run.data_report, DATA_REPORT, advice="")[0]
    base = str(adapter.get("base_model_name_or_path") or "")
    config = read_object(Path(base) / "config.json", advice="")[0] if base else _read(run, "config.json")
    facts: dict[str, str] = {"adapter": f"{_kind(adapter)} of rank {adapter.get('r')}, on {base}"} if base else {}
    try:
        its = read_config(config) if config else None
    except (*DAMAGE, AttributeError):
        its = None
    if its:
        facts["family"] = its.family
        facts["size"] = _size(its, finite(read_object(run.summary, advice="")[0].get("parameters")))
        facts["context"] = f"{its.context_length:,} tokens"
        facts["vocabulary"] = f"{its.vocab_size:,} rows"
    facts["tokenizer"] = _named(report, "tokenizer")
    facts["template"] = _named(report, "prompt")
    if its:
        facts["answers end with"] = _stops(run, config, its)
    return {what: fact for what, fact in facts.items() if fact}


def _kind(adapter: Mapping[str, Any]) -> str:
    return "DoRA" if adapter.get("use_dora") else "rsLoRA" if adapter.get("use_rslora") else "LoRA"


def _size(its: GPTConfig, parameters: float | None) -> str:
    heads = f"{its.n_head} heads"
    if its.n_kv_head != its.n_head:
        heads += f", {its.n_kv_head} of keys and values"
    count = "" if parameters is None else f"{parameters:,.0f} parameters: "
    return f"{count}{its.n_layer} layers of {its.n_embd:,} channels, {heads}"


def _named(report: Mapping[str, Any], key: str) -> str:
    name, hash = report.get(key), report.get(f"{key}_hash")
    if not isinstance(name, str):
        return ""
    return f"{name} {hash[:6]}" if isinstance(hash, str) else name


def _stops(run: RunFolder, config: Mapping[str, Any], its: GPTConfig) -> str:
    """Each token as tokenizer.json spells it."""
    ids = stops_of(config, its.vocab_size) | stops_of(_read(run, "generation_config.json"), its.vocab_size)
    added = _read(run, "tokenizer.json").get("added_tokens")
    spelled = {}
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            spelled[entry["id"]] = str(entry.get("content"))
    names = [spelled.get(id, f"token {id}") for id in sorted(ids)]
    return ", ".join(names[:STOPS]) + (f" and {len(names) - STOPS} more" if len(names) > STOPS else "")


def _read(run: RunFolder, name: str) -> dict[str, Any]:
    """A file of the model folder; {} where it is not there or damaged, which is told where the model is loaded."""
    return read_object(run.model / name, advice="")[0]

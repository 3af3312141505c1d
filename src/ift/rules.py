"""Which values a setting may have, and which settings go together. Needs no torch, and no settings object either.

A rule of one value stands in a table by the whole key. A rule of several is a function of all values by their keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Values = Mapping[str, Any]  # every setting by its whole key; of `ift check` only some are there
Rule = tuple[Callable[[Any], bool], str]  # whether a value is right, and the words for it

# whether KEY=VALUE is a secret: by the name of the key, or by the look of the value, a prefix and letters and digits
SECRET = re.compile(
    r"""(^|[._+])(api_?key|token|password|secret)=|=['"]?(sk-[\w-]{20}|(hf_|ghp_)[a-z0-9]{30}|AKIA[a-z0-9]{16})""",
    re.IGNORECASE,
)


def above(low: float) -> Rule:
    return (lambda v: v > low), f"above {low:g}"


def at_least(low: float) -> Rule:
    return (lambda v: v >= low), f"{low:g} or more"


def within(low: float, high: float) -> Rule:
    return (lambda v: low <= v <= high), f"from {low:,} to {high:,}"


def one_of(*choices: str | bool) -> Rule:
    return (lambda v: v in choices), "one of " + ", ".join(str(c).lower() for c in choices)


def number_or_share(what: str, *, of: str, least: int = 1) -> Rule:
    """As Lightning's limits: 1 is one of them, 1.0 all of them."""

    def is_right(v: Any) -> bool:
        if isinstance(v, float):
            return 0 < v <= 1
        return isinstance(v, int) and not isinstance(v, bool) and v >= least

    return is_right, f"a number of {what} (a whole number, {least} or more) or a share of {of} (above 0, 1.0 at most)"


def is_target(value: Any) -> bool:
    """Whether Hydra's instantiate could make something of it: a mapping with the dotted name of a class."""
    target = value.get("_target_") if isinstance(value, dict) else None
    return isinstance(target, str) and "." in target.strip(".")


# What computes a known evaluation, as eval.engine names it: `ift.evaluation.engines` has the module of each.
ENGINES = (
    "lm_eval", "before_after", "humaneval", "alpaca_eval", "arena", "openai_evals", "helm", "calibration", "mt_bench",
)  # fmt: skip

# optim.name -> what it has to set besides a rate, decay and clipping
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adamw": ("beta1", "beta2", "eps"),
    "adafactor": (),  # its memory and both its eps are its own
    "sgd": ("momentum",),
    "lion": ("beta1", "beta2"),
    "muon": ("momentum", "beta1", "beta2", "eps"),
    "adamw8bit": ("beta1", "beta2", "eps"),
}

MONITORS = {"val/loss": "min", "val/perplexity": "min", "val/accuracy": "max", "train/loss": "min"}

SEED = within(0, 2**32 - 1)
GENERATE = {
    "max_new_tokens": at_least(1),
    "temperature": at_least(0),
    "top_k": at_least(1),
    "top_p": within(0.001, 1),
    "repetition_penalty": above(0),
    "stop": ((lambda v: v != ""), "texts that are not empty"),
    "batch_size": at_least(1),
}

# By the whole key. None always means "not set", so no rule is asked about it.
TRAINING_RULES: dict[str, Rule] = {
    "seed": SEED,
    "samples.rows": at_least(0),
    "samples.max_new_tokens": at_least(1),
    "model.n_layer": at_least(1),
    "model.n_head": at_least(1),
    "model.n_embd": at_least(1),
    "model.context_length": at_least(2),
    "model.dropout": within(0, 0.99),
    "data.demo_rows": within(50, 20000),
    "data.limit": at_least(1),
    "data.weights": at_least(0),
    "data.turns": one_of("error", "merge", "drop"),
    "data.split": one_of("clustered", "random", "positional"),
    "data.split_seed": SEED,
    "data.fractions.train": within(0, 1),
    "data.fractions.test": within(0, 1),
    "data.fractions.val": within(0, 1),
    "data.max_length": at_least(2),
    "data.too_long": one_of("drop", "drop_turns", "truncate_prompt", "truncate_response", "error"),
    "data.truncate": one_of("end", "start"),
    "data.max_dropped": within(0, 1),
    "data.duplicates": one_of("merge", "keep"),
    "data.twins": within(0.5, 1),
    "data.batching": one_of("unpadded", "padded"),
    "data.pad_to": at_least(1),
    "data.batch_size": at_least(1),
    "data.num_workers": at_least(0),
    "prompt.turns": one_of("all", "last"),
    "adapter.name": one_of("none", "lora", "dora", "qlora"),
    "adapter.rank": within(1, 65536),
    "adapter.alpha": above(0),
    "adapter.dropout": within(0, 0.99),
    "adapter.targets": (lambda v: isinstance(v, str) and v != "", "all, or names of matrices: [q_proj,v_proj]"),
    "adapter.layers": at_least(0),
    "adapter.trainable_tokens": (
        lambda v: isinstance(v, str | int) and not isinstance(v, bool) and v != "",
        "auto, none, or ids and spellings of tokens: [<|im_end|>,7]",
    ),
    "optim.name": one_of(*OPTIMIZERS),
    "optim.lr": above(0),
    "optim.weight_decay": at_least(0),
    "optim.decay": one_of("matrices", "all"),
    "optim.beta1": within(0, 0.9999),
    "optim.beta2": within(0, 0.99999),
    "optim.eps": above(0),
    "optim.momentum": within(0, 0.9999),
    "optim.schedule": one_of("cosine", "linear", "constant", "wsd"),
    "optim.warmup": within(0, 1),
    "optim.warmup_steps": at_least(0),
    "optim.cooldown": within(0.001, 1),
    "optim.min_lr": within(0, 1),
    "optim.clip": above(0),
    "optim.rewarm": within(0, 1),
    "optim.restart_at": at_least(1),
    "optim.label_smoothing": within(0, 0.99),
    "optim.neftune_alpha": above(0),
    "optim.layer_decay": within(0.1, 1),
    "trainer.max_epochs": at_least(1),
    "trainer.max_steps": at_least(1),
    "trainer.accumulate": at_least(1),
    "trainer.nodes": at_least(1),
    "trainer.strategy": one_of("auto", "ddp", "fsdp"),
    "trainer.shard_size": at_least(1),
    "trainer.val_every": number_or_share("steps", of="an epoch"),
    "trainer.limit_train_batches": number_or_share("batches", of="them"),
    "trainer.limit_val_batches": number_or_share("batches", of="them", least=0),
    "trainer.limit_test_batches": number_or_share("batches", of="them", least=0),
    "trainer.deterministic": one_of(False, True, "warn"),
    "trainer.profiler": one_of("simple", "advanced", "pytorch"),
    "trainer.monitor": one_of(*MONITORS),
    "trainer.save_top_k": (lambda v: v == -1 or v >= 1, "1 or more, or -1 for all"),
    "trainer.callbacks": (is_target, "a list of classes: [{_target_: my.module.Class, argument: 1}]"),
    "trainer.save_every": at_least(1),
    "trainer.skip_nonfinite": at_least(0),
    "trainer.early_stopping.patience": at_least(1),
    "trainer.early_stopping.min_delta": at_least(0),
    "trainer.early_stopping.siblings": at_least(1),
    **{f"generate.{key}": rule for key, rule in GENERATE.items()},
}
EVALUATION_RULES: dict[str, Rule] = {
    "seed": SEED,
    "eval.engine": one_of("responses", "score", "judge", *ENGINES, "all"),
    "eval.limit": at_least(1),
    "eval.num_fewshot": within(0, 64),
    "eval.prompts": one_of("raw", "template"),
    "eval.attempts": within(1, 1000),
    "eval.turns": within(1, 2),
    "eval.temperatures": ((lambda v: all(t >= 0 for t in v.values())), "numbers of 0 or more"),
    "eval.sandbox.kind": one_of("auto", "landlock", "namespaces", "bubblewrap", "container"),
    "eval.sandbox.seconds": within(0.1, 600),
    "eval.sandbox.megabytes": within(64, 65536),
    **{f"eval.generate.{key}": rule for key, rule in GENERATE.items()},
    "judge.reply": one_of("score", "rubric", "winner"),
    "judge.server": one_of("ollama", "openai", "replay"),
    "judge.limit": at_least(1),
    "judge.canaries": within(0, 20),
    "judge.max_characters": at_least(1),
    "judge.max_tokens": at_least(1),
    "judge.temperature": at_least(0),
    "judge.seed": SEED,
    "judge.context_length": at_least(2),
    "judge.concurrency": within(1, 64),
    "judge.timeout": above(0),
    "judge.retries": within(0, 20),
    "judge.price_in": at_least(0),
    "judge.price_out": at_least(0),
    "judge.max_cost": at_least(0),
}


# -- settings that do not go together --------------------------------------------------------------------------------

Together = Callable[[Values], str | None]  # what is wrong, as an error says it


def optimizer_has(values: Values) -> str | None:
    """What this optimizer has is set, what it does not have is not."""
    name = values["optim.name"]
    for key in ("beta1", "beta2", "eps", "momentum"):
        value, has = values[f"optim.{key}"], key in OPTIMIZERS[name]
        if has and value is None:
            return f"optim.{key}: not set, and optim={name} needs it (add optim.{key}=... to the command)"
        if not has and value is not None:
            others = ", ".join(other for other, keys in OPTIMIZERS.items() if key in keys)
            return f"optim.{key}={value}: optim={name} has none (leave it out; {others} have it)"
    return None


def schedule_has(values: Values) -> str | None:
    schedule, cooldown, steps = values["optim.schedule"], values["optim.cooldown"], values["optim.warmup_steps"]
    if cooldown is None:
        return None
    if schedule != "wsd":
        return f"optim.cooldown={cooldown}: optim.schedule={schedule} has none (leave it out, or optim.schedule=wsd)"
    warmup = values["optim.warmup"]
    if steps is None and warmup + cooldown > 1:
        return f"optim.cooldown={cooldown}: with optim.warmup={warmup} more than all steps (lower one of them)"
    return None


def fast_dev_run_alone(values: Values) -> str | None:
    """It keeps nothing, so nothing can go on from it or be looked at afterwards."""
    if not values["trainer.fast_dev_run"]:
        return None
    key = f"trainer.fast_dev_run={values['trainer.fast_dev_run']}"
    if values["resume"]:
        return f"{key}: a run that goes on would keep nothing of it (leave one of the two out)"
    if values["dry_run"]:
        return f"{key}: dry_run=true takes no step (leave one of the two out)"
    if values["trainer.profiler"]:
        return f"{key}: keeps no profile (use trainer.max_steps={values['trainer.fast_dev_run']})"
    return None


def fp16_has_a_gpu(values: Values) -> str | None:
    if values["trainer.precision"] == "fp16" and values["trainer.accelerator"] == "cpu":
        return "trainer.precision=fp16: for CUDA devices (with trainer.accelerator=cpu use bf16 or fp32)"
    return None


def several_need_validation(values: Values) -> str | None:
    k, limit = values["trainer.save_top_k"], values["trainer.limit_val_batches"]
    if k != 1 and isinstance(limit, int) and limit == 0:
        return f"trainer.save_top_k={k}: no validation compares models (leave out trainer.limit_val_batches=0)"
    return None


def rewarm_without_a_restart(values: Values) -> str | None:
    if values["optim.rewarm"] is None or values["optim.restart_at"] is not None or values["resume"] is not None:
        return None
    return "optim.rewarm: is for a run that goes on longer (resume=RUN trainer.max_epochs=N, or optim.restart_at=STEP)"


def compiled_is_padded(values: Values) -> str | None:
    if values["model.compile"] and values["data.batching"] != "padded":
        return "model.compile=true: rows without padding cannot be compiled (add data.batching=padded)"
    return None


def adapter_has(values: Values) -> str | None:
    """What an adapter needs is set; without one, nothing of it is."""
    name = values["adapter.name"]
    if name == "none":
        for key in ("rank", "alpha", "rslora", "dora", "dropout", "layers"):
            if given := values[f"adapter.{key}"]:
                return f"adapter.{key}={given}: adapter=none has none (add adapter=lora to the command)"
        if (targets := values["adapter.targets"]) != "all":
            return f"adapter.targets={targets}: adapter=none has none (add adapter=lora to the command)"
        if (tokens := values["adapter.trainable_tokens"]) != "none":
            return f"adapter.trainable_tokens={tokens}: adapter=none trains all rows (add adapter=lora to the command)"
        return None
    for key in ("rank", "alpha"):
        if values[f"adapter.{key}"] is None:
            return f"adapter.{key}: not set, and adapter={name} needs it (add adapter.{key}=... to the command)"
    for key in ("targets", "layers"):
        if values[f"adapter.{key}"] == []:
            return f"adapter.{key}=[]: leaves nothing to train (leave it out to take all)"
    return None


def four_bits_are_not_compiled(values: Values) -> str | None:
    if values["adapter.name"] == "qlora" and values["model.compile"]:
        return "model.compile=true: weights in 4 bits are not compiled (adapter=lora, or model.compile=false)"
    return None


def adapter_has_a_base(values: Values) -> str | None:
    if values["adapter.name"] != "none" and values["model.pretrained"] is None:
        name, model = values["adapter.name"], values["model.name"]
        return f"adapter={name}: model={model} has fresh weights (model.pretrained=FOLDER_OR_NAME, or leave it out)"
    return None


def adapter_alone_is_trained(values: Values) -> str | None:
    if values["adapter.name"] != "none" and values["model.freeze"]:
        frozen = ",".join(values["model.freeze"])
        return (
            f"model.freeze=[{frozen}]: adapter={values['adapter.name']} freezes all of the base already "
            "(leave it out; adapter.targets and adapter.layers choose where it learns)"
        )
    return None


SHARDS = ("adamw", "lion", "sgd")  # optimizers that work on slices: they change each weight by itself


def sharded_has(values: Values) -> str | None:
    """What works on slices of weights, and what is for them alone."""
    if values["trainer.strategy"] != "fsdp":
        for key, nothing in (("trainer.shard_size", None), ("trainer.sum_every_batch", False)):
            if values[key] != nothing:
                return f"{key}={values[key]}: is for trainer.strategy=fsdp (leave it out, or trainer=fsdp)"
        return None
    if (name := values["optim.name"]) not in SHARDS:
        return f"optim={name}: needs whole weights, and trainer=fsdp has slices (optim={' or optim='.join(SHARDS)})"
    if values["model.compile"]:
        return "model.compile=true: not with trainer=fsdp, whose blocks are gathered as they run (leave one out)"
    return None


TRAINING_TOGETHER: tuple[Together, ...] = (
    sharded_has,
    optimizer_has,
    schedule_has,
    fast_dev_run_alone,
    several_need_validation,
    fp16_has_a_gpu,
    rewarm_without_a_restart,
    compiled_is_padded,
    adapter_has,
    adapter_has_a_base,
    four_bits_are_not_compiled,
    adapter_alone_is_trained,
)

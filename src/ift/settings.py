"""Everything that can be decided, as plain typed values. The values themselves stand in `conf/`, never here.

The entry points turn a composed configuration into `Settings` once; nothing else in `ift` sees a config object.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from ift.errors import ConfigError
from ift.forms import CONFIG


@dataclass
class ModelSettings:
    name: str
    n_layer: int | None
    n_head: int | None
    n_embd: int | None
    context_length: int | None
    dropout: float
    tie_weights: bool
    pretrained: str | None
    tokenizer: str


@dataclass
class FieldSettings:
    instruction: str | None
    input: str | None
    output: str | None
    system: str | None
    history: str | None
    category: str | None
    tools: str | None
    messages: str | None
    conversations: str | None


@dataclass
class FractionSettings:
    train: float
    test: float
    val: float


@dataclass
class DataSettings:
    path: Any  # one path or a list of them
    weights: list[float] | None
    val_path: Any
    test_path: Any
    hub: str | None
    demo_rows: int | None
    fields: FieldSettings
    ignore: list[str]
    turns: str
    split: str
    fractions: FractionSettings
    max_length: int | None
    too_long: str
    truncate: str | None
    max_dropped: float
    duplicates: str
    twins: float | None
    against: list[str]
    cache_dir: str | None
    batching: str
    share_prefix: bool
    pad_to: int | None
    batch_size: int
    drop_last: bool
    num_workers: int


@dataclass
class SegmentSettings:
    text: str
    supervised: bool = False
    when: str = "always"


@dataclass
class PromptSettings:
    name: str
    mask: bool
    turns: str = "all"
    chat_template: str | None = None
    segments: list[SegmentSettings] = field(default_factory=list)


@dataclass
class OptimSettings:
    lr: float
    weight_decay: float
    decay: str
    beta1: float
    beta2: float
    schedule: str
    warmup: float
    min_lr: float
    clip: float | None


@dataclass
class EarlyStoppingSettings:
    patience: int | None
    min_delta: float


@dataclass
class TrainerSettings:
    max_epochs: int
    max_steps: int | None
    accumulate: int
    precision: str
    accelerator: str
    devices: int
    strategy: str
    val_every: int | None
    save_every: int | None
    skip_nonfinite: int
    early_stopping: EarlyStoppingSettings


@dataclass
class GenerateSettings:
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    batch_size: int | None


@dataclass
class SamplesSettings:
    rows: int
    max_new_tokens: int


@dataclass
class LoggerSettings:
    name: str
    project: str
    entity: str | None
    group: str | None
    run_name: str | None
    log_model: bool


@dataclass
class Settings:
    """The settings of `train.py`."""

    seed: int
    output_dir: str
    resume: str | None
    dry_run: bool
    samples: SamplesSettings
    model: ModelSettings
    data: DataSettings
    prompt: PromptSettings
    optim: OptimSettings
    trainer: TrainerSettings
    generate: GenerateSettings
    logger: LoggerSettings


@dataclass
class CheckSettings:
    """The settings of `ift check`: those of training that decide how rows become examples."""

    seed: int
    model: ModelSettings
    data: DataSettings
    prompt: PromptSettings


@dataclass
class SandboxSettings:
    kind: str
    seconds: float
    megabytes: int
    image: str | None


@dataclass
class EvalSettings:
    name: str
    engine: str
    tasks: list[str]
    limit: int | None
    num_fewshot: int | None
    prompts: list[str]
    base: bool
    allow_code_execution: bool
    attempts: int
    sandbox: SandboxSettings
    against: list[str]
    battles: str | None
    registry: list[str]
    environment: str | None
    generate: GenerateSettings


@dataclass
class JudgeSettings:
    name: str
    reply: str
    low: int
    high: int
    system: str
    prompt: str
    again: str
    model: str | None
    server: str
    base_url: str | None
    key_variable: str
    replay: str | None
    against: str | None
    limit: int | None
    canaries: int
    max_characters: int
    max_tokens: int
    temperature: float
    seed: int
    context_length: int
    reasoning: bool
    concurrency: int
    timeout: float
    retries: int
    price_in: float | None
    price_out: float | None
    max_cost: float
    dry_run: bool


@dataclass
class EvaluateSettings:
    """The settings of `evaluate.py`."""

    run: str
    seed: int
    accelerator: str
    precision: str
    offline: bool
    data_root: str | None
    eval: EvalSettings
    judge: JudgeSettings


Rule = tuple[Callable[[Any], bool], str]  # whether a value is right, and the words for it


def _above(low: float) -> Rule:
    return (lambda v: v > low), f"above {low:g}"


def _at_least(low: float) -> Rule:
    return (lambda v: v >= low), f"{low:g} or more"


def _within(low: float, high: float) -> Rule:
    return (lambda v: low <= v <= high), f"from {low:,} to {high:,}"


def _one_of(*choices: str) -> Rule:
    return (lambda v: v in choices), "one of " + ", ".join(choices)


# What computes a known evaluation, as eval.engine names it: `ift.evaluation.engines` has the module of each.
ENGINES = ("lm_eval", "humaneval", "alpaca_eval", "arena", "openai_evals", "helm")

SEED = _within(0, 2**32 - 1)
ACCELERATOR, PRECISION = _one_of("auto", "cpu", "gpu"), _one_of("auto", "fp32", "bf16")
GENERATE = {
    "max_new_tokens": _at_least(1),
    "temperature": _at_least(0),
    "top_k": _at_least(1),
    "top_p": _within(0.001, 1),
    "batch_size": _at_least(1),
}

# By the whole key. None always means "not set", so no rule is asked about it.
TRAINING_RULES: dict[str, Rule] = {
    "seed": SEED,
    "samples.rows": _at_least(0),
    "samples.max_new_tokens": _at_least(1),
    "model.n_layer": _at_least(1),
    "model.n_head": _at_least(1),
    "model.n_embd": _at_least(1),
    "model.context_length": _at_least(2),
    "model.dropout": _within(0, 0.99),
    "data.demo_rows": _within(50, 20000),
    "data.weights": _at_least(0),
    "data.turns": _one_of("error", "merge", "drop"),
    "data.split": _one_of("clustered", "random", "positional"),
    "data.fractions.train": _within(0, 1),
    "data.fractions.test": _within(0, 1),
    "data.fractions.val": _within(0, 1),
    "data.max_length": _at_least(2),
    "data.too_long": _one_of("drop", "drop_turns", "truncate_prompt", "truncate_response", "error"),
    "data.truncate": _one_of("end", "start"),
    "data.max_dropped": _within(0, 1),
    "data.duplicates": _one_of("merge", "keep"),
    "data.twins": _within(0.5, 1),
    "data.batching": _one_of("unpadded", "padded"),
    "data.pad_to": _at_least(1),
    "data.batch_size": _at_least(1),
    "data.num_workers": _at_least(0),
    "prompt.turns": _one_of("all", "last"),
    "optim.lr": _above(0),
    "optim.weight_decay": _at_least(0),
    "optim.decay": _one_of("matrices", "all"),
    "optim.beta1": _within(0, 0.9999),
    "optim.beta2": _within(0, 0.99999),
    "optim.schedule": _one_of("cosine", "constant"),
    "optim.warmup": _within(0, 1),
    "optim.min_lr": _within(0, 1),
    "optim.clip": _above(0),
    "trainer.max_epochs": _at_least(1),
    "trainer.max_steps": _at_least(1),
    "trainer.accumulate": _at_least(1),
    "trainer.precision": PRECISION,
    "trainer.accelerator": ACCELERATOR,
    "trainer.devices": _at_least(1),
    "trainer.strategy": _one_of("auto", "ddp"),
    "trainer.val_every": _at_least(1),
    "trainer.save_every": _at_least(1),
    "trainer.skip_nonfinite": _at_least(0),
    "trainer.early_stopping.patience": _at_least(1),
    "trainer.early_stopping.min_delta": _at_least(0),
    "logger.name": _one_of("wandb", "none"),
    **{f"generate.{key}": rule for key, rule in GENERATE.items()},
}
EVALUATION_RULES: dict[str, Rule] = {
    "seed": SEED,
    "precision": PRECISION,
    "accelerator": ACCELERATOR,
    "eval.engine": _one_of("responses", "judge", *ENGINES, "all"),
    "eval.limit": _at_least(1),
    "eval.num_fewshot": _within(0, 64),
    "eval.prompts": _one_of("raw", "template"),
    "eval.attempts": _within(1, 1000),
    "eval.sandbox.kind": _one_of("auto", "landlock", "namespaces", "bubblewrap", "container"),
    "eval.sandbox.seconds": _within(0.1, 600),
    "eval.sandbox.megabytes": _within(64, 65536),
    **{f"eval.generate.{key}": rule for key, rule in GENERATE.items()},
    "judge.reply": _one_of("score", "rubric", "winner"),
    "judge.server": _one_of("ollama", "openai", "replay"),
    "judge.limit": _at_least(1),
    "judge.canaries": _within(0, 20),
    "judge.max_characters": _at_least(1),
    "judge.max_tokens": _at_least(1),
    "judge.temperature": _at_least(0),
    "judge.seed": SEED,
    "judge.context_length": _at_least(2),
    "judge.concurrency": _within(1, 64),
    "judge.timeout": _above(0),
    "judge.retries": _within(0, 20),
    "judge.price_in": _at_least(0),
    "judge.price_out": _at_least(0),
    "judge.max_cost": _at_least(0),
}
RULES: dict[type, dict[str, Rule]] = {
    Settings: TRAINING_RULES,
    CheckSettings: TRAINING_RULES,  # its keys are some of training's
    EvaluateSettings: EVALUATION_RULES,
}

T = TypeVar("T", Settings, EvaluateSettings, CheckSettings)


def read_settings(config: Mapping[str, Any], kind: type[T]) -> T:
    """A composed configuration as `Settings` or `EvaluateSettings`.

    Raises ConfigError with the key, the value and the rule for an unknown key, a wrong type or a value out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), literal(config))
        settings: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except ConfigKeyError as error:
        raise unknown_key(str(error.full_key or error.key), kind) from error
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(f"{key}: not set (add {key}=... to the command)") from error
    except OmegaConfBaseException as error:
        what = str(error).split("\n")[0]
        raise ConfigError(f"{error.full_key}: {what}") from error
    rules = RULES[kind]
    for key, value in leaves(settings):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be a finite number")
        is_right, words = rules.get(key, (None, ""))
        if is_right and value is not None and not is_right(value):
            raise ConfigError(f"{key}={value}: must be {words}")
    return settings


def literal(value: Any) -> Any:
    """The same for OmegaConf, to which ${x} in a text (the name of a file) would mean another setting."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {name: literal(each) for name, each in value.items()}
    return [literal(each) for each in value] if isinstance(value, list) else value


# What may differ when a run goes on: it changes what is seen of the training, or how fast it is, not what it learns.
MAY_CHANGE = (
    "output_dir", "resume", "dry_run", "logger", "samples", "trainer.save_every", "trainer.skip_nonfinite",
    "data.num_workers", "data.cache_dir",
    "data.ignore",  # of a column that this release reads and the run's did not: the fingerprint says if rows changed
)  # fmt: skip


def settings_to_go_on(run: Settings, asked: Settings, keys: Iterable[str] | None = None) -> Settings:
    """The settings of a run that was stopped, with what may change as it is asked for now.

    keys: the keys or groups that were asked for; None: all of them. Raises ConfigError at the first one that would
    make it another run.
    """
    wanted = None if keys is None else tuple(keys)
    merged, before = dataclasses.asdict(run), dict(plain_leaves(dataclasses.asdict(run)))
    for key, value in plain_leaves(dataclasses.asdict(asked)):
        if wanted is not None and not _below(key, wanted):
            continue
        if _below(key, MAY_CHANGE):
            *path, last = key.split(".")
            place = merged
            for name in path:
                place = place[name]
            place[last] = value
        elif before.get(key) != value:
            raise ConfigError(f"{key}={value}: the run was begun with {before.get(key)} (leave it, or begin a new run)")
    return read_settings(merged, Settings)


def _below(key: str, places: Iterable[str]) -> bool:
    return any(key == place or key.startswith(place + ".") for place in places)


def plain_leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree of dicts; a list is one value."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from plain_leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def load_settings(path: Path) -> Settings:
    """What save_settings wrote, in this release or an earlier one.

    Raises ConfigError where it is missing, was changed into something else, or comes from a later release.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: does not hold settings")
    current = CONFIG.current(plain, path)  # type: ignore[arg-type]
    try:
        return read_settings(current, Settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def save_settings(settings: Settings, path: Path) -> None:
    """Everything that was decided, as YAML. No setting holds a secret: keys come from the environment alone."""
    from ift.run import write_text

    write_text(path, OmegaConf.to_yaml(CONFIG.stamped(dataclasses.asdict(settings))))


def leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every setting below a settings object."""
    for each in dataclasses.fields(settings):
        key, value = prefix + each.name, getattr(settings, each.name)
        items = value if isinstance(value, list) else [value]
        for item in items:
            if dataclasses.is_dataclass(item):
                yield from leaves(item, key + ".")
            else:
                yield key, item


def keys(kind: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a settings class has, groups included."""
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{prefix}{name}.")  # type: ignore[arg-type]


def unknown_key(key: str, kind: type) -> ConfigError:
    """The error for a key that nothing reads, with the nearest one that exists."""
    known = list(keys(kind))
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not nearest:  # the right name in the wrong group: lr -> optim.lr
        leaf = difflib.get_close_matches(key.split(".")[-1], [k.split(".")[-1] for k in known], n=1)
        nearest = [k for k in known if leaf and k.split(".")[-1] == leaf[0]][:1]
    hint = f"did you mean {nearest[0]}?" if nearest else "python train.py --cfg job shows every key"
    return ConfigError(f"{key}: no such key ({hint})")

"""Everything that can be decided, as plain typed values. The values themselves stand in `conf/`, never here.

The entry points turn a composed configuration into `Settings` once; nothing else in `ift` sees a config object.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from ift.errors import ConfigError
from ift.forms import CONFIG
from ift.nearest import absent, nearest
from ift.rules import ENGINES as ENGINES
from ift.rules import EVALUATION_RULES, TRAINING_RULES, TRAINING_TOGETHER, Rule, Together
from ift.spellings import spell


@dataclass
class ModelSettings:
    name: str
    n_layer: int | None
    n_head: int | None
    n_embd: int | None
    context_length: int | None
    dropout: float
    tie_weights: bool | None
    pretrained: str | None
    tokenizer: str | None
    freeze: list[str]
    activation_checkpointing: bool
    compile: bool


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
    limit: int | None
    fields: FieldSettings
    ignore: list[str]
    turns: str
    split: str
    split_seed: int
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
    chat_template: str | None = None  # a folder, a name on the Hub, or "auto": the model's own, else the segments
    special_tokens: bool = True
    segments: list[SegmentSettings] = field(default_factory=list)

    def is_open(self) -> bool:
        """Whether it is left to the model which template it is: prompt=auto, or prompt=chat without a folder."""
        return self.chat_template == "auto" or not (self.chat_template or self.segments)


@dataclass
class AdapterSettings:
    name: str
    rank: int | None
    alpha: float | None
    rslora: bool
    dora: bool
    dropout: float
    targets: Any  # "all", one name or a list of them
    layers: list[int] | None
    trainable_tokens: Any  # "auto", "none", or ids and spellings of tokens


@dataclass
class OptimSettings:
    name: str
    lr: float
    weight_decay: float
    decay: str
    beta1: float | None
    beta2: float | None
    eps: float | None
    momentum: float | None
    schedule: str
    warmup: float
    warmup_steps: int | None
    cooldown: float | None
    min_lr: float
    clip: float | None
    label_smoothing: float
    neftune_alpha: float | None
    rewarm: float | None = None
    restart_at: int | None = None
    layer_decay: float | None = None


@dataclass
class EarlyStoppingSettings:
    patience: int | None
    min_delta: float
    siblings: int | None = None


@dataclass
class TrainerSettings:
    max_epochs: int
    max_steps: int | None
    accumulate: int
    precision: str
    accelerator: str
    devices: Any  # of each node: "auto", a number, or a list of the numbers of GPUs
    nodes: int | None
    strategy: str
    shard_size: int | None
    sum_every_batch: bool
    val_every: Any  # optimizer steps (int), or a share of an epoch (float)
    save_every: int | None
    skip_nonfinite: int
    limit_train_batches: Any  # a number of batches (int), or a share of them (float)
    limit_val_batches: Any
    limit_test_batches: Any
    fast_dev_run: Any  # steps; 0: a real run
    deterministic: Any  # false, true or "warn"
    profiler: str | None
    monitor: str
    save_top_k: int
    callbacks: list[Any]  # what Hydra's instantiate takes; made from the command alone, never from a run's config.yaml
    early_stopping: EarlyStoppingSettings

    @property
    def devices_alone(self) -> int:
        """Devices where neither the settings nor a launcher say how many."""
        return 2 if self.strategy in ("ddp", "fsdp") else 1


@dataclass
class GenerateSettings:
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    batch_size: int | None
    repetition_penalty: float | None = None
    stop: list[str] = field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        """What decides an answer, for the names of kept answers. What was added later, only where it is set."""
        later = ("repetition_penalty", "stop")
        return {key: value for key, value in dataclasses.asdict(self).items() if value or key not in later}


@dataclass
class SamplesSettings:
    rows: int
    max_new_tokens: int


@dataclass
class LoggerSettings:
    wandb: bool
    tensorboard: bool
    csv: bool
    project: str | None
    entity: str | None
    group: str | None
    run_name: str | None
    tags: list[str] | None
    notes: str | None
    job_type: str | None
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
    adapter: AdapterSettings
    optim: OptimSettings
    trainer: TrainerSettings
    generate: GenerateSettings
    logger: LoggerSettings


@dataclass
class CheckSettings:
    """The settings of `ift check`: those of training that decide how rows become examples."""

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
    turns: int
    temperatures: dict[str, float]
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
    temperature: float | None
    seed: int | None
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


RULES: dict[type, dict[str, Rule]] = {
    Settings: TRAINING_RULES,
    CheckSettings: TRAINING_RULES,  # its keys are some of training's
    EvaluateSettings: EVALUATION_RULES,
}
TOGETHER: dict[type, tuple[Together, ...]] = {Settings: TRAINING_TOGETHER}

T = TypeVar("T", Settings, EvaluateSettings, CheckSettings)


def read_settings(config: Mapping[str, Any], kind: type[T]) -> T:
    """A composed configuration as `Settings` or `EvaluateSettings`.

    Raises ConfigError with the key, the value and the rule for an unknown key, a wrong type, a value out of range or
    one that does not go with another.
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
    spell(settings)
    rules = RULES[kind]
    for key, value in leaves(settings):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be a finite number")
        is_right, words = rules.get(key, (None, ""))
        if is_right and value is not None and not is_right(value):
            raise ConfigError(f"{key}={value}: must be {words}")
    values = dict(plain_leaves(dataclasses.asdict(settings)))
    for rule in TOGETHER.get(kind, ()):
        if problem := rule(values):
            raise ConfigError(problem)
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
    "trainer.profiler", "trainer.save_top_k",
    "data.num_workers", "data.cache_dir", "model.activation_checkpointing",
    "data.ignore",  # of a column that this release reads and the run's did not: the fingerprint says if rows changed
)  # fmt: skip

# What may differ where resume= is typed: another end than the run was begun with (ift.training.longer).
LONGER = ("trainer.max_epochs", "trainer.max_steps", "optim.rewarm")
# Likewise: other processes, or another number of them, that take the same steps (ift.training.resume).
ELSEWHERE = (
    "trainer.devices", "trainer.nodes", "trainer.strategy", "trainer.accumulate", "trainer.shard_size",
    "trainer.sum_every_batch", "data.batch_size",
)  # fmt: skip


def _left_to_the_model(run: Settings, asked: Settings, typed: Collection[str] | None) -> Iterator[str]:
    """Keys that were decided when the run began, by the model that it began with, and that the command leaves open."""
    if asked.prompt.is_open():
        yield from ("prompt.name", "prompt.chat_template", "prompt.segments")
        if typed is not None:
            yield from {"prompt.mask", "prompt.turns", "prompt.special_tokens"} - set(typed)
    began, named = run.model.pretrained, asked.model.pretrained
    if began is not None and named is not None and Path(began) in (Path(named), Path(named) / "model"):
        yield "model.pretrained"  # a run is named for its model
        untyped = asked.model.tokenizer is None if typed is None else "model.tokenizer" not in typed
        if untyped and run.model.tokenizer == began:
            yield "model.tokenizer"


def settings_to_go_on(
    run: Settings, asked: Settings, keys: Iterable[str] | None = None, typed: Collection[str] | None = None
) -> Settings:
    """The settings of a run that was stopped, with what may change as it is asked for now.

    keys: the keys or groups that were asked for; None: all of them; typed: those that the command names;
    None: any may be. Raises ConfigError at the first one that would make it another run.
    """
    wanted = None if keys is None else tuple(keys)
    left_open = set(_left_to_the_model(run, asked, typed))
    merged, before = dataclasses.asdict(run), dict(plain_leaves(dataclasses.asdict(run)))
    for key, value in plain_leaves(dataclasses.asdict(asked)):
        if key in left_open or (wanted is not None and not _below(key, wanted)):
            continue
        if _below(key, MAY_CHANGE) or (wanted is not None and key in LONGER + ELSEWHERE):
            *path, last = key.split(".")
            place = merged
            for name in path:
                place = place[name]
            place[last] = value
        elif before.get(key) != value:
            advice = f"resume={run.output_dir} {key}=... goes on to another end" if key in LONGER[:2] else "leave it"
            raise ConfigError(f"{key}={value}: the run was begun with {before.get(key)} ({advice}, or begin a new run)")
    settings = read_settings(merged, Settings)
    _refuse_other_steps(run, settings)
    return settings


def _refuse_other_steps(run: Settings, now: Settings) -> None:
    """Raises ConfigError where the processes would share out another number of rows a step, as far as settings say."""
    (there, rows), (here, rows_now) = _ranks_and_rows(run), _ranks_and_rows(now)
    if not there or not here or rows == rows_now:
        return
    accumulate, rest = divmod(rows, now.data.batch_size * here)
    advice = "leave it" if rest else f"trainer.accumulate={accumulate} takes the same steps"
    raise ConfigError(
        f"trainer.devices={now.trainer.devices}: a step would have {rows_now} rows, and those of the run have {rows} "
        f"({advice}, or begin a new run)"
    )


def _ranks_and_rows(settings: Settings) -> tuple[int, int]:
    """Ranks, and rows of a step; 0 where the machine decides it."""
    devices = settings.trainer.devices
    ranks = (len(devices) if isinstance(devices, list | tuple) else devices) or 0
    if not isinstance(ranks, int) or ranks < 1:
        return 0, 0
    ranks *= settings.trainer.nodes or 1
    return ranks, ranks * settings.data.batch_size * settings.trainer.accumulate


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
    """The error for a key that nothing reads, with the one that was most likely meant."""
    meant = nearest(key, keys(kind))
    command = "evaluate" if kind is EvaluateSettings else "train"
    hint = f"did you mean {meant}?" if meant else absent(key) or f"ift {command} --cfg job shows every key"
    return ConfigError(f"{key}: no such key ({hint})")

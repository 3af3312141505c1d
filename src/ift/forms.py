"""Files that outlive a release, and the version of their form.

config.yaml, results.json, data_report.json and manifest.json say under `format` which version of their form they are;
a file that says nothing is version 1. A reader brings an older file to today's form, one version at a time, by the
migrations below. It changes nothing on disk.

Whoever adds, renames or removes something that readers rely on adds one migration here, and with it the version goes
up by one. A setting that was added gets the value that means what the release before did:

    CONFIG = Form("config.yaml", (added({"adapter.rank": 0}),))       # from version 1 to 2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.errors import ConfigError

KEY = "format"
Migration = Callable[[dict[str, Any]], dict[str, Any]]  # the content of one version as that of the next


@dataclass(frozen=True)
class Form:
    """A kind of file. migrations: the first leads from version 1 to 2, the next from 2 to 3."""

    name: str
    migrations: tuple[Migration, ...] = ()

    @property
    def version(self) -> int:
        """The version that this release writes."""
        return 1 + len(self.migrations)

    def stamped(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content as it is written, with its version."""
        return {KEY: self.version, **{key: value for key, value in content.items() if key != KEY}}

    def current(self, content: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """The content of a file of any earlier version in today's form, without its version.

        Raises ConfigError for a file of a later release.
        """
        version = content.get(KEY, 1)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ConfigError(f"{path}: {KEY}={version!r:.40} is no version of {self.name} (was it changed by hand?)")
        if version > self.version:
            raise ConfigError(
                f"{path}: version {version} of {self.name}, and this release reads up to version {self.version} "
                "(install a newer ift)"
            )
        migrated = {key: value for key, value in content.items() if key != KEY}
        for migrate in self.migrations[version - 1 :]:
            migrated = migrate(migrated)
        return migrated


def added(values: Mapping[str, Any]) -> Migration:
    """The migration for settings that were added: their whole keys, with what the release before did."""

    def migrate(content: dict[str, Any]) -> dict[str, Any]:
        for key, value in values.items():
            content = _with(content, key.split("."), value)
        return content

    return migrate


def _with(tree: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    if rest:
        inner = tree.get(name, {})
        if not isinstance(inner, Mapping):  # what was changed by hand is refused where it is read
            return dict(tree)
        return {**tree, name: _with(inner, rest, value)}
    return {name: value, **tree}


FIELDS = ("instruction", "input", "output", "system", "category", "messages", "conversations")


def columns_by_form(content: dict[str, Any]) -> dict[str, Any]:
    """From version 1 to 2: names of columns that were defaults are now found by the file's form.

    Turns out of order were an error, a prompt that was cut lost its end.
    """
    content = added({"data.ignore": [], "data.turns": "error", "data.truncate": None, "data.fields": {}})(content)
    data = content["data"] if isinstance(content["data"], Mapping) else {}
    if not isinstance(data.get("fields"), Mapping):
        return content
    fields = {name: None if value == name else value for name, value in data["fields"].items()}
    return {**content, "data": {**data, "fields": {**dict.fromkeys((*FIELDS, "history", "tools")), **fields}}}


# Added with version 3, by the whole key: what the release before did. None of these was ever in an older file.
SETTINGS_OF_3: dict[str, Any] = {
    "trainer.nodes": 1,
    "model.freeze": [],
    "model.activation_checkpointing": False,
    "model.compile": False,
    "optim.name": "adamw",
    "optim.eps": 1e-8,
    "optim.momentum": None,
    "optim.warmup_steps": None,
    "optim.cooldown": None,
    **dict.fromkeys(f"trainer.limit_{split}_batches" for split in ("train", "val", "test")),
    "data.limit": None,
    "generate.repetition_penalty": None,
    "generate.stop": [],
    "trainer.fast_dev_run": 0,
    "trainer.deterministic": False,
    "trainer.profiler": None,
    "trainer.monitor": "val/loss",
    "trainer.save_top_k": 1,
    "trainer.callbacks": [],
    "logger.tensorboard": False,
    "logger.csv": False,
    "logger.tags": None,
    "logger.notes": None,
    "logger.job_type": None,
    "optim.rewarm": None,  # a schedule was never restarted
    "optim.restart_at": None,
    "optim.label_smoothing": 0.0,
    "optim.neftune_alpha": None,
}


def settings_of_3(content: dict[str, Any]) -> dict[str, Any]:
    """From version 2 to 3: what was added. The split was drawn with the run's seed; one logger or none had its name."""
    added_since = {**SETTINGS_OF_3, "data.split_seed": content.get("seed")}
    return added(added_since)(loggers_apart(content))


def loggers_apart(content: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(content.get("logger"), Mapping):
        return content
    logger = {key: value for key, value in content["logger"].items() if key != "name"}
    return {**content, "logger": {"wandb": content["logger"].get("name") == "wandb", **logger}}


# Added with version 4: a template's markers were ordinary text
SETTINGS_OF_4: dict[str, Any] = {"prompt.special_tokens": False}

# Added with version 5: all weights were trained, no job looked at its siblings
SETTINGS_OF_5: dict[str, Any] = {
    "adapter.name": "none",
    "adapter.rank": None,
    "adapter.alpha": None,
    "adapter.rslora": False,
    "adapter.dora": False,
    "adapter.dropout": 0.0,
    "adapter.targets": "all",
    "adapter.layers": None,
    "adapter.trainable_tokens": "none",
    "trainer.early_stopping.siblings": None,
    "trainer.shard_size": None,  # each device had the whole model
    "trainer.sum_every_batch": False,
    "optim.layer_decay": None,  # all layers had one rate
}


CONFIG = Form("config.yaml", (columns_by_form, settings_of_3, added(SETTINGS_OF_4), added(SETTINGS_OF_5)))
RESULTS = Form("results.json")
DATA_REPORT = Form("data_report.json")
MANIFEST = Form("manifest.json")

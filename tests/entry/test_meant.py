"""What people type out of habit, as settings; and the line that says what to type where it cannot be."""

import pytest

from ift.entry import CONF
from ift.entry.meant import meant
from ift.errors import ConfigError
from ift.settings import EvaluateSettings, Settings
from tests.running import ROOT


def train(*words):
    return meant(words, Settings, CONF)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with rows, a model's folder and groups of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.json").touch()
    (tmp_path / "demo").touch()
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "mine/data").mkdir(parents=True)
    (tmp_path / "mine/data/rows.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("data=rows.json", "data=json data.path=rows.json"),
        ("data=/no/rows.json", "data=json data.path=/no/rows.json"),  # an error of the file, not of a group
        ("data=nowhere.jsonl", "data=json data.path=nowhere.jsonl"),
        ("data=~/rows.json", "data=json data.path=~/rows.json"),
        ("data=[rows.json,demo]", "data=[rows.json,demo]"),  # no file's ending, no path
        ("data=[rows.json,b.json]", "data=json data.path=[rows.json,b.json]"),
        ("-m data=a.json,b.json", "-m data=json data.path=a.json,b.json"),
        ("-m data=demo,a.json", "-m data=demo,a.json"),
        ("data=demo", "data=demo"),  # a choice before a file of that name
        ("data=demo.yaml", "data=demo.yaml"),
        ("data=alpacca", "data=alpacca"),  # a slip of the pen: Hydra lists the choices
        ("data=json data.path=rows.json", "data=json data.path=rows.json"),
        ("--config-dir mine data=rows", "--config-dir=mine data=rows"),
        ("-cd=mine data=rows", "--config-dir=mine data=rows"),
        ("model=gpt2", "model=pretrained model.pretrained=gpt2"),
        ("model=openai-community/gpt2", "model=pretrained model.pretrained=openai-community/gpt2"),
        ("model=gpt2-medium", "model=gpt2-medium"),
        ("trainer.early_stopping=false", "trainer.early_stopping.patience=null"),
        ("trainer.early_stopping=null", "trainer.early_stopping.patience=null"),
        ("--optim.lr=0.1 --data.batch_size=8", "optim.lr=0.1 data.batch_size=8"),  # an agent of W&B
        ("--model=nano --seed=3 --data.batch-size=4", "model=nano seed=3 data.batch_size=4"),
        ("--experiment=seed_chapter --hydra.launcher.n_jobs=2", "experiment=seed_chapter hydra.launcher.n_jobs=2"),
        ("-m seed=1,2 --cfg job --package optim", "-m seed=1,2 --cfg=job --package=optim"),
        ("--multirun --info plugins --help", "--multirun --info plugins --help"),
        ("~optim.clip +trainer.x=1 seed=-1", "~optim.clip +trainer.x=1 seed=-1"),
    ],
)
def test_what_is_plain_becomes_what_was_meant(folder, typed, words):
    assert train(*typed.split()) == words.split()


def test_groups_of_ones_own_may_lie_at_home(folder):
    assert train("--config-dir=~/mine", "data=rows") == [f"--config-dir={folder}/mine", "data=rows"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--lr 1e-4", "--lr: settings are typed KEY=VALUE (type optim.lr=1e-4)"),
        ("--lr=1e-4", "--lr: settings are typed KEY=VALUE (type optim.lr=1e-4)"),
        ("--epochs 3", "--epochs: settings are typed KEY=VALUE (type trainer.max_epochs=3)"),
        ("--batch-size 8", "--batch-size: settings are typed KEY=VALUE (type data.batch_size=8)"),
        ("--optim.lr 0.1", "--optim.lr: settings are typed KEY=VALUE (type optim.lr=0.1)"),
        ("-lr 3", "-lr: settings are typed KEY=VALUE (type optim.lr=3)"),
        ("--dry-run", "--dry-run: settings are typed KEY=VALUE (type dry_run=...)"),
        ("--lora", "--lora: settings are typed KEY=VALUE (type adapter=...)"),
        ("--lora-rank 8", "--lora-rank: settings are typed KEY=VALUE (type adapter.rank=8)"),
        (
            "--experimental-rerun=x",
            "--experimental-rerun: no such option (settings are typed KEY=VALUE: --help shows how)",
        ),
        ("--foo 3", "--foo: no such option (settings are typed KEY=VALUE: --help shows how)"),
        ("rows.json", "rows.json: settings are typed KEY=VALUE (type data=rows.json)"),
        ("--cfg", "--cfg: needs a value (--cfg job)"),
        ("--cfg all_of_it", "--cfg all_of_it: must be one of job, hydra, all"),
        ("--config-dir nope", "--config-dir nope: no such folder (give the one that holds your groups)"),
    ],
)
def test_else_one_line_says_what_to_type(folder, typed, message):
    with pytest.raises(ConfigError) as caught:
        train(*typed.split())
    assert str(caught.value) == message


def test_no_words_are_the_default_run():
    assert meant([], Settings, CONF) == []
    assert meant(["-m"], Settings, CONF) == ["-m"]


def test_evaluate_has_its_own_words(folder):
    with pytest.raises(ConfigError, match=r"--limit: .* \(type eval.limit=3\)"):
        meant(["--limit", "3"], EvaluateSettings, CONF)
    with pytest.raises(ConfigError, match=r"type run=gpt2\)"):
        meant(["gpt2"], EvaluateSettings, CONF)
    assert meant(["--run=gpt2"], EvaluateSettings, CONF) == ["run=gpt2"]  # not Hydra's --run
    assert meant(["data=rows.json"], EvaluateSettings, CONF) == ["data=rows.json"]  # no group there


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--version"], 0, "ift 0.1.0"),
        (["--lr", "1e-4"], 2, "ift: error: --lr: settings are typed KEY=VALUE (type optim.lr=1e-4)"),
        (["--config-name=nope"], 2, "ift: error: --config-name=nope: no such file"),
        (["hydra.job.chdir=true"], 2, "ift: error: hydra.job.chdir=true: paths are read from where the command"),
        (
            ["--config-dir", "mine", "data=nope"],
            2,
            "ift: error: data=nope: no such choice (there is alpaca, demo,",
        ),
        (["data=/no/rows.json"], 3, "ift: error: /no/rows.json: no such file"),
        (["hydra.launcher.n_jobs=2"], 2, "ift: error: hydra.launcher.n_jobs: no such key of Hydra (hydra/launcher"),
        (["--api_key=0123456789"], 2, "ift: error: --api_key: a secret on the command line"),
    ],
)
def test_ift_train_and_the_script_say_the_same(folder, warm_without_torch, words, code, line):
    script = warm_without_torch.run(str(ROOT / "train.py"), *words, cwd=folder, timeout=60)
    module = warm_without_torch.run("-m", "ift.cli", "train", *words, cwd=folder, timeout=60)
    assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)
    assert script.returncode == code
    assert (script.stdout + script.stderr).startswith(line)
    assert len((script.stdout + script.stderr).splitlines()) == 1

"""Names of files as people have them, on the command line and through the real Hydra."""

import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ift.cli import check_settings, files_and_overrides
from ift.entry.words import for_hydra, into_the_resumed, meeting_place, options_first, refuse_secrets
from ift.errors import ConfigError
from tests.running import ROOT

NAMES = [
    "n02,v2.json", "数据.json", "my file (1).json", "a[1].json", "[1].json", "it's.json", 'a "b".json', "~user.json",
    "x=y.json", "100%.json", "a$b.json", "{b}.json", "a:b.json", "a&b;c!.json", "#1.json",
    "${b}.json", "back\\slash.json",
    "both'\".json", "1e3", "true", "a, b.json", "trail\\", "-1.json", "данные.json", "a`b.json", "(1).json", "1_000",
]  # fmt: skip


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The working directory has a file of each name."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Path(name).touch()


def value_of(word):
    """What Hydra reads."""
    (override,) = OverridesParser.create().parse_overrides([word])
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_the_file_of_that_name_for_every_command(files, name):
    given = check_settings([], [f"data.path={name}", f"data.test_path=[{name}]", f"model.tokenizer={name}"])
    assert given.data.path == name  # through Hydra and OmegaConf, as train.py does
    assert given.data.test_path == [name]
    assert given.model.tokenizer == name
    assert check_settings(*files_and_overrides([name])).data.path == [name]  # ift check NAME


def test_a_list_takes_names_with_commas_and_names_without(files):
    (word,) = for_hydra(["data.path=[n02,v2.json,it's.json, x=y.json]"])
    assert value_of(word) == ["n02,v2.json", "it's.json", "x=y.json"]
    assert for_hydra(["data.path=[100%.json,-1.json]"]) == ["data.path=[100%.json,-1.json]"]


def test_a_second_time_changes_nothing(files):
    words = [f"{key}={name}" for name in NAMES for key in ("data.path", "output_dir", "+run")]
    assert for_hydra(for_hydra(words)) == for_hydra(words)


@pytest.mark.parametrize(
    "word",
    [
        "data.path=a.json", "data.path='my file.json'", 'data.path="it\'s.json"', "data.path=[a.json,b.json]",
        "data.path=[c.json,'a,b.json']", "data.path=null", "data.path=", "data.path=???", "data.against=[]",
        "data.path=a.json,b.json", "data.path=choice(a,b)", "data.path=[a.json],[b.json]", "model.pretrained=a,b",
        "output_dir=runs/${now:%Y-%m-%d}", "optim.lr=1e-5,5e-5", "model=nano,gpt2-small", "data=json", "~optim.clip",
        "data.fields.output=answer", "seed=1", "-m", "--config-dir", "data.path=a\\,b.json",
    ],
)  # fmt: skip
def test_what_hydra_reads_as_it_is_meant_stays_as_it_was_typed(files, word):
    assert for_hydra([word]) == [word]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.path=nowhere (1).json", "nowhere (1).json"),  # the error will name the file, not Hydra's grammar
        ("output_dir=runs/a,b", "runs/a,b"),
        ("output_dir=1e3", "1e3"),
        ("resume=runs/[1]", "runs/[1]"),
        ("run=true", "true"),
        ("model.pretrained={a}", "{a}"),
        ("data.against=[no (1).json,b.json]", ["no (1).json", "b.json"]),
        ("data.fields.output=Answer (final)", "Answer (final)"),
    ],
)
def test_a_name_that_is_not_there_is_a_name_all_the_same(tmp_path, monkeypatch, word, value):
    monkeypatch.chdir(tmp_path)
    (spelled,) = for_hydra([word])
    assert value_of(spelled) == value


def test_a_sweep_over_names_with_commas_is_a_sweep(files):
    (word,) = for_hydra(["data.path=n02,v2.json,it's.json"])
    override = OverridesParser.create().parse_override(word)
    assert [each.text for each in override.value().list] == ["n02,v2.json", "it's.json"]


def test_a_sweep_over_names_at_home_is_a_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (word,) = for_hydra(["data.path=~/a.json,~/b.json"])
    override = OverridesParser.create().parse_override(word)
    assert [each.text for each in override.value().list] == [f"{tmp_path}/a.json", f"{tmp_path}/b.json"]


def test_a_home_folder_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["output_dir=~/a b", "model.pretrained=~", "run='~/a b'", "data.path=[~/a.json,b.json]", "resume=~user/a"]
    assert [value_of(word) for word in for_hydra(words)] == [
        f"{tmp_path}/a b", str(tmp_path), f"{tmp_path}/a b", [f"{tmp_path}/a.json", "b.json"], "~user/a",
    ]  # fmt: skip
    os.mkdir("~")
    assert value_of(*for_hydra(["output_dir=~"])) == "~"  # what is there comes first


def test_several_values_are_named_as_such_where_only_one_can_be(files):
    with pytest.raises(ConfigError, match="several values"):
        check_settings([], ["data.path=a.json,b.json"])


def test_the_entry_points_hand_hydra_the_name(tmp_path, warm_without_torch):
    folder = tmp_path / "it's [my] folder, (1)"
    folder.mkdir()
    for command, key in (("train.py", "data.path"), ("train.py", "resume"), ("evaluate.py", "run")):
        words = [*(["data=json"] if key == "data.path" else []), f"{key}={folder.name}", "--cfg", "job"]
        done = warm_without_torch.run(str(ROOT / command), *words, cwd=tmp_path, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("it''s [my] folder, (1)") + done.stdout.count("it's [my] folder, (1)") >= 1
    done = warm_without_torch.run(str(ROOT / "evaluate.py"), "run=no (1)", cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr[:39]) == (2, "ift: error: no (1): no such run folder ")


@pytest.mark.parametrize(
    "argument",
    [
        "wandb.api_key=0123",
        "+token=0123",
        "++logger.password=0123",
        "WANDB_API_KEY=0123",
        "apikey=0123",
        "hub.token=0123",
        "data.hub=hf_" + "a1B2" * 9,
        "logger.entity='sk-" + "a1B2" * 9,
        "x=ghp_" + "a1B2" * 9,
        "x=AKIA" + "A1B2" * 4,
    ],
)
def test_a_secret_on_the_command_line_is_refused_without_being_repeated(argument):
    with pytest.raises(ConfigError) as caught:
        refuse_secrets(["model=nano", argument])
    assert str(caught.value).startswith(argument.split("=")[0] + ": a secret on the command line")
    assert argument.split("=")[1] not in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    ["model.tokenizer=gpt2", "data.path=hf_data.json", "data.path=sk-learn/rows.json", "generate.max_new_tokens=5"],
)
def test_an_argument_that_only_looks_a_little_like_a_secret_is_none(argument):
    refuse_secrets([argument])


def test_options_may_stand_anywhere_among_the_overrides():
    typed = ["data=json", "--config-dir", "mine", "prompt=mine", "-m", "~optim.clip", "--cfg", "job"]
    assert options_first(typed) == [
        "--config-dir",
        "mine",
        "-m",
        "--cfg",
        "job",
        "data=json",
        "prompt=mine",
        "~optim.clip",
    ]


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        (["resume=RUN", "logger=none"], ["output_dir=RUN"]),
        (["resume='my run'"], ["output_dir='my run'"]),
        (["resume=RUN", "output_dir=OTHER"], []),
        (["resume=null"], []),
        (["seed=1"], []),
    ],
)
def test_a_run_goes_on_in_its_own_folder(typed, folder):
    assert into_the_resumed(typed) == typed + folder


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["seed=1"], "runs"),
        (["output_dir=a/b"], "a/b"),
        (["output_dir='a (1)/b'", "seed=1"], "a (1)/b"),
        (["output_dir=a", "output_dir=b"], "b"),
        (["output_dir=a/b-${now:%H-%M}/c"], "a"),
        (["output_dir=${now:%H-%M}"], "."),
        (["output_dir=~/a"], "HOME/a"),
    ],
)
def test_ranks_meet_where_all_of_them_know_before_the_time_is_agreed(monkeypatch, words, place):
    monkeypatch.setenv("HOME", "HOME")
    assert meeting_place(words) == Path(place)

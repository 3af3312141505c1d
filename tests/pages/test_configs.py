"""Settings of runs as text: what OmegaConf reads, and what is wrong in a file, named."""

from omegaconf import OmegaConf

from ift.pages.configs import differing, read_config
from ift.run import RunFolder

CONFIG = """\
format: 4
seed: 1_000
optim:
  lr: 1e-5
  eps: 1.0e-08
  beta: .5e3
  betas: [0.9, 1.0]
  clip: 1.0
  name: 'null'
  cooldown: null
flag: yes
when: 2026-11-29
late: 10:30
logger:
  run_name: ${now:%H}
"""


def read(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    return read_config(RunFolder(tmp_path))


def test_settings_are_what_omegaconf_reads(tmp_path):
    config, problems = read(tmp_path, CONFIG)
    assert problems == []
    loaded = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"))
    for key, value in loaded["optim"].items():
        assert config[f"optim.{key}"] == ("null" if value is None else str(value))
    for key in ("seed", "flag", "when", "late"):
        assert config[key] == str(loaded[key])
    assert (config["optim.lr"], config["flag"], config["seed"]) == ("1e-05", "True", "1000")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for text in ("a: [", "- 1", "seed: 1\nseed: 2\n", "!!python/object:os.system {}", "format: 99\n", "a: \x00"):
        config, [problem] = read(tmp_path, text)
        assert config == {}
        assert "config.yaml: " in str(problem)
    (tmp_path / "config.yaml").unlink()
    assert read_config(RunFolder(tmp_path)) == ({}, [])


def test_settings_differ_by_value_and_not_by_place():
    one = {"seed": "1", "optim.lr": "0.1", "output_dir": "a"}
    other = {"seed": "1", "optim.lr": "0.2", "output_dir": "b", "new": "1"}
    assert differing([one, other]) == [("new", ["–", "1"]), ("optim.lr", ["0.1", "0.2"])]


def test_a_secret_that_somebody_wrote_into_a_file_is_not_shown(tmp_path):
    text = "logger: {api_key: abc, project: hf_abcdefghijklmnopqrstuvwxyz0123456}\nmax_new_tokens: 3\ntoken: null\n"
    config, _ = read(tmp_path, text)
    hidden = "(a secret, not shown)"
    for key, value in {
        "logger.api_key": hidden,
        "logger.project": hidden,
        "max_new_tokens": "3",
        "token": "null",
    }.items():
        assert config[key] == value

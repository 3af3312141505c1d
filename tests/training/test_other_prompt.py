"""A run that begins with the model of another: its tokenizer and its template, or both templates side by side."""

import json
from dataclasses import replace

import pytest

from ift.errors import WeightsError
from ift.settings import PromptSettings
from ift.text.chat_templates import template_from
from ift.training.other_prompt import as_settings, begin_with_its_own, first_difference, model_folder
from tests.running import train


@pytest.fixture
def tuned(tmp_path, settings_of):
    """tuned(*overrides): a run folder whose model says that it was tuned with the template of these settings."""

    def tuned(*overrides):
        template = template_from(settings_of(*overrides).prompt)
        (tmp_path / "run/model").mkdir(parents=True)
        stored = {**template.to_json(), "hash": template.hash}
        (tmp_path / "run/model/prompt.json").write_text(json.dumps(stored))
        return tmp_path / "run"

    return tuned


def test_the_first_line_that_differs_is_found(settings_of):
    alpaca, chatml = (template_from(settings_of(f"prompt={name}").prompt) for name in ("alpaca", "chatml"))
    assert first_difference(alpaca, alpaca) is None
    assert first_difference(alpaca, chatml) == (
        "'Below is an instruction that describes a task. Write a response that appropriately completes the request.'",
        "'<|im_start|>user'",
    )
    masked = template_from(settings_of("prompt=alpaca", "prompt.mask=false").prompt)
    assert first_difference(alpaca, masked) is None  # the model sees the same text


def test_a_new_run_takes_the_tokenizer_and_the_template_of_the_model_it_begins_with(tuned, settings_of, capsys):
    run = tuned("prompt=phi3")
    settings = begin_with_its_own(settings_of(f"model.pretrained={run}"), ["model.pretrained"])
    assert (settings.model.pretrained, settings.model.tokenizer) == (str(run / "model"), str(run / "model"))
    assert template_from(settings.prompt).hash == template_from(settings_of("prompt=phi3").prompt).hash
    assert capsys.readouterr().out == f"prompt    phi3, with which {run}/model was tuned (prompt=NAME takes another)\n"


def test_another_template_that_is_asked_for_is_a_warning_that_shows_both(tuned, settings_of, capsys):
    run = tuned("prompt=chatml")
    settings = begin_with_its_own(
        settings_of("prompt=alpaca", f"model.pretrained={run}", "model.tokenizer=gpt2"), ["prompt", "model.tokenizer"]
    )
    assert (settings.prompt.name, settings.model.tokenizer) == ("alpaca", "gpt2")
    warning, before, now = capsys.readouterr().err.splitlines()
    assert warning == (
        f"ift: warning: {run}/model: tuned with the prompt chatml, now trained with alpaca "
        "(leave out prompt= to take its own)"
    )
    assert before == "  tuned with chatml       '<|im_start|>user'"
    assert now.startswith("  now alpaca              'Below is an instruction that describes a task.")


def test_a_folder_that_was_not_tuned_here_changes_nothing(tmp_path, settings_of):
    settings = settings_of(f"model.pretrained={tmp_path}")
    assert begin_with_its_own(settings, []) == replace(settings, prompt=settings_of("prompt=phi3").prompt)
    assert model_folder(tmp_path / "nothing") is None


def test_a_template_that_cannot_be_read_is_an_error(tuned, settings_of):
    run = tuned()
    (run / "model/prompt.json").write_text("{")
    with pytest.raises(WeightsError, match=r"prompt.json: cannot be read"):
        begin_with_its_own(settings_of(f"model.pretrained={run}"), [])


def test_templates_come_back_from_settings(settings_of):
    template = template_from(settings_of("prompt=alpaca_stanford").prompt)
    settings = as_settings(template, None)
    assert isinstance(settings, PromptSettings)
    assert template_from(settings).hash == template.hash


def test_a_run_begins_with_the_model_of_another(warm, tmp_path):
    quiet = ("logger=none", "trainer.accelerator=cpu", "trainer.max_steps=2")
    first, second = tmp_path / "first", tmp_path / "second"
    done = train(f"output_dir={first}", "prompt=chatml", *quiet, run=warm.run)
    assert done.returncode == 0, done.stderr
    best = json.loads((first / "summary.json").read_text())["val_loss"]
    done = train(f"output_dir={second}", f"model.pretrained={first}", *quiet, run=warm.run)
    assert done.returncode == 0, done.stderr
    assert f"prompt    chatml, with which {first}/model was tuned" in done.stdout
    summary = json.loads((second / "summary.json").read_text())
    assert summary["untuned_val_loss"] == pytest.approx(best, rel=1e-6)
    assert json.loads((second / "model/prompt.json").read_text())["name"] == "chatml"
    again = train(f"output_dir={second}", f"model.pretrained={first}", *quiet, run=warm.run)
    assert again.returncode == 0, again.stderr
    assert "this run is finished; nothing was done" in again.stdout

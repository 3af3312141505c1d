"""What a person types, and what it is taken for: settings.py and what Hydra says of it."""

import dataclasses
import os

import pytest
import yaml
from hydra import compose, initialize_config_dir

from ift.entry.errors import as_ift_error
from ift.errors import ConfigError
from ift.forms import CONFIG
from ift.settings import (
    RULES,
    CheckSettings,
    EvaluateSettings,
    Settings,
    keys,
    leaves,
    load_settings,
    read_settings,
    save_settings,
    settings_to_go_on,
    unknown_key,
)
from tests.running import ROOT

MODELS = sorted((ROOT / "conf/model").glob("*.yaml"))


@pytest.fixture
def refusal(settings_of):
    """refusal(*overrides): the text of the ConfigError that the overrides end in."""

    def refusal(*overrides):
        with pytest.raises(Exception) as caught:  # noqa: PT011 (Hydra's own errors too)
            settings_of(*overrides)
        error = as_ift_error(caught.value, Settings)
        assert isinstance(error, ConfigError)
        return str(error)

    return refusal


def test_settings_are_typed_values(settings_of):
    settings = settings_of("optim.lr=1e-4", "trainer.max_steps=7", "data.fields.output=completion", "seed=5")
    assert isinstance(settings, Settings)
    assert (settings.optim.lr, settings.trainer.max_steps, settings.seed) == (0.0001, 7, 5)
    assert settings.data.fields.output == "completion"
    assert settings.prompt.segments[2].when == "always"
    assert settings.model.pretrained is None


def test_a_number_without_a_fraction_is_fine_where_a_fraction_is_meant(settings_of):
    assert settings_of("optim.weight_decay=0", "generate.temperature=1").generate.temperature == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "trainer.max_epoch: no such key (did you mean trainer.max_epochs?)"),
        ("lr=1", "lr: no such key (did you mean optim.lr?)"),
        ("batch_size=4", "batch_size: no such key (did you mean data.batch_size?)"),
        ("optim.learning_rate=1", "optim.learning_rate: no such key (did you mean "),
        ("+foo=1", "foo: no such key (ift train --cfg job shows every key)"),
        ("+trainer.foo=1", "trainer.foo: no such key"),
        ("data.fields.answer=a", "data.fields.answer: no such key"),
        ("modle=nano", "modle: no such key (did you mean model?)"),
        ("~optm", "optm: no such key (did you mean optim?)"),
        ("prompt.segments=[{text: a, supervise: true}]", "supervise: no such key"),
    ],
)
def test_a_key_that_nothing_reads_is_an_error_with_the_nearest_one(refusal, override, message):
    assert refusal(override).startswith(message)


@pytest.mark.parametrize(
    ("override", "choices"),
    [
        ("logger=mlflow", "csv, none, tensorboard, wandb"),
        ("trainer=tpu", "auto, ddp, fsdp"),
    ],
)
def test_a_wrong_choice_lists_what_there_is(refusal, override, choices):
    assert refusal(override) == f"{override}: no such choice (there is {choices})"


def test_of_many_choices_the_nearest_are_named(refusal):
    assert refusal("model=Llama-3.2-1B") == (
        "model=Llama-3.2-1B: no such choice (did you mean llama-3.2-1b or llama-3.2-3b or llama-3.1-8b?)"
    )
    assert refusal("model=gpt9").endswith(f"(ift train --help lists all {len(MODELS)})")


def test_a_preset_is_its_name_on_the_hub_and_all_else_is_the_folders(settings_of):
    presets = [path for path in MODELS if path.read_text().count("\n") == 3]
    assert len(presets) == 36
    for path in presets:
        preset = yaml.safe_load(path.read_text())
        hub = preset["model"]["pretrained"]
        assert preset == {"defaults": ["pretrained", "_self_"], "model": {"name": path.stem, "pretrained": hub}}
        assert hub.partition("/")[2].lower() == path.stem
    model = settings_of("model=pythia-1.4b").model
    any_other = settings_of("model=pretrained", "model.pretrained=EleutherAI/pythia-1.4b").model
    assert model == dataclasses.replace(any_other, name="pythia-1.4b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=abc", "trainer.max_epochs: Value 'abc' of type 'str' could not be converted to Integer"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs: Value '1.5' of type 'float' could not be converted to Integer"),
        ("optim.lr=fast", "optim.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("data.drop_last=maybe", "data.drop_last: Value 'maybe' is not a valid bool"),
        ("trainer.early_stopping=3", "trainer.early_stopping: Invalid type assigned"),
        ("data.fields=abc", "data.fields: Invalid type assigned"),
        ("data.hub=[1]", "data.hub: Cannot convert 'ListConfig' to string"),
        ("prompt.segments=3", "prompt.segments: Invalid value assigned"),
        ("seed=null", "seed: "),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_with_its_key(refusal, override, message):
    assert refusal(override).startswith(message)


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("trainer.max_epochs=0", "1 or more"),
        ("data.batch_size=-1", "1 or more"),
        ("generate.batch_size=0", "1 or more"),
        ("seed=-1", "from 0 to 4,294,967,295"),
        ("seed=4294967296", "from 0 to 4,294,967,295"),
        ("optim.lr=0.0", "above 0"),
        ("optim.lr=inf", "a finite number"),
        ("optim.lr=nan", "a finite number"),
        ("data.fractions.val=1.5", "from 0 to 1"),
        ("data.split=alphabetical", "one of clustered, random, positional"),
        ("data.too_long=cut", "one of drop, drop_turns, truncate_prompt, truncate_response, error"),
        ("trainer.monitor=val_loss", "one of val/loss, val/perplexity, val/accuracy, train/loss"),
        ("trainer.save_top_k=0", "1 or more, or -1 for all"),
        ("trainer.deterministic=maybe", "one of false, true, warn"),
        *(
            (given, "a number of batches (a whole number, 1 or more) or a share of them (above 0, 1.0 at most)")
            for given in ("trainer.limit_train_batches=0", "trainer.limit_train_batches=1.5")
        ),
        (
            "trainer.val_every=0.0",
            "a number of steps (a whole number, 1 or more) or a share of an epoch (above 0, 1.0 at most)",
        ),
        ("data.demo_rows=10", "from 50 to 20,000"),
        ("generate.top_p=0.0", "from 0.001 to 1"),
        ("generate.repetition_penalty=0.0", "above 0"),
        ("trainer.early_stopping.patience=0", "1 or more"),
    ],
)
def test_a_value_out_of_range_is_an_error_with_its_rule(refusal, override, rule):
    assert refusal(override) == f"{override}: must be {rule}"


def test_a_text_that_ends_answers_is_not_empty(refusal):
    assert refusal("generate.stop=['']") == "generate.stop=: must be texts that are not empty"


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ("resume=RUN", "a run that goes on would keep nothing of it (leave one of the two out)"),
        ("dry_run=true", "dry_run=true takes no step (leave one of the two out)"),
        ("trainer.profiler=simple", "keeps no profile (use trainer.max_steps=3)"),
    ],
)
def test_a_fast_development_run_keeps_nothing(refusal, others, words):
    assert refusal("trainer.fast_dev_run=3", others) == f"trainer.fast_dev_run=3: {words}"


def test_several_models_are_compared_by_validation(refusal):
    words = "no validation compares models (leave out trainer.limit_val_batches=0)"
    assert refusal("trainer.save_top_k=2", "trainer.limit_val_batches=0") == f"trainer.save_top_k=2: {words}"


def test_a_rule_holds_in_a_list_too(refusal):
    words = "must be a list of classes: [{_target_: my.module.Class, argument: 1}]"
    assert refusal("trainer.callbacks=[my.Class]") == f"trainer.callbacks=my.Class: {words}"
    assert refusal("data.weights=[1,-1]") == "data.weights=-1.0: must be 0 or more"


def test_null_always_means_not_set(settings_of):
    assert settings_of("optim.clip=null", "trainer.early_stopping.patience=null").optim.clip is None


def test_every_rule_is_about_a_setting_that_exists():
    assert set(RULES[Settings]) <= set(keys(Settings))
    assert set(RULES[EvaluateSettings]) <= set(keys(EvaluateSettings))
    assert RULES[CheckSettings] is RULES[Settings]


def test_a_rule_is_of_one_whole_key_and_of_no_other_that_ends_alike(monkeypatch):
    @dataclasses.dataclass
    class Adapter:
        dropout: float
        lr: float

    @dataclasses.dataclass
    class Group:
        adapter: Adapter
        lr: float

    monkeypatch.setitem(RULES, Group, {"lr": RULES[Settings]["optim.lr"]})
    read = read_settings({"adapter": {"dropout": 7.0, "lr": -1.0}, "lr": 0.1}, Group)
    assert (read.adapter.dropout, read.adapter.lr) == (7.0, -1.0)
    with pytest.raises(ConfigError, match=r"^lr=-1.0: must be above 0$"):
        read_settings({"adapter": {"dropout": 7.0, "lr": -1.0}, "lr": -1.0}, Group)


@pytest.mark.parametrize("override", ["model=pretrained", "~optim.lr"])
def test_a_setting_without_a_value_is_an_error_that_says_how_to_set_it(refusal, override):
    key = {"model=pretrained": "model.pretrained", "~optim.lr": "optim.lr"}[override]
    assert refusal(override) == f"{key}: not set (add {key}=... to the command)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("foo bar", "foo bar: not key=value"),
        ("optim.lr=[1,2", "optim.lr=[1,2: not key=value"),
        ("model=nano,gpt2-small", "Ambiguous value for argument 'model=nano,gpt2-small' (add -m for a sweep)"),
        ("trainer.devices=0,1", "Ambiguous value for argument 'trainer.devices=0,1' (a list of GPUs is written "),
        ("optim.lr=${nope}", "optim.lr: Interpolation key 'nope' not found"),
        ("model=null", "Config group override must be a string or a list"),
        ("+model=gpt2-small", "Multiple values for model"),
    ],
)
def test_what_hydra_cannot_read_is_one_line_too(refusal, override, message):
    text = refusal(override)
    assert text.startswith(message)
    assert "\n" not in text


def test_a_setting_may_refer_to_another(settings_of):
    assert settings_of("generate.batch_size=${data.batch_size}", "data.batch_size=3").generate.batch_size == 3


def test_every_choice_of_every_group_can_be_composed(settings_of):
    for group in ("model", "data", "prompt", "optim", "trainer", "logger"):
        for file in sorted(os.listdir(f"{os.path.dirname(__file__)}/../conf/{group}")):
            choice = file.removesuffix(".yaml")
            given = {"pretrained": ["model.pretrained=folder"], "json": ["data.path=file"]}.get(choice, [])
            assert settings_of(f"{group}={choice}", *given).output_dir.startswith("runs/")


def test_evaluate_has_settings_of_its_own():
    with initialize_config_dir(os.path.abspath(f"{os.path.dirname(__file__)}/../conf"), version_base="1.3"):
        settings = read_settings(compose("evaluate", ["run=runs/a", "eval.generate.top_k=3"]), EvaluateSettings)
        with pytest.raises(ConfigError, match=r"run: not set \(add run=... to the command\)"):
            read_settings(compose("evaluate"), EvaluateSettings)
    assert (settings.run, settings.eval.generate.top_k) == ("runs/a", 3)


def test_saved_settings_read_back_as_the_same_settings(settings_of, tmp_path):
    settings = settings_of("prompt=chatml", "data.path=a b.json", "optim.lr=1e-5", "trainer.max_steps=null")
    save_settings(settings, tmp_path / "config.yaml")
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored.pop("format") == CONFIG.version
    assert read_settings(stored, Settings) == load_settings(tmp_path / "config.yaml") == settings


# -- a run that goes on ---------------------------------------------------------------------------------------------


def test_what_changes_nothing_of_what_is_learnt_may_change(settings_of):
    run = settings_of("seed=1", "logger=wandb")
    asked = settings_of("seed=1", "logger=none", "samples.rows=3", "data.num_workers=2", "trainer.save_every=7")
    going_on = settings_to_go_on(run, asked)
    assert going_on == asked
    assert run == settings_of("seed=1", "logger=wandb")


@pytest.mark.parametrize("named", ["base", "base/model", "base/model/"])
def test_what_the_model_of_a_run_decided_stays_when_the_same_command_is_typed_again(settings_of, named):
    """A new run takes tokenizer and template of the model that it begins with, and its config.yaml says them."""
    words = ["model=pretrained", f"model.pretrained={named}", "output_dir=here"]
    decided = ["model.pretrained=base/model", "model.tokenizer=base/model", "prompt=phi3", "+prompt.turns=last"]
    run = settings_of("model=pretrained", *decided, "output_dir=here")
    going_on = settings_to_go_on(run, settings_of(*words), typed=["model", "model.pretrained", "output_dir"])
    assert (going_on.model, going_on.prompt) == (run.model, run.prompt)
    for other in ("model.tokenizer=gpt2", "model.pretrained=elsewhere", "prompt=alpaca"):
        with pytest.raises(ConfigError, match="the run was begun with"):
            settings_to_go_on(run, settings_of(*words, other))
    with pytest.raises(ConfigError, match=r"prompt\.turns=all: the run was begun with last"):
        settings_to_go_on(run, settings_of(*words, "prompt.turns=all"), typed=["prompt.turns"])


def test_a_column_can_be_left_out_when_a_run_goes_on(settings_of):
    """A later release may read a column that the run's did not; the fingerprint says whether the rows are the same."""
    folder = "output_dir=here"
    run, asked = settings_of("seed=1", folder), settings_of("data.ignore=[history]", folder)
    assert settings_to_go_on(run, asked, ["resume", "data.ignore"]).data.ignore == ["history"]


def test_only_what_was_asked_for_is_compared(settings_of):
    """resume=RUN optim.lr=0.1: every other key has the default of today, and the run its own."""
    folder = "output_dir=here"  # its default is the time
    run = settings_of("seed=1", "optim.lr=0.1", "logger=wandb", folder)
    asked = settings_of("optim.lr=0.1", "logger=none", folder)
    assert settings_to_go_on(run, asked, ["resume", "optim.lr", "logger"]) == settings_of(
        "seed=1", "optim.lr=0.1", "logger=none", folder
    )
    with pytest.raises(ConfigError, match="seed=123: the run was begun with 1 "):
        settings_to_go_on(run, asked)


def test_a_run_may_go_on_on_other_processes_that_take_the_same_steps(settings_of):
    """Two devices of 4 rows, twice a step, are four devices of 4 rows or one of 8 rows, twice."""
    begun = ("trainer=ddp", "trainer.devices=2", "data.batch_size=4", "trainer.accumulate=2", "output_dir=here")
    run = settings_of(*begun)
    for words in (
        ["trainer.devices=4", "trainer.accumulate=1"],
        ["trainer.devices=1", "data.batch_size=8"],
        ["trainer.strategy=fsdp"],
    ):
        now = settings_to_go_on(run, settings_of(*begun, *words), ["resume", *(word.split("=")[0] for word in words)])
        assert now == settings_of(*begun, *words)
    with pytest.raises(ConfigError, match=r"a step would have 32 rows, and those of the run have 16 \(trainer.acc.*=1"):
        settings_to_go_on(run, settings_of(*begun, "trainer.devices=4"), ["resume", "trainer.devices"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=0.5", "optim.lr=0.5: the run was begun with 0.003 (leave it, or begin a new run)"),
        (
            "trainer.devices=2",
            "trainer.devices=2: a step would have 48 rows, and those of the run have 24 (leave it",
        ),
        ("data.path=[a,b]", "data.path=['a', 'b']: the run was begun with None"),
        ("generate.top_k=5", "generate.top_k=5: the run was begun with None"),
        ("prompt=alpaca", "prompt.name=alpaca: the run was begun with phi3"),
    ],
)
def test_what_would_make_it_another_run_is_refused(settings_of, override, message):
    with pytest.raises(ConfigError) as refused:
        settings_to_go_on(settings_of("trainer.devices=1"), settings_of(override), [override.split("=")[0]])
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "words"), [("- 1", "does not hold settings"), ("a: [", "cannot be read"), ("a: 1", "a: ")]
)
def test_a_config_that_was_spoilt_is_an_error_with_its_name(tmp_path, text, words):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"config.yaml: .*{words}"):
        load_settings(tmp_path / "config.yaml")


def test_leaves_are_the_values_and_keys_are_their_names(settings_of):
    values = dict(leaves(settings_of("seed=5", "data.fields.input=context")))
    assert (values["seed"], values["data.fields.input"], values["trainer.early_stopping.patience"]) == (5, "context", 3)
    groups = {key for key in keys(Settings) if any(other.startswith(key + ".") for other in keys(Settings))}
    empty = {"data.against", "data.ignore", "generate.stop", "model.freeze", "trainer.callbacks"}  # lists: no values
    lists = {"prompt.segments", *empty}
    assert set(keys(Settings)) - groups == {key for key in values if not key.startswith("prompt.segments.")} | lists


def test_the_nearest_key_is_looked_for_by_its_last_part_too():
    assert "did you mean trainer.early_stopping.patience?" in str(unknown_key("patience", Settings))
    assert "did you mean eval.generate.top_k?" in str(unknown_key("top_k", EvaluateSettings))


def test_settings_know_no_secret():
    names = {field.name for field in dataclasses.fields(Settings)} | {key.split(".")[-1] for key in keys(Settings)}
    assert not [name for name in names if name.endswith(("key", "token", "secret", "password"))]


def test_a_template_that_is_left_to_the_model_was_decided_when_the_run_began(settings_of):
    begun = settings_of("prompt=alpaca")
    decided = dataclasses.replace(begun.prompt, name="Small-Instruct", chat_template="Small-Instruct", segments=[])
    begun = dataclasses.replace(begun, prompt=decided)
    for words in ([], ["prompt=auto"], ["prompt=chat"]):
        assert settings_to_go_on(begun, settings_of(*words)).prompt == decided
    with pytest.raises(ConfigError, match=r"^prompt\.name=alpaca: the run was begun with Small-Instruct"):
        settings_to_go_on(begun, settings_of("prompt=alpaca"))
    with pytest.raises(ConfigError, match=r"^prompt\.mask=False: the run was begun with True"):
        settings_to_go_on(begun, settings_of("prompt=auto", "prompt.mask=false"))

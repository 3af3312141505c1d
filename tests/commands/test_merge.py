"""`ift merge` and exports of adapters: one model of both, in fp32 arithmetic, that transformers loads."""

import json

import pytest
import torch

from ift.artifacts.adapter_folder import is_adapter
from ift.artifacts.model_folder import load_model_folder, save_model_folder
from ift.artifacts.weights import find_weights, load_model, weights_hash
from ift.cli import COMMANDS, parse
from ift.commands import merge as module
from ift.commands.merge import merge
from ift.errors import ConfigError
from ift.export.export import export
from ift.model.adapters import adapted
from ift.model.low_rank import LowRank, chosen
from ift.run import RunFolder
from ift.settings import save_settings
from tests.export.conftest import beside_its_base as beside
from tests.export.conftest import small_tokenizer  # noqa: F401  a fixture
from tests.model.families.by_transformers import made

SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TOKENS = (7, 300)


@pytest.fixture
def run_of(tmp_path, settings_of, small_tokenizer):  # noqa: F811
    """run_of(tied=, four_bits=, dtype=): a run with a random adapter and rows of two tokens on a tiny Qwen 3."""
    from ift.text.chat_templates import template_from

    def run_of(*, tied: bool = True, four_bits: bool = False, dtype: torch.dtype = torch.float32) -> RunFolder:
        base, run = tmp_path / "base", RunFolder(tmp_path / "run")
        model = made("qwen3", {**SIZES, "head_dim": 16, "tie_word_embeddings": tied})
        model.to(dtype).save_pretrained(base)
        folder = find_weights(str(base))
        ours = load_model(folder)
        low_rank = LowRank(
            str(base), chosen("all", None, folder.config), 4, 8.0, base_hash=weights_hash(folder), tokens=TOKENS,
            four_bits=four_bits,
        )  # fmt: skip
        torch.manual_seed(1)
        adapted(ours, low_rank)
        for parameter in ours.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05)
        settings = settings_of("prompt=phi3", "data.demo_rows=60", f"model.pretrained={base}", "model=pretrained")
        save_model_folder(run.model, ours, small_tokenizer, template_from(settings.prompt))
        save_settings(settings, run.config)
        return run

    return run_of


def logits_of_transformers(folder, ids):
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    with torch.no_grad():
        return model.float().eval()(ids).logits, model


IDS = torch.tensor([[3, 7, 90, 300, 12, 7, 41, 200], [300, 5, 60, 7, 8, 9, 10, 11]])


@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_folder_computes_in_transformers_what_the_adapter_computes(run_of, tied):
    run = run_of(tied=tied)
    merge(run)
    found, theirs = logits_of_transformers(run.path / "merged", IDS)
    with torch.no_grad():
        expected = beside(run)(IDS)
    assert (found[..., : expected.shape[-1]] - expected).abs().max() / expected.abs().max() < 1e-5
    assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) is tied
    assert {"chat_template.jinja", "generation_config.json", "tokenizer.json", "README.md"} <= {
        path.name for path in (run.path / "merged").iterdir()
    }


def test_an_untied_head_is_in_the_file_and_the_config_says_so(run_of):
    """Else a reload would take the embedding, or fresh numbers, for the head."""
    run = run_of()
    tied, untied = run.path / "merged", run.path / "untied"
    merge(run)
    merge(run, output=untied, untied=True)
    assert json.loads((untied / "config.json").read_text())["tie_word_embeddings"] is False
    (a, _), (b, theirs) = (logits_of_transformers(folder, IDS) for folder in (tied, untied))
    assert torch.equal(a, b)
    assert theirs.lm_head.weight.data_ptr() != theirs.model.embed_tokens.weight.data_ptr()
    with pytest.raises(ConfigError, match="--untie: the head of this base is a matrix of its own"):
        merge(run_of(tied=False), output=run.path / "other", untied=True)


def test_the_type_is_that_of_the_base_and_is_rounded_to_once(run_of):
    run = run_of(dtype=torch.bfloat16)
    merge(run)
    merge(run, output=run.path / "whole", dtype="fp32")
    from safetensors.torch import load_file

    low, whole = (load_file(run.path / name / "model.safetensors") for name in ("merged", "whole"))
    assert {tensor.dtype for tensor in low.values()} == {torch.bfloat16}
    for name, tensor in whole.items():
        assert torch.equal(tensor.bfloat16(), low[name]), name


def test_on_four_bits_both_ways_are_measured_and_the_better_one_is_written(run_of, capsys):
    run = run_of(four_bits=True)
    done = merge(run)
    losses = done.losses
    assert abs(losses["beside"] - losses["4bit"]) < 1e-4  # the same weights, in another order of sums
    assert abs(losses["full"] - losses["4bit"]) > 1e-3
    assert [f"{losses[way]:.4f}" in line for way, line in zip(("beside", "full", "4bit"), done.lines[1:], strict=False)]
    better = min(("full", "4bit"), key=losses.get)
    assert module.WAYS[better] in done.lines[4]
    with torch.no_grad():
        expected = beside(run)(IDS)
    for base in ("full", "4bit"):
        merge(run, output=run.path / base, base=base)
    n = expected.shape[-1]
    apart = {
        way: float(
            (logits_of_transformers(run.path / way, IDS)[0][..., :n] - expected).abs().max() / expected.abs().max()
        )
        for way in ("full", "4bit")
    }
    assert apart["4bit"] < 1e-5 < apart["full"]
    written = (run.path / "merged" / "model.safetensors").read_bytes()
    assert written == (run.path / better / "model.safetensors").read_bytes()


def test_an_adapter_by_itself_is_the_runs_own_files_and_peft_loads_it(run_of):
    peft = pytest.importorskip("peft")
    run = run_of()
    export(run, "peft")
    folder = run.path / "export" / "peft-fp32"
    assert is_adapter(folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == (run.model / "adapter_model.safetensors").read_bytes()
    assert "AutoPeftModelForCausalLM" in (folder / "README.md").read_text()
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        found, expected = theirs(IDS).logits, load_model_folder(run.model)[0].eval()(IDS)
    assert (found[..., : expected.shape[-1]] - expected).abs().max() / expected.abs().max() < 1e-5


def test_what_cannot_be_merged_is_one_line(run_of, tmp_path):
    run = run_of()
    with pytest.raises(ConfigError, match="--base 4bit: this adapter was trained on the base as its files hold it"):
        merge(run, base="4bit")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is there, and no export of ours"):
        merge(run, output=tmp_path / "there", force=True)
    merge(run)
    with pytest.raises(ConfigError, match="is there already"):
        merge(run)
    merge(run, force=True)


def test_the_command_takes_these_options():
    words = parse(["merge", "RUN", "--output", "F", "--dtype", "bf16", "--base", "full", "--untie", "--force"])
    assert (words.dtype, words.base, words.untie, words.force) == ("bf16", "full", True, True)
    assert "merge" in COMMANDS

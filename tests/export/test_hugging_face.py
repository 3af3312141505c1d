"""transformers computes what we compute from an export, writes our prompts, and finds every file it looks for."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ift.artifacts.model_folder import load_model_folder
from ift.artifacts.weights import inspect_folder
from ift.errors import ConfigError, WeightsError
from ift.export.export import export
from ift.export.hugging_face import narrowed
from ift.export.source import RunModel
from ift.generation.engine import generate
from ift.run import RunFolder
from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation
from ift.text.encoding import encode_prompt
from tests.running import ROOT

PRESETS = sorted({path.stem for path in (ROOT / "conf" / "prompt").glob("*.yaml")} - {"chat", "none"})
ROWS = (
    Conversation("Name its color.", "", "Blue."),
    Conversation('Name its color: "é" {input} %} {{ x }}', "the sky\n<|user|>\n", "Blue."),
    Conversation("And now?", "", "Green.", system="You are brief.", history=(("Hello!", "Hi."), ("Sky?", "Blue."))),
)


def exported(run, **options):
    export(run, "hf", **options)
    (folder,) = (run.path / "export").iterdir()
    return folder


def messages_of(row):
    messages = [{"role": "system", "content": row.system}] if row.system else []
    for asked, answer in row.history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": row.instruction, **({"input": row.input} if row.input else {})}]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 47])
def test_transformers_gives_our_logits(run_of, tied, padding):
    run = run_of(tie_weights=tied, padding=padding)
    theirs, report = AutoModelForCausalLM.from_pretrained(exported(run), output_loading_info=True)
    ours, tokenizer, _ = load_model_folder(run.model)
    assert not any(report.values()), report  # nothing missing, nothing left over
    assert theirs.config.vocab_size == tokenizer.vocab_size == 301
    ids = torch.randint(301, (3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, expected = theirs.eval()(ids).logits, ours.eval()(ids)[..., :301]
    assert expected.abs().max() > 1
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert (theirs.lm_head.weight.data_ptr() == theirs.transformer.wte.weight.data_ptr()) is tied


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_stored_once(run_of, tied):
    with safe_open(exported(run_of(tie_weights=tied)) / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert ("lm_head.weight" in names) is not tied
    assert "transformer.wte.weight" in names


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_narrow_weights_are_torch_s_own_rounding_of_ours(run_of, dtype):
    run = run_of()
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    theirs = AutoModelForCausalLM.from_pretrained(exported(run, dtype=dtype))
    ours, _, _ = load_model_folder(run.model)
    assert theirs.dtype is kind
    assert torch.equal(theirs.transformer.wte.weight, ours.wte.weight.to(kind))
    assert torch.equal(theirs.transformer.h[1].mlp.c_fc.weight, ours.h[1].mlp.c_fc.weight.t().to(kind))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_are_read_as_they_are(run_of, tmp_path, kind):
    theirs = AutoModelForCausalLM.from_pretrained(exported(run_of())).to(kind)
    theirs.save_pretrained(tmp_path / "narrow", max_shard_size="50KB")
    assert len(list((tmp_path / "narrow").glob("*.safetensors"))) > 1
    run = RunFolder(tmp_path / "run")
    tokenizer, template = load_model_folder(run.model)[1:]
    source = RunModel(run, inspect_folder(tmp_path / "narrow"), tokenizer, template)
    state = theirs.state_dict()
    for name, value in source.tensors():
        assert np.array_equal(value, state[f"transformer.{name}"].float().numpy()), name


def test_a_type_that_is_no_float_is_refused(run_of):
    run = run_of()
    path = run.model / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"'))
    (run.model / "manifest.json").unlink()
    with pytest.raises(WeightsError, match=r"is of type I32, not one of F32, BF16, F16, F64"):
        export(run, "hf")


def test_bf16_rounds_to_nearest_and_ties_to_even():
    bits = np.random.default_rng(0).integers(0, 0x7F7F_0000, 20_000, dtype=np.uint32)
    bits[:1000] = (bits[:1000] & 0xFFFF_0000) | 0x8000  # ties
    values = np.concatenate([bits.view(np.float32), -bits.view(np.float32)])
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(narrowed("w", values, "bf16"), expected)


def test_a_value_that_fp16_cannot_hold_is_an_error_and_no_infinity():
    values = np.array([65504.0, -70000.0], np.float32)
    with pytest.raises(ConfigError, match=r"fp16: wte.weight holds 7e\+04, beyond fp16 \(take bf16 or fp32\)"):
        narrowed("wte.weight", values, "fp16")
    assert narrowed("w", values[:1], "fp16")[0] == 65504


@pytest.mark.parametrize("prompt", PRESETS)
def test_the_chat_template_writes_our_prompt_token_for_token(run_of, prompt, small_tokenizer):
    run = run_of(prompt=prompt)
    tokenizer = AutoTokenizer.from_pretrained(exported(run))
    template = load_model_folder(run.model)[2]
    for row in ROWS:
        if template.missing_place(row):
            with pytest.raises(Exception, match="without system messages"):
                tokenizer.apply_chat_template(messages_of(row))
            continue
        ids = tokenizer.apply_chat_template(messages_of(row), add_generation_prompt=True, return_dict=False)
        assert ids == encode_prompt(row, template, small_tokenizer)


def test_a_chat_template_of_another_tokenizer_writes_our_tokens_too(run_of, small_tokenizer):
    """<s> was ordinary text in training, </s> the end-of-text."""
    source = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[I] {{ m['content'] }} [/I]"
    source += "{% else %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}{{ pad_token }}"
    template = ChatTemplate("other", source=source, special=(("bos_token", "<s>"), ("eos_token", "</s>")))
    tokenizer = AutoTokenizer.from_pretrained(exported(run_of(prompt=template)))
    for row in (ROWS[0], Conversation("And now?", "", "Green.", history=(("Hello!", "Hi."), ("Sky?", "Blue.")))):
        ids = tokenizer.apply_chat_template(messages_of(row), return_dict=False)
        assert ids == encode_prompt(row, template, small_tokenizer)
        assert ids.count(small_tokenizer.end_of_text) == len(row.history)
        assert tokenizer.decode(ids).startswith("<s>[I] ")


def test_transformers_generates_what_we_generate(run_of, small_tokenizer):
    run = run_of(context_length=256)
    folder = exported(run)
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ours, _, template = load_model_folder(run.model)
    for row in ROWS:
        ids = tokenizer.apply_chat_template(messages_of(row), return_tensors="pt", return_dict=True)
        said = theirs.generate(**ids, max_new_tokens=24)[0, ids["input_ids"].shape[1] :].tolist()
        prompt = encode_prompt(row, template, small_tokenizer)
        [expected] = generate(ours, [prompt], end_of_text=small_tokenizer.end_of_text, max_new_tokens=24)
        assert [token for token in said if token != small_tokenizer.end_of_text] == expected.ids
        assert len(expected.ids) > 2


def test_other_programs_find_the_end_and_the_context(run_of, small_tokenizer):
    folder = exported(run_of())
    tokenizer, generation = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == generation.pad_token_id == tokenizer.eos_token_id == 300
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 300)
    padded = tokenizer(["a", "a b c d"], padding=True)
    assert [len(ids) for ids in padded["input_ids"]] == [len(small_tokenizer.encode("a b c d"))] * 2
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["chat_template"] == (folder / "chat_template.jinja").read_text()
    assert tokenizer.model_max_length == 64
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 64
    assert tokenizer.chat_template == (folder / "chat_template.jinja").read_text()
    text = "Who's there?\n\n  12345 über 日本 😀\t\r\n x"
    assert tokenizer.encode(text) == small_tokenizer.encode(text)

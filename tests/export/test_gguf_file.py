"""A GGUF file, read back by its documented names: the same model, vocabulary and template. And as llama.cpp runs it.

llama.cpp itself is asked where its llama-server is found, on PATH or in the folder that LLAMA_CPP names.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf import GGUFReader, dequantize

from ift.artifacts.model_folder import load_model_folder
from ift.errors import ConfigError
from ift.export import llama_cpp
from ift.export.export import export
from ift.export.gguf_file import their_name
from ift.generation.engine import generate
from ift.text.chat_template_export import export_chat_template
from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation
from ift.text.encoding import encode_prompt
from tests.export.conftest import beside_its_base

TEXTS = (
    "Who's there?\n\n  12345 über 日本 😀\t\r\n x",
    "  leading and trailing  ",
    "a\n\n\n b\u00a0c\u3000d\u2028e",
    "I'LL 'll 've're x'd",
    "1,234.5 km² ½ ٣٤ Ⅷ",
    "e\u0301 न्दी \u200d\u200b ﷺ",
    "{{ x }} <b> ### Response:\n<|user|>\n",
    "tab\tend \n",
    "\n",
    " ",
)


def exported(run, dtype="fp32"):
    export(run, "gguf", dtype=dtype)
    return run.path / "export" / f"gguf-{dtype}" / f"model-{dtype}.gguf"


def logits_of(file, ids):
    """(B, T) -> (B, T, V): GPT-2 by the names and layouts that llama.cpp documents, all matrices (out, in)."""
    reader = GGUFReader(file)
    t = {
        x.name: torch.from_numpy(dequantize(x.data, x.tensor_type).astype(np.float32)).view(*x.shape.tolist()[::-1])
        for x in reader.tensors
    }
    n_head = int(reader.fields["gpt2.attention.head_count"].contents())
    eps = float(reader.fields["gpt2.attention.layer_norm_epsilon"].contents())

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], t[name + ".weight"], t[name + ".bias"], eps)

    def linear(x, name):
        return x @ t[name + ".weight"].T + t[name + ".bias"]

    x = t["token_embd.weight"][ids] + t["position_embd.weight"][: ids.shape[1]]
    for layer in range(int(reader.fields["gpt2.block_count"].contents())):
        b = f"blk.{layer}."
        q, k, v = (
            part.unflatten(-1, (n_head, -1)).transpose(1, 2)
            for part in linear(norm(x, b + "attn_norm"), b + "attn_qkv").chunk(3, dim=-1)
        )
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(torch.ones(ids.shape[1], ids.shape[1]).triu(1) > 0, -1e30)
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), b + "attn_output")
        x = x + linear(F.gelu(linear(norm(x, b + "ffn_norm"), b + "ffn_up"), approximate="tanh"), b + "ffn_down")
    return norm(x, "output_norm") @ t.get("output.weight", t["token_embd.weight"]).T


@pytest.mark.parametrize("padding", [0, 47])
@pytest.mark.parametrize("tied", [True, False])
def test_the_file_holds_our_model(run_of, tied, padding):
    run = run_of(tie_weights=tied, padding=padding)
    file = exported(run)
    ids = torch.randint(301, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = load_model_folder(run.model)[0].eval()(ids)[..., :301]
    torch.testing.assert_close(logits_of(file, ids), ours, atol=1e-5, rtol=0)
    assert any(x.name == "output.weight" for x in GGUFReader(file).tensors) is not tied


@pytest.mark.parametrize(("tied", "padding"), [(True, 0), (False, 0), (True, 47), (False, 47)])
def test_the_file_of_an_adapter_s_run_holds_its_base_with_the_adapter_in_it(run_of, adapter_on, tied, padding):
    base = run_of("base", tie_weights=tied, padding=padding)
    run = adapter_on(base)
    file, ids = exported(run), torch.randint(301, (2, 64), generator=torch.Generator().manual_seed(1))
    ids[0, :2] = torch.tensor([7, 290])  # whose rows are trained
    with torch.no_grad():
        ours, before = beside_its_base(run)(ids), load_model_folder(base.model)[0].eval()(ids)
    torch.testing.assert_close(logits_of(file, ids), ours[..., :301], atol=1e-4, rtol=0)
    assert (ours - before).abs().max() > 1  # the adapter changes much
    assert any(x.name == "output.weight" for x in GGUFReader(file).tensors) is not tied
    assert "FROM ./model-fp32.gguf" in (file.parent / "Modelfile").read_text()


@pytest.mark.parametrize(("dtype", "most"), [("fp16", 0.03), ("bf16", 0.25), ("q8_0", 0.25)])
def test_smaller_types_are_near_and_keep_vectors_and_positions_whole(run_of, dtype, most):
    run = run_of(n_embd=64)
    file = exported(run, dtype)
    ids = torch.randint(301, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = load_model_folder(run.model)[0].eval()(ids)
    away = (logits_of(file, ids) - ours).abs().max().item()
    assert 1e-4 < away < most, away
    types = {x.name: x.tensor_type.name for x in GGUFReader(file).tensors}
    assert {types.pop("position_embd.weight"), *(types.pop(name) for name in list(types) if "norm" in name)} == {"F32"}
    assert {types.pop(name) for name in list(types) if name.endswith("bias")} == {"F32"}
    assert set(types.values()) == {{"fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}[dtype]}
    assert len(types) == 1 + 2 * 4


def test_a_file_says_all_that_llama_cpp_asks_for(run_of, small_tokenizer):
    run = run_of("My run", n_layer=3, context_length=48)
    fields = {key: field.contents() for key, field in GGUFReader(exported(run)).fields.items()}
    sizes = {key.removeprefix("gpt2."): value for key, value in fields.items() if key.startswith("gpt2.")}
    epsilon = sizes.pop("attention.layer_norm_epsilon")
    assert epsilon == pytest.approx(1e-5)
    assert sizes == {
        "context_length": 48,
        "embedding_length": 32,
        "feed_forward_length": 128,
        "block_count": 3,
        "attention.head_count": 2,
    }
    assert (fields["general.architecture"], fields["general.name"], fields["general.file_type"]) == (
        "gpt2",
        "My run",
        0,
    )
    words = {key.removeprefix("tokenizer."): value for key, value in fields.items() if key.startswith("tokenizer.")}
    assert (words["ggml.model"], words["ggml.pre"]) == ("gpt2", "gpt-2")
    assert len(words["ggml.tokens"]) == 301
    assert words["ggml.tokens"][300] == "<|endoftext|>"
    assert words["ggml.token_type"] == [1] * 300 + [3]  # ordinary ones, and one that controls
    assert words["ggml.bos_token_id"] == words["ggml.eos_token_id"] == 300
    assert words["ggml.add_bos_token"] is False
    assert words["ggml.add_space_prefix"] is False
    assert words["chat_template"] == export_chat_template(load_model_folder(run.model)[2])
    assert fields["ift.prompt.before_input"] == "\n"
    assert (fields["ift.prompt.name"], len(fields["ift.prompt.hash"])) == ("phi3", 16)
    assert fields["general.description"] == (
        "Fine-tuned on instructions by ift, prompt phi3. "
        'An input follows its instruction in the same message after "\\n".'
    )
    left, right = words["ggml.merges"][0].split(" ")
    assert left + right == words["ggml.tokens"][256] == small_tokenizer.decode([256]).replace(" ", "Ġ")
    assert len(words["ggml.merges"]) == 300 - 256


def test_names_are_llama_cpp_s():
    assert their_name("h.11.attn.c_attn.weight") == "blk.11.attn_qkv.weight"
    assert their_name("h.0.mlp.c_proj.bias") == "blk.0.ffn_down.bias"
    assert their_name("wte.weight") == "token_embd.weight"
    assert their_name("lm_head.weight") == "output.weight"


def test_sizes_that_q8_0_does_not_fit_are_refused(run_of):
    run = run_of(n_embd=16)
    with pytest.raises(ConfigError, match=r"q8_0: n_embd 16 is no multiple of 32"):
        exported(run, "q8_0")
    assert list((run.path / "export").iterdir()) == []


def test_a_weight_that_fp16_cannot_hold_is_refused(run_of, monkeypatch):
    from ift.export.source import RunModel

    run, tensors = run_of(), RunModel.tensors
    monkeypatch.setattr(RunModel, "tensors", lambda self: ((name, 1e6 * value) for name, value in tensors(self)))
    with pytest.raises(ConfigError, match=r"fp16: .* beyond fp16"):
        exported(run, "fp16")


def test_a_template_with_generation_is_in_the_file_without_that_tag(run_of):
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}{% endfor %}"
    template = ChatTemplate("chat", source=source, special=(("eos_token", "</s>"),))
    fields = GGUFReader(exported(run_of(prompt=template))).fields
    assert fields["tokenizer.chat_template"].contents() == export_chat_template(template, plain=True)
    assert "generation %}" not in fields["tokenizer.chat_template"].contents()


# -- llama.cpp --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tied", "prompt"), [(True, "phi3"), (False, "alpaca"), (True, "chatml")])
def test_llama_cpp_says_what_we_say_token_for_token(run_of, small_tokenizer, tied, prompt):
    run = run_of(tie_weights=tied, context_length=256, prompt=prompt)
    said = alike(run, small_tokenizer, 256)
    assert sum(map(len, said)) > 40


def test_llama_cpp_reads_gpt2_s_own_vocabulary_as_tiktoken_does(run_of, gpt2_tokenizer):
    alike(run_of(tokenizer=gpt2_tokenizer, n_layer=1, context_length=128, prompt="alpaca"), gpt2_tokenizer, 128)


def alike(run, tokenizer, context):
    """Texts, chats and greedy answers of llama.cpp, which must be ours; the answers."""
    server = llama_cpp.program("llama-server")
    if server is None:
        pytest.skip("needs llama-server: install llama.cpp, or LLAMA_CPP=FOLDER of its programs")
    model, _, template = load_model_folder(run.model)
    rows = [Conversation(text) for text in ("Which city is the capital of Canada?", "Name a bird.", "é 日本 😀")]
    rows.append(Conversation("Name its color.", "", "Blue.", history=(("Hello!", "Hi."), ("Sky?", "Blue."))))
    prompts = [encode_prompt(row, template, tokenizer) for row in rows]
    expected = generate(model, prompts, end_of_text=tokenizer.end_of_text, max_new_tokens=20)
    with llama_cpp.Server(server, exported(run), context_length=context) as running:
        for text in TEXTS:
            assert running.tokens(text) == tokenizer.encode(text)
        for row, prompt, answer in zip(rows, prompts, expected, strict=True):
            said = [text for turn in row.history for text in turn] + [row.instruction]
            chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
            assert running.prompt(chat) == prompt
            ids = running.answer(prompt, 20)
            assert [id for id in ids if id != tokenizer.end_of_text] == answer.ids
    return [answer.ids for answer in expected]

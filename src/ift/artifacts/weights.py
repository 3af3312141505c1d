"""GPT-2 weights in Hugging Face layout: read from the Hub or a folder, write a model folder.

Only safetensors and JSON are read, and the headers are checked before torch is imported; a pickle is never opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.artifacts.tensors import read_header, write_tensors
from ift.errors import ConfigError, MachineError, WeightsError, missing_extra
from ift.model.config import GPTConfig
from ift.model.families.gpt2 import (
    ARITHMETIC,
    CONSTANTS,
    EMBEDDING,
    HEAD,
    PUBLISHED,
    TRANSPOSED,
    hf_config,
    our_name,
    shapes_of,
    sizes,
    stops_of,
    stored_name,
)
from ift.run import write_json
from ift.sealed import MANIFEST, hash_file
from ift.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ift.model.gpt import GPT


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
    stops: frozenset[int] = frozenset()  # tokens by which the model ends an answer, as config.json says

    @property
    def tied(self) -> bool:
        return HEAD not in self.tensors

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
    keys = ("n_layer", "n_head", "n_embd", "context_length")
    if settings.pretrained is None:
        missing = [f"model.{key}" for key in keys if getattr(settings, key) is None]
        if missing:
            raise ConfigError(f"{missing[0]}: not set, and there is no model.pretrained to take it from")
        given = {key: getattr(settings, key) for key in keys}
        return GPTConfig(vocab_size, **given, dropout=settings.dropout, tie_weights=settings.tie_weights), None
    folder = find_weights(settings.pretrained)
    differing = [
        f"{key} is {getattr(folder, key)}, not {getattr(settings, key)}"
        for key in keys
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
        size = sizes(config)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}/config.json: no such file (is this a model folder?)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__} {error}"
        raise WeightsError(f"{path}/config.json: not the configuration of a GPT-2: {what}") from error
    for key, same in ARITHMETIC.items():
        if config.get(key, same[0]) not in same:
            raise WeightsError(f"{path}/config.json: {key} is {config[key]}: not the arithmetic of GPT-2 ({same[0]})")
    if size["n_embd"] % size["n_head"]:
        raise WeightsError(f"{path}/config.json: n_head {size['n_head']} does not divide n_embd {size['n_embd']}")
    shapes: dict[str, list[int]] = {}
    tensors: dict[str, Path] = {}
    for file in _weight_files(path):
        for stored, tensor in read_header(file).items():
            name = our_name(stored)
            if not name.endswith(CONSTANTS):
                shapes[name], tensors[name] = tensor.shape, file
    expected = shapes_of(GPTConfig(**size, tie_weights=HEAD not in shapes))
    wrong = [
        f"{name} is {shapes.get(name, 'missing')}, not {shape}"
        for name, shape in expected.items()
        if shapes.get(name) != shape
    ]
    wrong += [f"{name} is unknown" for name in shapes if name not in expected]
    if wrong:
        raise WeightsError(f"{path}: {len(wrong)} tensors do not fit its config.json: {'; '.join(wrong[:2])}")
    if config.get("tie_word_embeddings", True):
        tensors.pop(HEAD, None)  # some exports store the shared matrix twice
    return Folder(path, **size, tensors=tensors, stops=stops_of(config, size["vocab_size"]))


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


def weights_identity(path: Path) -> str:
    """Which weights a model folder holds: of its manifest, which names them, or of the files where there is none.

    Answers that are kept are named after it: it must not change for weights that stay.
    """
    files = [path / MANIFEST] if (path / MANIFEST).exists() else sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        text = hash_file(file).encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()[:32]


# ----------------------------------------------------------------------------------------------------------------------
# from here on torch is needed


def load_weights(model: GPT, folder: Folder) -> None:
    """Copy a folder's tensors into the model's parameters, one after the other; their type and device stay.

    An untied head starts as a tied folder's embedding. Raises WeightsError where a tensor does not fit or is no finite
    number: the model may then hold some of the folder's tensors already.
    """
    import torch
    from safetensors import safe_open

    model.stops = folder.stops
    parameters = dict(model.named_parameters())  # a tied head is among them once, as the embedding
    if HEAD in folder.tensors and model.config.tie_weights:
        raise WeightsError(f"{folder.path}: the head is not the embedding (use model.tie_weights=false)")
    missing = set(parameters)
    for file in sorted(set(folder.tensors.values())):
        with safe_open(file, framework="pt") as tensors, torch.no_grad():
            for stored in tensors.keys():  # noqa: SIM118 (no mapping)
                name = our_name(stored)
                if folder.tensors.get(name) != file:
                    continue
                value = tensors.get_tensor(stored)
                if not torch.isfinite(value).all():
                    raise WeightsError(f"{file}: {stored} holds NaN or infinity (download it again)")
                _copy(value.t() if name.endswith(TRANSPOSED) else value, parameters[name], f"{file}: {stored}")
                missing.discard(name)
    if HEAD in missing and EMBEDDING not in missing:
        with torch.no_grad():
            parameters[HEAD].copy_(parameters[EMBEDDING])
        missing.discard(HEAD)
    if missing:
        raise WeightsError(f"{folder.path}: without {min(missing)}")


def _copy(value: Tensor, parameter: Tensor, what: str) -> None:
    if value.shape != parameter.shape:
        raise WeightsError(f"{what} is {list(value.shape)}, not {list(parameter.shape)} as in the model")
    parameter.copy_(value)


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
    """config.json and model.safetensors, as transformers' GPT2LMHeadModel reads them, one tensor after the other."""
    shapes = shapes_of(model.config)
    names = sorted(shapes, key=stored_name)  # as safetensors' own writer has them
    parameters = dict(model.named_parameters())

    def values() -> Iterator[Any]:
        for name in names:
            value = parameters[name].detach().float().cpu()
            yield (value.t() if name.endswith(TRANSPOSED) else value).contiguous().numpy()

    write_json(path / "config.json", hf_config(model.config, end_of_text))
    tensors = {stored_name(name): ("F32", shapes[name]) for name in names}
    write_tensors(path / "model.safetensors", tensors, values(), {"format": "pt"})

"""A model of the Hub, or what of it is needed: fetched once, then from the Hub's own cache. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from ift.errors import IftError, MachineError, WeightsError, missing_extra

WEIGHTS = (  # whole or in shards, and not what repeats them (Mistral's consolidated.safetensors, Llama's original/)
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)
OTHER_KINDS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")  # files of weights


def is_name(place: str) -> bool:
    """Whether it can only be a name on the Hub, WHOSE/NAME: nothing here is called so, and it is no path."""
    return place.count("/") == 1 and not place.startswith((".", "/", "~")) and not Path(place).exists()


def download(name: str, files: Sequence[str]) -> Path:
    """The folder with those of a model's files that have these names or fit these patterns, shards of other names too.

    Raises MachineError where the Hub is not reached or refuses, WeightsError where it has no such model.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub") from error
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(files)))
        if others := _shards_of_other_names(folder, files):
            folder = Path(snapshot_download(name, allow_patterns=others))
    except Exception as error:  # the library raises whatever its transport raises
        raise _refused(name, error) from error
    return folder


def _shards_of_other_names(folder: Path, files: Sequence[str]) -> list[str]:
    """Those that the index names; a damaged one is reported where the weights are read."""
    index = folder / "model.safetensors.index.json"
    if index.name not in files or not index.exists():
        return []
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(
        name
        for name in names
        if isinstance(name, str) and fnmatch(name, "*.safetensors") and not (folder / name).exists()
    )


def _refused(name: str, error: Exception) -> IftError:
    """What to do about a model that the Hub did not give, by the first reason that it or its library had."""
    from huggingface_hub import errors

    local = "or give a local folder: model.pretrained=FOLDER"
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, errors.GatedRepoError):
            return MachineError(
                f"{name}: gated: its owner asks for your consent (once: open https://huggingface.co/{name}, agree, "
                f"then hf auth login; {local})"
            )
        if isinstance(reason, errors.RepositoryNotFoundError):
            return WeightsError(
                f"{name}: no such model on the Hub, or a private one "
                f"(https://huggingface.co/models has the names; a private one needs hf auth login; {local})"
            )
        reason = reason.__cause__
    return MachineError(f"{name}: not fetched from the Hub: {type(error).__name__} ({local.removeprefix('or ')})")


def others_on_hub(name: str) -> list[str]:
    """Files of weights that a model on the Hub has in other forms; none where that cannot be asked."""
    from huggingface_hub import list_repo_files

    try:
        files = sorted(list_repo_files(name))
    except Exception:  # the library raises whatever its transport raises
        return []
    return [file for kind in OTHER_KINDS for file in files if fnmatch(file, kind) and "/" not in file]

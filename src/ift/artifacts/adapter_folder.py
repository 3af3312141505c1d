"""Adapters in PEFT's layout, in and out: adapter_config.json and adapter_model.safetensors. Reading needs no torch.

Written are only the keys that are not PEFT's defaults: an older PEFT refuses a key that it does not know. The hash of
the base's weights stands in ift.json, which PEFT does not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ift.artifacts.tensors import read_header, read_tensor, write_tensors
from ift.errors import WeightsError
from ift.model.config import GPTConfig
from ift.model.families import family_of
from ift.model.families.family import HEAD, Piece
from ift.model.low_rank import LowRank, layer_of, matrices_of, merged_weight, shortest_names
from ift.run import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ift.model.gpt import GPT

CONFIG, WEIGHTS, ABOUT = "adapter_config.json", "adapter_model.safetensors", "ift.json"
BEFORE = "base_model.model."  # all of PEFT's names
KINDS = {  # as names end; base: PEFT keeps the weight of a head that has an adapter, and reads it in the base's place
    "lora_A.weight": "A", "lora_B.weight": "B", "lora_magnitude_vector": "magnitude", "base_layer.weight": "base",
}  # fmt: skip
ROWS, TOKENS = "token_adapter.trainable_tokens_delta", "trainable_token_indices"  # the rows themselves, no difference

READ = {
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "use_dora", "lora_dropout", "rank_pattern",
    "alpha_pattern", "init_lora_weights", "bias", TOKENS,
}  # fmt: skip
SILENT = {  # the tensors say which matrices have adapters; the rest changes nothing of what is computed
    "task_type", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
    "inference_mode", "auto_mapping", "revision", "peft_version", "runtime_config", "megatron_core",
    "qalora_group_size", "ensure_weight_tying", "eva_config", "use_bdlora", "save_embedding_layers",
}  # fmt: skip
NOTHING: tuple[Any, ...] = (None, False, {}, [], "")


@dataclass(frozen=True)
class AdapterFolder:
    """A checked folder.

    stored  matrix -> A, B, magnitude -> the tensor's name in the file
    rows    embedding, head -> ids of tokens, and the name of the tensor with a row for each
    """

    path: Path
    low_rank: LowRank
    config: GPTConfig  # of the base
    stored: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all tensors in the file."""
        of_matrices = [name for its in self.stored.values() for name in its.values()]
        return of_matrices + [name for _, name in self.rows.values()]

    def read(self, matrix: str) -> dict[str, NDArray[np.float32]]:
        """A (r, in), B (out, r) and, with DoRA, magnitude (out,), with rows in the published order."""
        return {kind: self._tensor(name) for kind, name in self.stored[matrix].items()}

    def rows_of(self, name: str) -> tuple[list[int], NDArray[np.float32]] | None:
        """Tokens and their rows (tokens, in) that stand in place of those of a published tensor; None: all are its."""
        found = self.rows.get({module: kind for kind, module in modules_of(self.config).items()}.get(name, ""))
        return (list(found[0]), self._tensor(found[1])) if found else None

    def _tensor(self, name: str) -> NDArray[np.float32]:
        file = self.path / WEIGHTS
        value = read_tensor(file, name, read_header(file)[name])
        if not np.isfinite(value).all():
            raise WeightsError(f"{file}: {name} holds NaN or infinity")
        return value

    def merged(self, name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """A published tensor of the base with its adapter or its rows in it, if it has some. In fp32."""
        matrix = name.removesuffix(".weight")
        if own := self.rows_of(matrix):
            value = value.copy()
            value[own[0]] = own[1]
        if matrix not in self.stored:
            return value
        its = self.read(matrix)
        piece = matrices_of(self.config).get(matrix)
        turned = piece is not None and piece.form == "transposed"
        weight = its.get("base", value.T if turned else value)
        merged = merged_weight(weight, its["A"], its["B"], self.low_rank.scale_of(matrix), its.get("magnitude"))
        result: NDArray[np.float32] = merged.T if turned else merged
        return result


def is_adapter(path: Path) -> bool:
    return (path / CONFIG).is_file()


def base_of(path: Path) -> str:
    """The name of an adapter's base, a folder or a model on the Hub. Raises WeightsError where it has none."""
    name = _object(path / CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise WeightsError(f"{path / CONFIG}: without base_model_name_or_path (write the name of the base there)")
    return name


def open_adapter(path: Path, base: GPTConfig) -> AdapterFolder:
    """Read the config and the header of the tensors, and check both against the base.

    Raises WeightsError, by name, for what is not understood: it would be another model.
    """
    file, said = path / CONFIG, _object(path / CONFIG)
    _refuse_unknown(file, said)
    stored, of_rows = _by_matrix(path / WEIGHTS, base)
    shapes = {name: tensor.shape for name, tensor in read_header(path / WEIGHTS).items()}
    every = [name for name in _adaptable(base) if name in stored]
    rank, alpha = _number(file, said, "r", 8), _number(file, said, "lora_alpha", 8)
    ranks, alphas = (_pattern(file, said, key) for key in ("rank_pattern", "alpha_pattern"))
    dora, found = bool(said.get("use_dora")), dict[str, int]()
    for matrix in every:
        its, (rows, columns) = stored[matrix], _adaptable(base)[matrix]
        r = int(_matching(ranks, matrix, base, rank))
        wanted = {"A": [r, columns], "B": [rows, r], **({"magnitude": [rows]} if dora else {})}
        wanted |= {"base": [rows, columns]} if "base" in its else {}
        there = {kind: shapes[name] for kind, name in its.items()}
        if there != wanted:
            raise WeightsError(f"{path / WEIGHTS}: {matrix} has {there}, not {wanted} as {CONFIG} and the base say")
        found[matrix] = r
    its_alphas = {matrix: float(_matching(alphas, matrix, base, alpha)) for matrix in every}
    tokens = _tokens(file, said, base, {kind: (name, shapes[name]) for kind, name in of_rows.items()})
    about = _object(path / ABOUT) if (path / ABOUT).is_file() else {}
    about_base = about.get("base")
    noted: dict[str, Any] = about_base if isinstance(about_base, dict) else {}
    low_rank = LowRank(
        base_of(path), tuple(every), int(rank), float(alpha),
        rslora=bool(said.get("use_rslora")), dora=dora, dropout=float(said.get("lora_dropout") or 0.0),
        ranks={matrix: r for matrix, r in found.items() if r != rank},
        alphas={matrix: a for matrix, a in its_alphas.items() if a != alpha},
        base_hash=str(noted.get("sha256") or ""), four_bits=noted.get("four_bits") is True,
        tokens=tuple(sorted({id for ids in tokens.values() for id in ids})),
    )  # fmt: skip
    return AdapterFolder(path, low_rank, base, stored, {kind: (tokens[kind], of_rows[kind]) for kind in of_rows})


def modules_of(base: GPTConfig) -> dict[str, str]:
    """embedding, and head where it has rows of its own -> its published name."""
    names = family_of(base).names
    return {"embedding": names["wte"][0], **({} if base.tie_weights else {"head": names[HEAD][0]})}


def _tokens(
    file: Path, said: Mapping[str, Any], base: GPTConfig, there: Mapping[str, tuple[str, list[int]]]
) -> dict[str, tuple[int, ...]]:
    """embedding, head -> the tokens whose rows are trained. there: the name and shape of each tensor of rows.

    A list is of the embedding, and of the head where that is the same matrix, as PEFT takes it.
    """
    given, modules = said.get(TOKENS) or {}, modules_of(base)
    given = {modules["embedding"]: given} if isinstance(given, list) else given
    head = family_of(base).names[HEAD][0]
    if base.tie_weights and isinstance(given, dict) and given.get(head) == given.get(modules["embedding"]):
        given = {name: ids for name, ids in given.items() if name != head}
    found: dict[str, tuple[int, ...]] = {}
    for kind, name in modules.items():
        ids = given.get(name) if isinstance(given, dict) else None
        if ids and all(isinstance(id, int) and 0 <= id < base.vocab_size for id in ids) and len(set(ids)) == len(ids):
            found[kind] = tuple(ids)
    if not isinstance(given, dict) or set(given) - {modules[kind] for kind in found}:
        raise WeightsError(f"{file}: {TOKENS} is {json.dumps(given)[:60]}, not ids of tokens by the names of matrices")
    if {kind: [len(ids), base.n_embd] for kind, ids in found.items()} != {
        kind: shape for kind, (_, shape) in there.items()
    }:
        raise WeightsError(f"{file}: {TOKENS} is {json.dumps(given)[:60]}, and {WEIGHTS} has other rows")
    return found


def _adaptable(base: GPTConfig) -> dict[str, tuple[int, int]]:
    """Published matrix -> (out, in): those of the blocks, and a head of its own."""
    found = {}
    for name, piece in matrices_of(base).items():
        rows, columns = piece.shape[::-1] if piece.form == "transposed" else piece.shape
        found[name] = (rows, columns)
    if not base.tie_weights:
        found[family_of(base).names[HEAD][0]] = (base.vocab_size, base.n_embd)
    return found


def _by_matrix(file: Path, base: GPTConfig) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Matrix -> kind -> name of the tensor; embedding, head -> name of the tensor of rows."""
    rows = {f"{module}.{ROWS}": kind for kind, module in modules_of(base).items()}
    of_rows: dict[str, str] = {}
    family, there, found = family_of(base), _adaptable(base), dict[str, dict[str, str]]()
    if not file.is_file():
        others = [path.name for path in sorted(file.parent.glob("adapter_model.*"))]
        raise WeightsError(f"{file}: no such file{f' (there is {others[0]}, which is not read)' if others else ''}")
    for name in read_header(file):
        if kind := rows.get(family.plain_name(name)):
            of_rows[kind] = name
            continue
        ending = next((ending for ending in KINDS if name.endswith(f".{ending}")), None)
        matrix = family.plain_name(name)[: -len(ending) - 1] if ending else ""
        if ending is None or matrix not in there:
            head = family.names[HEAD][0]
            why = "the head is the embedding" if matrix == head else "no adapter of a matrix that ift knows"
            raise WeightsError(f"{file}: {name}: {why} (merge it with PEFT, and give the merged model)")
        found.setdefault(matrix, {})[KINDS[ending]] = name
    if not found:
        raise WeightsError(f"{file}: holds no adapter")
    return found, of_rows


def _refuse_unknown(file: Path, said: Mapping[str, Any]) -> None:
    if said.get("peft_type") != "LORA":
        raise WeightsError(f"{file}: peft_type is {said.get('peft_type')!r:.40}, not LORA")
    if (bias := said.get("bias", "none")) != "none":
        raise WeightsError(f"{file}: bias is {bias!r:.40}: trained biases are not read (merge it with PEFT)")
    begun = said.get("init_lora_weights", True)
    if begun not in (True, False, "gaussian", "eva", "orthogonal"):  # others move a part of the base into the adapter
        raise WeightsError(f"{file}: init_lora_weights is {begun!r:.40}, which changes the base (convert it with PEFT)")
    for key, value in said.items():
        if key not in READ | SILENT and value not in NOTHING:
            raise WeightsError(f"{file}: {key} is {json.dumps(value)[:60]}, which ift does not know")


def _number(file: Path, said: Mapping[str, Any], key: str, otherwise: float) -> float:
    value = said.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 10**6:
        raise WeightsError(f"{file}: {key} is {value!r:.40}, not a number above 0")
    return value


def _pattern(file: Path, said: Mapping[str, Any], key: str) -> dict[str, float]:
    given = said.get(key) or {}
    if not isinstance(given, dict):
        raise WeightsError(f"{file}: {key} is {given!r:.40}, not numbers by the names of matrices")
    return {name: _number(file, given, name, 0) for name in given}


def _matching(pattern: Mapping[str, float], matrix: str, base: GPTConfig, otherwise: float) -> float:
    """By the first name of a pattern that ends the module's name, as PEFT takes it: a regular expression."""
    module = family_of(base).stored_name(f"{matrix}.").removesuffix(".")
    for name, value in pattern.items():
        try:
            if re.match(rf"(.*\.)?({name})$", module):
                return value
        except re.error as error:
            raise WeightsError(f"{CONFIG}: {name!r:.60} is no pattern of names ({error})") from error
    return otherwise


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file}: cannot be read: {type(error).__name__} {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{file}: is no JSON object")
    return found


def peft_config(low_rank: LowRank, base: GPTConfig) -> dict[str, Any]:
    """adapter_config.json, without what is PEFT's default."""
    layers = sorted({layer_of(matrix) for matrix in low_rank.matrices})
    there = [matrix for matrix in matrices_of(base) if layer_of(matrix) in layers]
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": low_rank.base,
        "r": low_rank.rank,
        "lora_alpha": low_rank.alpha if low_rank.alpha % 1 else int(low_rank.alpha),
        "target_modules": shortest_names(low_rank.matrices, there),
    }
    optional = {
        "lora_dropout": low_rank.dropout,
        "fan_in_fan_out": any(matrices_of(base)[matrix].form == "transposed" for matrix in low_rank.matrices),
        "layers_to_transform": layers if len(layers) < base.n_layer else None,
        "rank_pattern": dict(low_rank.ranks),
        "alpha_pattern": dict(low_rank.alphas),
        "use_rslora": low_rank.rslora,
        "use_dora": low_rank.dora,
        TOKENS: list(low_rank.tokens)
        if base.tie_weights
        else dict.fromkeys(modules_of(base).values(), low_rank.tokens),
    }
    optional[TOKENS] = optional[TOKENS] if low_rank.tokens else None
    return {**written, **{key: value for key, value in optional.items() if value}}


# ----------------------------------------------------------------------------------------------------------------------
# from here on torch is needed


def trained_tensors(model: GPT) -> Iterator[tuple[str, Tensor, Piece | None]]:
    """Name in the file and parameter of all that an adapter's folder holds; the piece where its rows are in order."""
    from ift.model.adapters import published_adapters

    family = family_of(model.config)
    for matrix, piece, adapter in published_adapters(model):
        its = (("lora_A.weight", adapter.A, None), ("lora_B.weight", adapter.B, piece))
        for kind, parameter, order in (*its, ("lora_magnitude_vector", adapter.magnitude, piece)):
            if parameter is not None:
                yield f"{BEFORE}{family.stored_name(f'{matrix}.{kind}')}", parameter, order
    if model.own_rows is not None:
        for kind, module in modules_of(model.config).items():
            yield f"{BEFORE}{family.stored_name(f'{module}.{ROWS}')}", getattr(model.own_rows, kind), None


def save_adapter(model: GPT, path: Path, weights: Iterator[Tensor] | None = None) -> None:
    """adapter_config.json and adapter_model.safetensors of a model that has adapters, in fp32.

    weights: the `trained_tensors`, whole, where ranks have slices of them
    """
    from ift.model.adapters import rows_as_published

    assert model.low_rank is not None
    write_json(path / CONFIG, peft_config(model.low_rank, model.config))
    values = dict[str, NDArray[Any]]()
    there = list(trained_tensors(model))
    for (name, parameter, piece), value in zip(there, weights or (each for _, each, _ in there), strict=True):
        value = value.detach() if piece is None else rows_as_published(value.detach(), piece, model)
        values[name] = value.float().cpu().reshape(parameter.shape).contiguous().numpy()
    names = sorted(values)
    tensors = {name: ("F32", values[name].shape) for name in names}
    write_tensors(path / WEIGHTS, tensors, (values[name] for name in names), {"format": "pt"})


def load_adapter(model: GPT, folder: AdapterFolder) -> None:
    """Copy a folder's tensors into the adapters of a model. Raises WeightsError where they are not the same ones."""
    import torch

    from ift.model.adapters import published_adapters, rows_as_published
    from ift.model.slices import fill, first_row, local

    its = model.low_rank
    theirs = folder.low_rank
    if its is None or (its.matrices, its.dora, its.tokens) != (theirs.matrices, theirs.dora, theirs.tokens):
        raise WeightsError(f"{folder.path}: the adapters of other matrices or tokens than the model has")
    if wrong := [matrix for matrix in its.matrices if its.rank_of(matrix) != theirs.rank_of(matrix)]:
        ranks = its.rank_of(wrong[0]), theirs.rank_of(wrong[0])
        raise WeightsError(f"{folder.path}: {wrong[0]} has rank {ranks[1]}, not {ranks[0]} as in the model")
    with torch.no_grad():
        for matrix, piece, adapter in published_adapters(model):
            values = folder.read(matrix)
            fill(adapter.A, torch.from_numpy(values["A"]))
            for parameter, kind in ((adapter.B, "B"), (adapter.magnitude, "magnitude")):
                if parameter is not None:
                    rows = torch.empty(parameter.shape)
                    target = rows_as_published(rows, piece, model)
                    target.copy_(torch.from_numpy(values[kind]).view(target.shape))
                    fill(parameter, rows)
            adapter.forget()
        for kind, module in modules_of(model.config).items():
            if own := folder.rows_of(module):
                parameter = getattr(model.own_rows, kind)
                mine, first = local(parameter), first_row(parameter)
                for id, row in zip(own[0], torch.from_numpy(own[1]), strict=True):
                    if 0 <= (place := theirs.tokens.index(id) - first) < len(mine):
                        mine[place] = row

"""Weights in Hugging Face layout: read from the Hub or a folder, write a model folder.

Only safetensors and JSON are read, and the headers are checked before torch is imported; a pickle is never opened.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ift.artifacts.adapter_folder import AdapterFolder, base_of, is_adapter, load_adapter, open_adapter, trained_tensors
from ift.artifacts.download import OTHER_KINDS, WEIGHTS, download, others_on_hub
from ift.artifacts.tensors import BYTES, Stored, read_header, write_tensors
from ift.errors import ConfigError, WeightsError, one_line
from ift.model.config import GPTConfig
from ift.model.families import OTHER_PARTS, family_of, read_config, stops_of, write_config
from ift.model.families.family import HEAD, Family, Piece, as_published, to_theirs
from ift.model.families.gpt2 import PUBLISHED
from ift.model.slices import fill, first_row, local, whole
from ift.run import write_json
from ift.sealed import MANIFEST, hash_file
from ift.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ift.model.gpt import GPT

DTYPES = {"F32": "float32", "BF16": "bfloat16"}  # as safetensors calls what is written -> as torch does
TYPES = {**DTYPES, "F16": "float16", "F64": "float64"}  # and what is read
OWN_HEAD = "the head is not the embedding (use model.tie_weights=false)"
CONVERT = """\
there: python -c "import glob,torch,safetensors.torch as s; s.save_file({{k: v.clone() for f in \
glob.glob('{pattern}') for k,v in torch.load(f,weights_only=True).items()}},'model.safetensors')\""""


@dataclass(frozen=True)
class Folder:
    """A checked folder of weights: its sizes, and in which file each tensor lies."""

    path: Path
    config: GPTConfig  # as config.json says, tied as the tensors are
    tensors: Mapping[str, Path]  # published name, without what stands before all -> file
    dtype: str = "F32"  # what most of the weights are stored in, as safetensors calls it
    stops: frozenset[int] = frozenset()  # tokens by which the model ends an answer, as config.json says
    other_parts: tuple[str, ...] = ()  # left out: heads of other tasks, and what each is for
    adapter: AdapterFolder | None = None  # which the weights are read with

    @property
    def tied(self) -> bool:
        return self.config.tie_weights

    @property
    def family(self) -> Family:
        return family_of(self.config)


def find_weights(name: str) -> Folder:
    """A local folder, or else a model on the Hub (fetched, or from its cache). Raises WeightsError or MachineError."""
    path = find_folder(name, WEIGHTS)
    if not Path(name).exists() and not any(path.glob("*.safetensors")):
        others = others_on_hub(name)
        if others:
            raise other_kind(f"{name}: hf download {name} --local-dir FOLDER gets it", others[0])
    return inspect_folder(path)


def find_folder(name: str, files: Sequence[str]) -> Path:
    """A local folder, or else one with these files of a model on the Hub. Raises WeightsError or MachineError."""
    path = Path(name)
    if not path.exists():
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise WeightsError(f"{name}: no such folder (model.pretrained is a folder or a name on the Hub)")
        path = download(name, files)
    if not path.is_dir():
        raise WeightsError(f"{path}: not a folder (give the folder with config.json and model.safetensors)")
    return path


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
        tied = settings.tie_weights is not False
        return GPTConfig(vocab_size, **given, dropout=settings.dropout, tie_weights=tied), None
    folder = find_weights(settings.pretrained)
    return fit_settings(settings, folder, vocab_size=vocab_size), folder


def fit_settings(settings: ModelSettings, folder: Folder, *, vocab_size: int) -> GPTConfig:
    """The folder's model as the settings want it: its context may be shorter, its head untied.

    Raises WeightsError where they differ in a size, or the vocabulary does not fit the model.
    """
    its = folder.config
    differing = [
        f"{key} is {getattr(its, key)}, not {getattr(settings, key)}"
        for key in ("n_layer", "n_head", "n_embd")
        if getattr(settings, key) not in (None, getattr(its, key))
    ]
    if differing:
        if settings.name == "pretrained":  # it says no size, so somebody has typed these
            raise WeightsError(f"{folder.path}: its {', its '.join(differing)} (leave them out of the command)")
        hint = PUBLISHED.get(its.n_layer, "pretrained")
        hint = "pretrained" if hint == settings.name else hint
        raise WeightsError(f"{folder.path}: not a {settings.name}: {', '.join(differing)} (model={hint})")
    context_length = fit_context(settings, folder.path, its)
    if vocab_size > its.vocab_size:
        raise WeightsError(
            f"{folder.path}: {its.vocab_size} tokens, but the tokenizer {settings.tokenizer} has {vocab_size} "
            "(set model.tokenizer to the one it was trained with)"
        )
    tie_weights = its.tie_weights if settings.tie_weights is None else settings.tie_weights
    if tie_weights and not its.tie_weights:
        raise WeightsError(f"{folder.path}: {OWN_HEAD}")
    return replace(
        its, context_length=context_length, dropout=settings.dropout, tie_weights=tie_weights, tokens=vocab_size
    )


def fit_context(settings: ModelSettings, path: Path, its: GPTConfig) -> int:
    """Positions of the folder's model as the settings want it. Raises WeightsError where they are more than it has."""
    wanted = settings.context_length or its.context_length
    if wanted > its.context_length:
        raise WeightsError(
            f"{path}: {its.context_length} positions, not {wanted} (model.context_length={its.context_length} or less)"
        )
    return wanted


def open_config(path: Path) -> tuple[dict[str, Any], GPTConfig]:
    """A folder's config.json, an adapter's base's, and what it says. Raises WeightsError."""
    if is_adapter(path):
        path = find_folder(base_of(path), ["config.json"])
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return config, read_config(config)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}/config.json: no such file (is this a model folder?)") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__} "
        what = one_line(f"{kind}{error}", 200)
        raise WeightsError(f"{path}/config.json: not the configuration of a known model: {what}") from error
    except ConfigError as error:
        raise WeightsError(f"{path}/config.json: {str(error).replace('model.', '')}") from error


def inspect_folder(path: Path) -> Folder:
    """Read config.json and the safetensors headers; check that every tensor is there, whole and in shape.

    An adapter is its base's folder with the adapter beside it.
    """
    if is_adapter(path):
        return _with_base(path)
    config, its = open_config(path)
    family = family_of(its)
    shapes: dict[str, list[int]] = {}
    tensors: dict[str, Path] = {}
    sizes: Counter[str] = Counter()
    other_parts: dict[str, None] = {}
    wrong = []
    for file in _weight_files(path):
        for stored, tensor in read_header(file).items():
            name = family.plain_name(stored)
            part = next(
                (f"{prefix[:-1]} ({use})" for prefix, use in OTHER_PARTS.items() if name.startswith(prefix)), ""
            )
            if part:
                other_parts[part] = None
            elif name in shapes:
                wrong.append(f"{name} is there twice")
            elif not name.endswith(family.constants):
                shapes[name], tensors[name] = tensor.shape, file
                if tensor.dtype not in TYPES:
                    wrong.append(f"{name} is of type {tensor.dtype}, not one of {', '.join(TYPES)}")
                sizes[tensor.dtype] += math.prod(tensor.shape)
    head = f"{family.names[HEAD][0]}.weight"
    expected = family.shapes(replace(its, tie_weights=its.tie_weights and head not in shapes))
    wrong += [
        f"{name} is {shapes.get(name, 'missing')}, not {shape}"
        for name, shape in expected.items()
        if shapes.get(name) != shape
    ]
    wrong += [f"{name} is unknown" for name in shapes if name not in expected]
    if wrong:
        several = "1 tensor does" if len(wrong) == 1 else f"{len(wrong):,} tensors do"
        raise WeightsError(f"{path}: {several} not fit its config.json: {'; '.join(wrong[:2])}")
    if its.tie_weights:
        tensors.pop(head, None)  # some exports store the shared matrix twice
    dtype = max(sizes, key=lambda kind: sizes[kind], default="F32")
    stops = stops_of(config, its.vocab_size) | stops_of(_generation_config(path), its.vocab_size)
    return Folder(path, its, tensors, dtype, stops, tuple(other_parts))


def _with_base(path: Path) -> Folder:
    """Raises WeightsError where the base is an adapter itself, or not what it was when the adapter was trained."""
    name = base_of(path)
    try:
        base = find_weights(name)
    except WeightsError as error:
        raise WeightsError(f"{path}: an adapter, and its base cannot be read: {error}") from error
    if base.adapter:
        raise WeightsError(
            f"{path}: an adapter of {name}, which is an adapter itself (ift merge makes one model of it)"
        )
    adapter = open_adapter(path, base.config)
    if (noted := adapter.low_rank.base_hash) and (now := weights_hash(base)) != noted:
        raise WeightsError(
            f"{path}: its base {name} has changed: sha256 {now[:12]}..., and {noted[:12]}... when the adapter was "
            "trained (bring those weights back)"
        )
    ends = stops_of(_generation_config(path), base.config.vocab_size)
    return replace(base, stops=base.stops | ends, adapter=adapter)


def weights_hash(folder: Folder) -> str:
    """Of all bytes of the files that hold the weights of a folder, by which an adapter knows its base."""
    digest = hashlib.sha256()
    for file in sorted(set(folder.tensors.values())):
        digest.update(bytes.fromhex(hash_file(file)))
    return digest.hexdigest()


def _generation_config(path: Path) -> dict[str, Any]:
    """generation_config.json, where instruct models name all their ends; {} where there is none."""
    file = path / "generation_config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{file}: not JSON: {type(error).__name__} {error} (remove it, or download it again)"
        ) from error
    return found if isinstance(found, dict) else {}


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
            others = [p.name for kind in OTHER_KINDS for p in sorted(path.glob(kind)) if p.name != "training_args.bin"]
            if others and not index.exists():
                raise other_kind(path, others[0])
            shards = sorted(p.name for p in path.glob("*-of-*.safetensors"))
            if shards and not index.exists():
                raise WeightsError(f"{index}: no such file, which says what {shards[0]} and others hold (download it)")
            raise WeightsError(f"{file}: no such file (download the folder again)")
    return files


def other_kind(place: object, file: str) -> WeightsError:
    """The error for weights that are not in safetensors, with how to convert them where torch can do it safely."""
    if not file.endswith((".bin", ".pt", ".pth")):
        return WeightsError(f"{place}: only {file}: no safetensors (convert it with the library that wrote it)")
    pattern = "pytorch_model*.bin" if file.startswith("pytorch_model") else file
    return WeightsError(f"{place}: only {file}, a pickle, which could run code ({CONVERT.format(pattern=pattern)})")


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

    What the model holds in four bits is quantized as it comes: beside them, memory has one tensor in fp32.
    An untied head starts as a tied folder's embedding; a model of a shorter context takes the first positions.
    Where the model has adapters, it has the base already, and gets a folder's adapters alone.
    Raises WeightsError where a tensor does not fit or is no finite number: the model may then hold some of the folder's
    tensors already.
    """
    if model.low_rank:
        if folder.adapter is None:
            raise WeightsError(f"{folder.path}: holds no adapter")
        load_adapter(model, folder.adapter)
        return
    model.stops = folder.stops
    model.stored_dtype = folder.dtype if folder.dtype in DTYPES else "F32"
    load_base(model, folder)


def load_base(model: GPT, folder: Folder) -> None:
    """What `load_weights` copies into a model without adapters; where it has some, into the weights under them."""
    import torch

    from ift.model.nf4 import in_four_bits

    if model.config.tie_weights and not folder.tied:
        raise WeightsError(f"{folder.path}: {OWN_HEAD}")
    pieces = folder.family.pieces(model.config)
    # a tied head is among them once, as the embedding
    parameters = {ours: p for name, p in model.named_parameters() if (ours := without_adapter(name)) in pieces}
    with ExitStack() as files, torch.no_grad():
        copy = _copier(folder, files)
        for name, parameter in parameters.items():
            if name == OUR_HEAD and folder.tied:
                parameter.copy_(parameters[OUR_EMBEDDING])
                continue
            for piece in pieces[name]:
                _fill(parameter, piece, copy, folder.adapter)
        for name, layer in in_four_bits(model):
            layer.forget()
            # each alone, as other programs quantize what is published
            for piece in pieces[without_adapter(f"{name}.weight")]:
                rows = torch.empty(piece.rows.stop - piece.rows.start, layer.in_features)
                copy(piece, rows)
                if folder.adapter:
                    _merge(folder.adapter, piece, rows)
                layer.add(rows, _order(piece, model.config))


def without_adapter(name: str) -> str:
    """h.0.attn.c_attn.base.weight -> h.0.attn.c_attn.weight"""
    return name.replace(".base.", ".")


def begin_magnitudes(model: GPT, folder: Folder) -> None:
    """Give DoRA the lengths of the base's rows, as `adapted` does where it has the base whole; a matrix at a time."""
    import torch

    from ift.model.adapters import published_adapters
    from ift.model.nf4 import NF4Linear

    assert model.low_rank is not None
    with ExitStack() as files, torch.no_grad():
        copy = _copier(folder, files)
        for _, piece, adapter in published_adapters(model) if model.low_rank.dora else ():
            assert adapter.magnitude is not None
            rows = torch.empty(len(adapter.magnitude), adapter.A.shape[1])
            copy(piece, rows)
            if model.low_rank.four_bits:
                layer = NF4Linear(*rows.shape[::-1], bias=False)
                layer.add(rows, _order(piece, model.config))
                rows = layer.weight
            fill(adapter.magnitude, torch.linalg.vector_norm(rows, dim=1))


def _merge(adapter: AdapterFolder, piece: Piece, rows: Tensor) -> None:
    """Rows of ours, as they were read from the base, get the adapter of their matrix; in fp32, cast once."""
    if own := adapter.rows_of(piece.name.removesuffix(".weight")):
        import torch

        rows[own[0]] = torch.from_numpy(own[1]).to(rows)
    elif piece.name.removesuffix(".weight") in adapter.stored:
        import torch

        theirs = as_published(rows, piece, adapter.config)
        merged = adapter.merged(piece.name, theirs.reshape(piece.shape).float().numpy())
        theirs.copy_(torch.from_numpy(merged).view(theirs.shape) if theirs.dim() > 2 else torch.from_numpy(merged))


OUR_HEAD, OUR_EMBEDDING, OUR_POSITIONS = f"{HEAD}.weight", "wte.weight", "wpe.weight"
PART = 1 << 22  # bytes that are read at once: they are converted in the processor's cache, and memory holds one copy


class _Copy(Protocol):
    def __call__(self, piece: Piece, rows: Tensor, begin: int = 0) -> None: ...


def _fill(parameter: Tensor, piece: Piece, copy: _Copy, adapter: AdapterFolder | None) -> None:
    """The rows of a piece that this rank has: they alone are read where they lie together in the file."""
    import torch

    mine, begin = local(parameter), first_row(parameter)
    first, last = max(begin, piece.rows.start), min(begin + len(mine), piece.rows.stop)
    if first >= last:
        return
    rows, size = mine[first - begin : last - begin], piece.rows.stop - piece.rows.start
    if piece.form == "as it is" and adapter is None:
        copy(piece, rows, first - piece.rows.start)
        return
    there = rows if len(rows) == size else torch.empty(size, *rows.shape[1:])
    copy(piece, there)
    if adapter:
        _merge(adapter, piece, there)
    if there is not rows:
        rows.copy_(there[first - piece.rows.start : last - piece.rows.start])


def _copier(folder: Folder, files: ExitStack) -> _Copy:
    """A function that reads a published tensor, from a row of it on, into rows of ours, a few at a time.

    The files are read, not mapped: mapped pages would count as memory of this process beside the parameters.
    """
    import torch

    opened: dict[Path, tuple[Any, dict[str, tuple[str, Stored]]]] = {}
    memory = bytearray()

    def copy(piece: Piece, rows: Tensor, begin: int = 0) -> None:
        nonlocal memory
        file = folder.tensors.get(piece.name)
        if file is None:
            raise WeightsError(f"{folder.path}: without {piece.name}")
        if file not in opened:
            header = {folder.family.plain_name(name): (name, stored) for name, stored in read_header(file).items()}
            opened[file] = files.enter_context(file.open("rb", buffering=0)), header
        stream, header = opened[file]
        name, stored = header[piece.name]
        target = as_published(rows, piece, folder.config)
        groups = len(target)  # rows of theirs, or all those of a head
        if math.prod(stored.shape[1:]) * stored.shape[0] < target.numel() or stored.shape[1:] != piece.shape[1:]:
            raise WeightsError(f"{folder.path}: {piece.name} is {stored.shape}, not {piece.shape} as in the model")
        size = target[0].numel() * BYTES[stored.dtype]
        step = max(1, PART // size)
        if len(memory) < min(step, groups) * size:
            memory = bytearray(min(step, groups) * size)
        stream.seek(stored.begin + begin * size)
        for at in range(0, groups, step):
            part = memoryview(memory)[: min(step, groups - at) * size]
            if stream.readinto(part) != len(part):
                raise WeightsError(f"{file}: ends within {name} (cut off? download it again)")
            values = torch.frombuffer(part, dtype=getattr(torch, TYPES[stored.dtype]))
            if not all(bound.isfinite() for bound in values.aminmax()):  # in one pass; a NaN is both bounds
                raise WeightsError(f"{file}: {name} holds NaN or infinity (download it again)")
            into = target[at : at + step]
            into.copy_(values.view(into.shape))

    return copy


def _order(piece: Piece, config: GPTConfig) -> Tensor | None:
    """(rows,) which of our rows of a piece each published row is; None: they are in the same order, as (out, in)."""
    import torch

    if piece.form != "head by head":
        return None
    return as_published(torch.arange(piece.shape[0]), piece, config).reshape(-1)


def load_model(folder: Folder, *, dropout: float = 0.0, tokens: int | None = None) -> GPT:
    """The model of a folder, with the folder's own sizes and head. tokens: those of its tokenizer."""
    return build_model(replace(folder.config, dropout=dropout, tokens=tokens), folder)


def without_blocks(config: GPTConfig) -> GPTConfig:
    """Of a model that has the embedding and the head of this one, to look at them alone."""
    return replace(config, n_layer=0, rope_of=(), windows=())


def build_model(config: GPTConfig, folder: Folder | None, *, four_bits: bool = False, sharded: bool = False) -> GPT:
    """A model with the folder's weights, or with fresh ones. four_bits: those of its blocks' products in NF4.

    An adapter is merged into its base, but for one on a base in four bits: there it stays beside.
    sharded: it stays on the meta device, to be filled when each rank knows its slices; fresh weights are drawn as ever.
    """
    import torch

    from ift.model.gpt import GPT
    from ift.model.nf4 import in_four_bits, put_in_four_bits

    if folder and folder.adapter and folder.adapter.low_rank.four_bits:
        return with_adapter(build_model(config, replace(folder, adapter=None), four_bits=True), folder)

    if folder is None:
        return GPT(config)
    with torch.device("meta"):  # no memory and no random numbers for what is overwritten at once
        model = GPT(config)
        if four_bits:
            put_in_four_bits(model)
            for name, layer in in_four_bits(model) if sharded else ():
                pieces = family_of(config).pieces(config)[f"{name}.weight"]
                layer.allocate(*(piece.rows.stop - piece.rows.start for piece in pieces))
    if sharded:
        return model
    model.to_empty(device="cpu")
    model.tie()
    load_weights(model, folder)
    return model


def with_adapter(model: GPT, folder: Folder) -> GPT:
    """A base as it was read, with the adapter of a folder beside its weights."""
    from ift.model.adapters import adapted

    assert folder.adapter
    adapted(model, folder.adapter.low_rank)
    model.stops = folder.stops
    load_adapter(model, folder.adapter)
    return model


def _published(model: GPT) -> dict[str, tuple[Tensor, Piece]]:
    """Stored name -> the parameter and which rows of it, in the order that safetensors' own writer has."""
    family, parameters = family_of(model.config), dict(model.named_parameters())
    pieces = {
        family.stored_name(piece.name): (parameters[name], piece)
        for name, pieces in family.pieces(model.config).items()
        for piece in pieces
    }
    return dict(sorted(pieces.items()))


def weights_in_order(model: GPT) -> Iterator[Tensor]:
    """The parameter of each tensor that `save_weights` writes, whole, when it is asked for.

    Of a model with adapters: of each that `save_adapter` writes. Where ranks have slices, all of them go through it to
    its end, and each tensor exists for that moment.
    """
    if model.low_rank:
        return (whole(parameter.detach()) for _, parameter, _ in trained_tensors(model))
    return (whole(parameter.detach()) for parameter, _ in _published(model).values())


def save_weights(model: GPT, path: Path, *, end_of_text: int, weights: Iterator[Tensor] | None = None) -> None:
    """config.json, generation_config.json and model.safetensors as transformers reads them, a tensor after the other.

    end_of_text: what training put after a response, the first of the tokens that end one; the others are model.stops.
    weights: what weights_in_order gives, for who must go through all of them
    """
    import torch

    config, pieces = model.config, _published(model)
    names, dtype = list(pieces), model.stored_dtype
    gathered = weights_in_order(model) if weights is None else weights

    def values() -> Iterator[Any]:
        for name, parameter in zip(names, gathered, strict=True):
            _, piece = pieces[name]
            value = to_theirs(parameter[piece.rows], piece, config).to("cpu", getattr(torch, DTYPES[dtype]))
            yield value.contiguous().view(torch.int16 if dtype != "F32" else torch.float32).numpy()

    stored = write_config(config, end_of_text, model.stops, DTYPES[dtype])
    write_json(path / "config.json", stored)
    write_json(path / "generation_config.json", {"eos_token_id": stored["eos_token_id"], "do_sample": False})
    tensors = {name: (dtype, pieces[name][1].shape) for name in names}
    write_tensors(path / "model.safetensors", tensors, values(), {"format": "pt"})

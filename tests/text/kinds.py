"""Small tokenizers of every kind that models are published with, as tokenizer.json."""

import json
from functools import cache

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from ift.run import write_json

SAMPLE = [
    "die Rede der Leute und die Räder unter der Brücke",
    "Sie raten ihr, dass die Tür zu ist. 12 345!",
    "def f(x):\n    return x  # don't\n\n<h1>the 2nd</h1>",
] * 3
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPACE = "▁"


def byte_level(cut, *, special=("<|endoftext|>",), added=(), normalizer=None, every_split=False) -> str:
    library = Library(models.BPE(ignore_merges=every_split))
    library.pre_tokenizer, library.decoder, library.normalizer = cut, decoders.ByteLevel(), normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        SAMPLE,
        trainers.BpeTrainer(vocab_size=330, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False),
    )
    library.add_tokens([*added])
    stored = json.loads(library.to_str())
    if every_split:  # as a file of tiktoken is converted: all ways to cut each token into two
        ids = stored["model"]["vocab"]
        cuts = [(ids[t], t[:i], t[i:]) for t in ids if t not in special for i in range(1, len(t))]
        stored["model"]["merges"] = [[a, b] for _, a, b in sorted(cuts) if a in ids and b in ids]
    return json.dumps(stored)


def sentencepiece(*, normalizer=None, cut=None, added=(), strip=True) -> str:
    """BPE on text with "▁" for a space and a token for each byte."""
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    library.normalizer = normalizers.Replace(" ", SPACE)
    control = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*control, *(f"<0x{byte:02X}>" for byte in range(256)), "<s"],
        initial_alphabet=[SPACE, "<", "s", ">", "/"],
        show_progress=False,
    )
    library.train_from_iterator(SAMPLE, trainer)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    library.normalizer, library.pre_tokenizer = normalizer, cut
    library.add_tokens([*added])
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    stored = json.loads(library.to_str())
    stored["added_tokens"] = [e for e in stored["added_tokens"] if e["content"][:3] not in ("<0x", "<s")]
    stored["model"]["merges"] += [["<", "s"], ["<s", ">"]]  # as conversions list them: text could become control
    return json.dumps(stored)


def unigram() -> str:
    library = Library(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    library.train_from_iterator(SAMPLE, trainer)
    stored = json.loads(library.to_str())
    missing = [c for c in map(chr, [*range(32, 127), 9, 10]) if c not in {p for p, _ in stored["model"]["vocab"]}]
    stored["model"]["vocab"] += [[c, -20.0] for c in missing]
    return json.dumps(stored)


def runs_of_spaces() -> list[AddedToken]:
    return [AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)]


def prepend():
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), LEVEL])


MARKS = [AddedToken("<think>", normalized=False), AddedToken("<|im_end|>", special=True)]
KINDS = {
    "gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": lambda: byte_level(split(LLAMA3), every_split=True),
    "qwen": lambda: byte_level(split(LLAMA3.replace("{1,3}", "")), added=MARKS, normalizer=normalizers.NFC()),
    "smollm2": lambda: byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    ),
    "neox": lambda: byte_level(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        special=("<|endoftext|>", "<|padding|>"),
        added=runs_of_spaces(),
        normalizer=normalizers.NFC(),
    ),
    "llama2": lambda: sentencepiece(normalizer=prepend()),
    "mistral": lambda: sentencepiece(cut=pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "gemma": lambda: sentencepiece(
        normalizer=normalizers.Replace(" ", SPACE),
        cut=pre_tokenizers.Split(" ", "merged_with_previous"),
        added=[AddedToken(t, normalized=False) for t in ("\n\n", "\n\n\n", "<h1>", "</h1>")]
        + [AddedToken("<start_of_turn>", special=True, normalized=False)],
        strip=False,
    ),
    "phi3": lambda: sentencepiece(
        normalizer=prepend(),
        added=[
            AddedToken(t, special=True, rstrip=True, normalized=False) for t in ("<|user|>", "<|assistant|>", "<|end|>")
        ],
    ),
    "unigram": unigram,
}
FAST = ("gpt2", "llama3", "qwen", "smollm2", "neox")


@cache
def stored(name: str) -> str:
    return KINDS[name]()


SENTENCEPIECE = ("llama2", "mistral", "gemma", "phi3", "unigram")


def folder_of(path, name, change=None):
    value = json.loads(stored(name))
    if change:
        change(value)
    (path / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    end = "</s>" if name in SENTENCEPIECE else "<|endoftext|>"
    write_json(path / "tokenizer_config.json", {"eos_token": end, "auto_map": {"x": "y.Z"}})
    return path

"""Small local mirrors of the data sets of known evaluations, for data_root: the real schema, rows of our own making.

    write_mirror(path)                       all of them
    write_mirror(path, ["nyu-mll/glue"])     some

Each data set is a folder OWNER/NAME with a README.md that says which file is which split of which configuration, as
`hf download --repo-type dataset OWNER/NAME --local-dir PATH/OWNER/NAME` leaves it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

MMLU = (
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry "
    "college_computer_science college_mathematics college_medicine college_physics computer_security "
    "conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_european_history "
    "high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology high_school_statistics "
    "high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence "
    "logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes "
    "moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine "
    "professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions"
).split()
BIGBENCH_CHOICE = (
    "bbq_lite_json code_line_description conceptual_combinations emoji_movie formal_fallacies_syllogisms_negation "
    "hindu_knowledge known_unknowns language_identification logic_grid_puzzle logical_deduction misconceptions_russian "
    "novel_concepts play_dialog_same_or_different strange_stories strategyqa symbol_interpretation "
    "vitaminc_fact_verification winowhy"
).split()
BIGBENCH_TEXT = (
    "auto_debugging conlang_translation linguistics_puzzles operators parsinlu_reading_comprehension repeat_copy_logic"
).split()
WORDS = (
    "amber basin cedar delta ember fjord grove harbor island jungle kettle lantern meadow north orchard pepper quarry "
    "river summit timber umbra valley willow yonder zephyr old small wide Ångström naïve e9 1976"
).split()

Rows = list[dict[str, Any]]
Splits = dict[str, Rows]


def words(random: Random, count: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(count))


def sentence(random: Random, count: int = 6) -> str:
    text = words(random, count)
    return text[0].upper() + text[1:] + "."


def mmlu(random: Random, rows: int) -> dict[str, Splits]:
    def row(subject: str) -> dict[str, Any]:
        return {
            "question": f"Which {subject.replace('_', ' ')} is it: {words(random, 4)}?",
            "subject": subject,
            "choices": [words(random, 2) for _ in range(4)],
            "answer": random.randrange(4),
        }

    def split(subject: str, count: int) -> Rows:
        return [row(subject) for _ in range(count)]

    return {
        subject: {"test": split(subject, rows), "validation": split(subject, 2), "dev": split(subject, 5)}
        for subject in MMLU
    }


def glue(random: Random, rows: int) -> dict[str, Splits]:
    fields = {
        "cola": ("sentence",),
        "sst2": ("sentence",),
        "mrpc": ("sentence1", "sentence2"),
        "qqp": ("question1", "question2"),
        "mnli": ("premise", "hypothesis"),
        "qnli": ("question", "sentence"),
        "rte": ("sentence1", "sentence2"),
        "wnli": ("sentence1", "sentence2"),
    }

    def split(task: str, count: int) -> Rows:
        kinds = 3 if task == "mnli" else 2
        return [
            {field: sentence(random) for field in fields[task]} | {"label": i % kinds, "idx": i} for i in range(count)
        ]

    found = {}
    for task in fields:
        held_out = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
        found[task] = {"train": split(task, 4)} | {name: split(task, rows) for name in held_out}
    return found


def super_glue(random: Random, rows: int) -> dict[str, Splits]:
    def wic(i: int) -> dict[str, Any]:
        word = random.choice(("basin", "river", "summit"))
        first, second = (f"{sentence(random, 2)} {word} {words(random, 2)}." for _ in range(2))
        begins = first.index(word, first.index(".")), second.index(word, second.index("."))
        return {
            "word": word,
            "sentence1": first,
            "sentence2": second,
            "start1": begins[0],
            "start2": begins[1],
            "end1": begins[0] + len(word),
            "end2": begins[1] + len(word),
            "idx": i,
            "label": i % 2,
        }

    def wsc(i: int) -> dict[str, Any]:
        return {
            "text": f"Ada thanked Grace because she had {words(random, 2)}.",
            "span1_index": 0,
            "span2_index": 4,
            "span1_text": "Ada",
            "span2_text": "she",
            "idx": i,
            "label": i % 2,
        }

    def record(i: int) -> dict[str, Any]:
        entities = [f"{name}{i}" for name in random.sample(("Alma", "Bergen", "Cairo", "the Delta"), 3)]
        return {
            "passage": f"{sentence(random)} {entities[0]} {words(random, 3)}\n@highlight\n{words(random, 3)}",
            "query": f"It was @placeholder that {words(random, 2)}",
            "entities": entities,
            "entity_spans": {"text": entities, "start": [0, 0, 0], "end": [1, 1, 1]},
            "answers": entities[:1] * 2,
            "idx": {"passage": i, "query": 0},
        }

    make: dict[str, Callable[[int], dict[str, Any]]] = {
        "boolq": lambda i: {
            "question": f"is it {words(random, 2)}",
            "passage": sentence(random, 10),
            "idx": i,
            "label": i % 2,
        },
        "cb": lambda i: {"premise": sentence(random), "hypothesis": words(random, 3), "idx": i, "label": i % 3},
        "copa": lambda i: {
            "premise": sentence(random),
            "choice1": sentence(random, 3),
            "choice2": sentence(random, 4),
            "question": ("cause", "effect")[i % 2],
            "idx": i,
            "label": i % 2,
        },
        "multirc": lambda i: {
            "paragraph": sentence(random, 10),
            "question": f"What was {words(random, 2)}?",
            "answer": words(random, 2),
            "idx": {"paragraph": 0, "question": i // 2, "answer": i},
            "label": i % 2,
        },
        "record": record,
        "rte": lambda i: {"premise": sentence(random), "hypothesis": sentence(random, 3), "idx": i, "label": i % 2},
        "wic": wic,
        "wsc.fixed": wsc,
    }
    return {
        task: {"train": [row(i) for i in range(4)], "validation": [row(i) for i in range(rows)]}
        for task, row in make.items()
    }


def bigbench(random: Random, rows: int) -> dict[str, Splits]:
    def row(i: int, choices: bool) -> dict[str, Any]:
        said = [f"{words(random, 2)} {k}" for k in range(3)] if choices else []
        right = random.randrange(3)
        return {
            "idx": i,
            "inputs": f"Q: what is {words(random, 4)}?\nA:",
            "targets": [said[right] if choices else words(random, 2)],
            "multiple_choice_targets": said,
            "multiple_choice_scores": [int(k == right) for k in range(3)] if choices else [],
        }

    def splits(choices: bool) -> Splits:
        return {
            name: [row(i, choices) for i in range(count)]
            for name, count in (("default", rows), ("train", 2), ("validation", 2))
        }

    tasks = [(task, True) for task in BIGBENCH_CHOICE] + [(task, False) for task in BIGBENCH_TEXT]
    return {f"{task}_zero_shot": splits(choices) for task, choices in tasks}


def squad(random: Random, rows: int, *, unanswerable: bool = False) -> dict[str, Splits]:
    def row(i: int) -> dict[str, Any]:
        context = sentence(random, 12)
        answer = " ".join(context.split()[2:4])
        answers = {"text": [answer, answer.split()[0]], "answer_start": [context.index(answer)] * 2}
        if unanswerable and i % 2:
            answers = {"text": [], "answer_start": []}
        return {
            "id": f"{i:024x}",
            "title": words(random, 1).title(),
            "context": context,
            "question": f"What is {words(random, 3)}?",
            "answers": answers,
        }

    name = "squad_v2" if unanswerable else "plain_text"
    return {name: {"train": [row(i) for i in range(4)], "validation": [row(i) for i in range(rows)]}}


def squad_v2(random: Random, rows: int) -> dict[str, Splits]:
    return squad(random, rows, unanswerable=True)


def trivia_qa(random: Random, rows: int) -> dict[str, Splits]:
    def row(i: int) -> dict[str, Any]:
        names = [words(random, 2), words(random, 1)]
        return {
            "question": f"Who was {words(random, 3)}?",
            "question_id": f"tc_{i}",
            "question_source": "http://www.example.org/",
            "answer": {
                "aliases": names,
                "matched_wiki_entity_name": "",
                "normalized_aliases": [name.lower() for name in names],
                "normalized_matched_wiki_entity_name": "",
                "normalized_value": names[0].lower(),
                "type": "WikipediaEntity",
                "value": names[0],
            },
        }

    return {"rc.nocontext": {"train": [row(i) for i in range(4)], "validation": [row(i) for i in range(rows)]}}


def piqa(random: Random, rows: int) -> dict[str, Splits]:
    def row(i: int) -> dict[str, Any]:
        return {"goal": sentence(random), "sol1": words(random, 4), "sol2": words(random, 5), "label": i % 2}

    return {"plain_text": {"train": [row(i) for i in range(2)], "validation": [row(i) for i in range(rows)]}}


def winogrande(random: Random, rows: int) -> dict[str, Splits]:
    def row(i: int) -> dict[str, Any]:
        text = f"Ada left Grace in {words(random, 2)} because _ had {words(random, 2)}."
        return {"sentence": text, "option1": "Ada", "option2": "Grace", "answer": str(1 + i % 2)}

    return {"winogrande_xl": {"train": [row(i) for i in range(2)], "validation": [row(i) for i in range(rows)]}}


def hellaswag(random: Random, rows: int) -> dict[str, Splits]:
    def row(i: int) -> dict[str, Any]:
        begin, then = sentence(random), words(random, 2)
        return {
            "ind": i,
            "activity_label": words(random, 2).title(),
            "ctx_a": begin,
            "ctx_b": then,
            "ctx": f"{begin} {then}",
            "endings": [sentence(random, 3) for _ in range(4)],
            "source_id": f"activitynet~{i}",
            "split": "val",
            "split_type": "indomain",
            "label": str(i % 4),
        }

    return {"default": {"train": [row(i) for i in range(2)], "validation": [row(i) for i in range(rows)]}}


def ifeval(random: Random, rows: int) -> dict[str, Splits]:
    """The keys of all instructions in every row, null where they mean nothing, as in the published data."""
    instructions: list[tuple[str, dict[str, Any]]] = [
        ("punctuation:no_comma", {}),
        ("change_case:english_lowercase", {}),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 5}),
        ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 9}),
        ("keywords:existence", {"keywords": ["kite"]}),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ]
    keys = sorted({key for _, kwargs in instructions for key in kwargs})

    def row(i: int) -> dict[str, Any]:
        own = [instructions[i % len(instructions)], instructions[(i + 2) % len(instructions)]][: 1 + i % 2]
        return {
            "key": 1000 + i,
            "prompt": f"Write about {words(random, 3)}. Do as you are told.",
            "instruction_id_list": [name for name, _ in own],
            "kwargs": [{key: kwargs.get(key) for key in keys} for _, kwargs in own],
        }

    return {"default": {"train": [row(i) for i in range(rows)]}}


def write_sentences(folder: Path) -> None:
    """NLTK's model of English sentences without any of its words: a full stop ends one."""
    model = folder / "tokenizers/punkt_tab/english"
    model.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (model / name).write_text("")


MORE: dict[str, Callable[[Random, int], dict[str, Splits]]] = {  # of single tasks
    "baber/piqa": piqa,
    "allenai/winogrande": winogrande,
    "Rowan/hellaswag": hellaswag,
    "google/IFEval": ifeval,
}
DATA: dict[str, Callable[[Random, int], dict[str, Splits]]] = {
    "cais/mmlu": mmlu,
    "nyu-mll/glue": glue,
    "aps/super_glue": super_glue,
    "hails/bigbench": bigbench,
    "rajpurkar/squad": squad,
    "lighteval/squad_v2": squad_v2,
    "mandarjoshi/trivia_qa": trivia_qa,
}


def write_mirror(path: Path, data: Iterable[str] = tuple(DATA), *, rows: int = 6) -> Path:
    """The mirror's folder, which is data_root. rows: of each split that is asked."""
    for name in data:
        configs = (DATA | MORE)[name](Random(name), rows)
        write_dataset(path / name, configs)
    return path


def write_dataset(folder: Path, configs: dict[str, Splits]) -> None:
    head = ["---", "configs:"]
    for config, splits in configs.items():
        (folder / config).mkdir(parents=True)
        head += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            file = folder / config / f"{split}.jsonl"
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            head += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]), encoding="utf-8")

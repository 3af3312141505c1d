"""Runs as pages must be able to show them: five of them, of three models, with texts of every script and length."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from ift.evaluation.answers import open_answers
from ift.evaluation.people import Rating, Ratings
from ift.evaluation.scoring import score
from ift.run import RunFolder, write_json, write_jsonl

CODE = (
    "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a  # O(n), no recursion"
)
ROWS = [  # instruction, input, reference, another answer, category
    ("Name the capital of France.", "", "Paris", "The capital of France is Paris.", "facts"),
    ("ترجم الجملة التالية إلى الإنجليزية.", "القطة تجلس على السجادة الحمراء (حجم 42) أمام الباب.",
     "The cat sits on the red carpet (size 42) in front of the door.", "القطة على السجادة.", "translation"),
    ("כתוב משפט אחד על הים.", "", "הים כחול ורחב, והגלים נשברים על החוף.", "הים גדול.", "writing"),
    ("Explain this word to a ten-year-old.",
     "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
     "It is a very long German word for a club of people who built the power stations of steamships on the Danube.",
     "pneumonoultramicroscopicsilicovolcanoconiosis" * 3, "words"),
    ("Write Fibonacci in Python.", "", f"Here it is:\n\n```python\n{CODE}\n```\n\nIt takes n additions.",
     "```python\ndef fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n```", "code"),
    ("Answer with emoji only: a family at the sea 🏖️", "", "👨‍👩‍👧‍👦🌊🏖️", "👪🌊", "emoji"),
    ("中华人民共和国的首都是哪里？", "", "北京是中华人民共和国的首都。", "首都是上海。", "facts"),
    ("Summarize the text.", "A long paragraph goes on and on, and says little. " * 40, "Little is said, at length.",
     "The paragraph " + "repeats itself and " * 60 + "ends.", "writing"),
    ("می‌خواهم یک جملهٔ کوتاه بنویسی.", "", "امروز هوا خوب است.", "هوا خوب نیست.", "writing"),
    ("See https://example.com/a/very/long/path/without/any/space/in/it/that/goes/on?and=on&and=on&and=on#fragment", "",
     "It is a URL.", "", "words"),
    ("What is 17 × 23?", "", "391", "391", "sums"),
    ("List three primary colours.", "", "- red\n- yellow\n- blue", "- red\n- green\n- blue", "facts"),
]  # fmt: skip
NAMES = [
    *("pythia-160m-lr1e-5", "pythia-160m-lr5e-5", "SmolLM2-135M-Instruct-lora-r16", "gpt2-medium"),
    "a-run-with-a-name-that-is-much-longer-than-anybody-would-want-it-to-be-v2.1",
]
VERSIONS = {"ift": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6"}


def make_runs(top: Path, *, times: int = 4) -> list[RunFolder]:
    """Five finished runs with `times` answers to each of ROWS, curves, samples, judges, ratings and evaluations."""
    return [_make(RunFolder(top / name), number, times) for number, name in enumerate(NAMES)]


def _make(run: RunFolder, number: int, times: int) -> RunFolder:
    draw = random.Random(number)
    run.path.mkdir(parents=True)
    skill = 0.35 + 0.12 * number
    answers = []
    for i in range(times):
        for row, (instruction, given, reference, other, category) in enumerate(ROWS):
            said = reference if draw.random() < skill else other
            answers.append(
                {"instruction": f"{instruction}{' (again)' * i}", "input": given, "reference": reference}
                | {"response": said, "stop_reason": draw.choice(["end", "end", "end", "length"]), "prompt_tokens": 40}
                | {"response_tokens": len(said) // 3, "file": "rows.jsonl", "row": row, "category": category}
            )
    write_jsonl(run.responses, answers)
    losses = [3.2 * math.exp(-step / (40 + 10 * number)) + 1.4 - 0.1 * number for step in range(201)]
    write_jsonl(
        run.metrics,
        [
            {"step": step, "tokens": 900 * step, "train/loss": loss + draw.uniform(-0.15, 0.15)}
            | ({"val/loss": loss + 0.08} if step % 20 == 0 else {})
            for step, loss in enumerate(losses)
        ],
    )
    samples = [
        {"step": step, "instruction": instruction, "input": given, "reference": reference}
        | {"response": (reference if draw.random() < skill else other) if step else other[:40] + " and and and and"}
        | {"loss": 4.1 - 0.015 * step * draw.random() * (1.2 if row else -0.2)}
        for step in (0, 100, 200)
        for row, (instruction, given, reference, other, _) in enumerate(ROWS[:8])
    ]
    write_jsonl(run.samples, samples)
    summary = {
        "status": "finished", "choices": f"optim.lr={(number + 1) * 1e-5}", "stop_reason": "max_epochs",
        "best_step": 200, "steps": 200, "untuned_val_loss": 4.6, "val_loss": losses[-1] + 0.08,
        "untuned_is_best": False, "test_loss": losses[-1] + 0.1, "train_seconds": 318.4 + number,
        "tokens_per_second": 5120.0, "train_tokens": 180_000, "peak_memory_bytes": 2_400_000_000,
        "accelerator": "gpu", "precision": "bf16", "parameters": 162_000_000, "versions": VERSIONS,
        "steps_seconds": 262.0, "validation_seconds": 31.5, "samples_seconds": 20.0, "saving_seconds": 4.5,
        "waiting_seconds": 0.4 + number, "start_seconds": 7.6, "untuned_seconds": 12.0,
        **score(answers),
    }  # fmt: skip
    write_json(run.summary, summary)
    run.config.write_text(
        f"seed: {number}\noptim:\n  lr: {(number + 1) * 1e-5}\nmodel:\n  name: {NAMES[number].split('-lr')[0]}\n"
    )
    keys = [answer.key for answer in open_answers(run.path).rows]
    judged = run.evals / "judge-score-llama3.3"
    judged.mkdir(parents=True)
    scores = [max(0.0, min(100.0, draw.gauss(55 + 8 * number, 18))) for _ in keys]
    mean = sum(scores) / len(scores)
    about = {"scale": [0, 100], "valid": True, "judge": {"against": None}, "mean": mean, "low": mean - 5}
    about |= {"high": mean + 5, "scored": len(scores), "rows": len(scores)}
    write_json(judged / "results.json", about)
    lines = [
        {"key": key, "score": round(score), "reason": "It answers the question."}
        for key, score in zip(keys, scores, strict=True)
    ]
    write_jsonl(judged / "samples.jsonl", lines)
    ratings = Ratings(run.ratings)
    for i, key in enumerate(keys[::3]):
        ratings.set(key, Rating(["right", "partly", "wrong"][i % 3], 1 + i % 5, "a comment" if i == 0 else ""))
    known = run.evals / "mmlu"
    known.mkdir()
    value = 0.3 + 0.05 * number
    task = {"metric": "acc", "model": "tuned", "prompt": "raw", "higher_is_better": True, "value": value}
    around = {"low": value - 0.04, "high": value + 0.04}
    scores = [
        {**task, **around, "task": "mmlu", "n": 400, "headline": True},
        {**task, **around, "task": "mmlu_high_school_government_and_politics", "n": 40, "headline": False},
    ]
    notes, versions = ["The first 400 questions of 14,042."], {"lm-eval": "0.4.13"}
    write_json(known / "results.json", {"scores": scores, "notes": notes, "versions": versions})
    question = {"task": "mmlu", "model": "tuned", "prompt_form": "raw", "said": "B", "target": "B", "scored": []}
    write_jsonl(
        known / "samples.jsonl",
        [
            {**question, "doc_id": i, "prompt": f"Question {i}?", "metrics": {"acc": float(draw.random() < value)}}
            for i in range(400)
        ],
    )
    return run


def data_rows(path: Path) -> Path:
    """Rows of every script, with duplicates, leaks, an e-mail address and some that are refused, as JSON lines."""
    rows = [
        {"instruction": f"{instruction} ({i})", "input": given, "output": reference, "category": category, "url": "x"}
        for i in range(8)
        for instruction, given, reference, _, category in ROWS
    ]  # fmt: skip
    rows += [
        {"instruction": "Say something.", "output": ""},
        {"instruction": "Write to me@example.com", "output": "Done."},
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path

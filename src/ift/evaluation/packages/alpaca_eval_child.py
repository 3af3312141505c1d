"""AlpacaEval's package at work, in a process that `alpaca_eval.py` starts: prompts, order, parser, metrics.

Requests that would go to a server go over the pipe instead. The prompt is that of AlpacaEval 2; which of two answers
comes first is drawn by the package from the instruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ift.evaluation.packages.child import serve

ANNOTATOR = "judge"
LETTERS = ("m", "M")  # the names that the prompt gives to the first and the second answer
# a reply in words: the letter and nothing else, but for marks around it and thoughts before it
WORDS = {
    n: rf"\A(?:\s*<think>[\s\S]*?</think>)?\W*(?:[Mm]odel\s+)?{letter}\W*\Z" for n, letter in enumerate(LETTERS, 1)
}


def work(job: Mapping[str, Any], ask: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """For each of job["models"]: {"annotations": [...], "metrics": {...}}.

    instructions, baseline   N texts each; models: [{name, outputs}], N outputs each, and the baseline's name
    by                       logprobs or words: what the judge's replies hold
    gamed                    path of df_gamed.csv for the length-controlled win rate, or null
    """
    config = write_annotator(Path("annotator"), by=job["by"])
    return [compare(job, model, config, ask) for model in job["models"]]


def write_annotator(folder: Path, *, by: str) -> Path:
    """The package reads how it is to judge from a folder."""
    package = _package()
    template = Path(package.__file__).parent / "evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"
    annotator: dict[str, Any] = {
        "prompt_template": str(template),
        "fn_completions": "openai_completions",
        "completions_kwargs": {},
        "batch_size": 1,
    }
    if by == "logprobs":
        parser = {"numerator_token": LETTERS[0], "denominator_tokens": list(LETTERS), "is_binarize": False}
        annotator |= {"fn_completion_parser": "logprob_parser", "completion_parser_kwargs": parser}
        annotator |= {"completion_key": "completions_all"}
    else:
        annotator |= {"fn_completion_parser": "regex_parser"}
        annotator |= {"completion_parser_kwargs": {"outputs_to_match": {1: WORDS[1], 2: WORDS[2]}}}
    folder.mkdir(exist_ok=True)
    import yaml  # type: ignore[import-untyped]

    (folder / "configs.yaml").write_text(yaml.safe_dump({ANNOTATOR: annotator}), encoding="utf-8")
    return folder.absolute()


def compare(
    job: Mapping[str, Any], model: Mapping[str, Any], config: Path, ask: Callable[[Any], Any]
) -> dict[str, Any]:
    """One model against the baseline, by the package's own `evaluate`."""
    package = _package()
    from alpaca_eval.annotators import base

    def completions(prompts: Sequence[str], **_: Any) -> dict[str, list[Any]]:
        messages = [[[m["role"], m["content"]] for m in package.utils.prompt_to_chatml(p.strip())] for p in prompts]
        every = [_as_choice(reply) for reply in ask(messages)]
        return {
            "completions": [choice["text"] for choice in every],
            "completions_all": every,
            "price_per_example": [0.0] * len(every),  # the bill is kept where the asking is done
            "time_per_example": [0.0] * len(every),
        }

    base.get_fn_completions = lambda name: completions

    def rows(name: str, outputs: Sequence[str]) -> list[dict[str, str]]:
        return [
            {"instruction": instruction, "output": output, "generator": name}
            for instruction, output in zip(job["instructions"], outputs, strict=True)
        ]

    _, annotations = package.evaluate(
        model_outputs=rows(model["name"], model["outputs"]),
        reference_outputs=rows(job["name"], job["baseline"]),
        annotators_config=str(config),
        output_path=None,
        precomputed_leaderboard=None,
        is_return_instead_of_print=True,
        is_cache_leaderboard=False,
        # only to be shown; what counts is measured below, since the package fails where all are unread
        fn_metric=lambda _: {"win_rate": 0.0, "standard_error": 0.0},
        sort_by="win_rate",
        caching_path=None,  # replies are kept where the asking is done
        annotation_kwargs={"is_ordered": True, "chunksize": None},  # instructions may occur twice
    )
    found = [{**each, "preference": _number(each["preference"])} for each in annotations]
    assert [each["instruction"] for each in found] == list(job["instructions"]), "rows came back in another order"
    kept = [{"preference": each["preference"], "reply": each.get("preference_raw_completion")} for each in found]
    read = any(each["preference"] is not None for each in found)
    return {"annotations": kept, "metrics": measure(found, gamed=job["gamed"]) if read else {}}


def measure(annotations: Sequence[Mapping[str, Any]], *, gamed: str | None = None) -> dict[str, float]:
    """The package's metrics, in percent, of preferences from 1 (baseline) to 2 (model), None where unread.

    gamed: df_gamed.csv, for length_controlled_winrate too. It goes by the place of a row, so annotations must be the
    805 official instructions in their order; rows also need output_1 and output_2, generator_1 and generator_2.
    """
    _package()
    import pandas
    from alpaca_eval.metrics import get_winrate, glm_winrate

    frame = pandas.DataFrame(list(annotations))
    frame["preference"] = frame["preference"].astype(float)
    if gamed is None:
        return dict(get_winrate(frame))
    glm_winrate.hf_hub_download = lambda **_: gamed
    return dict(glm_winrate.get_length_controlled_winrate(frame, save_weights_dir=Path("weights")))


def _package() -> Any:
    import dotenv

    dotenv.load_dotenv = lambda *args, **kwargs: False  # it would read any .env above the package's folder
    import alpaca_eval

    return alpaca_eval


def _as_choice(reply: Mapping[str, Any] | None) -> dict[str, Any]:
    """A reply as OpenAI's client gives it; "" is what the package takes for none."""
    if reply is None:
        return {"text": "", "total_tokens": 0}
    choice: dict[str, Any] = {"text": reply["text"], "total_tokens": 0}
    if reply["first"]:
        top = [{"token": token, "logprob": logprob} for token, logprob in reply["first"]]
        choice["logprobs"] = {"content": [{"top_logprobs": top}]}
    return choice


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


if __name__ == "__main__":
    serve(work)

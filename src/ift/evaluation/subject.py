"""The models that an evaluation asks: the run's best one, and the pretrained one that training began with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ift.errors import ConfigError
from ift.evaluation.judging import JudgePairs, OpenJudge, no_judge
from ift.progress import progress
from ift.run import RunFolder
from ift.settings import EvaluateSettings, GenerateSettings, ModelSettings, load_settings

if TYPE_CHECKING:
    import torch

    from ift.artifacts.bases import Bases
    from ift.data.reading.rows import Row
    from ift.model.gpt import GPT
    from ift.text.templates import Template
    from ift.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Subject:
    """A model that is asked. template: the one it was tuned with; None for a base model."""

    label: str  # tuned or base
    model: GPT
    tokenizer: Tokenizer
    template: Template | None

    @property
    def takes_instructions(self) -> bool:
        """Whether it can be asked in a template: not a base model, and not one that was tuned on plain text."""
        return self.template is not None and not self.template.plain

    @property
    def device(self) -> torch.device:
        return self.model.device

    def complete(
        self,
        prompts: Sequence[Row | str],
        settings: GenerateSettings,
        *,
        stop: Sequence[str] = (),
        seed: int = 0,
        what: str | None = None,
    ) -> list[str]:
        """What the model writes after each prompt, up to the first of the stop strings.

        A text is ordinary text; a row stands in the model's template. A prompt that leaves no room for max_new_tokens
        loses its beginning. what: the title of a progress bar. Raises ConfigError where max_new_tokens leaves no room
        for any prompt.
        """
        from ift.generation.engine import generate
        from ift.generation.fitting import Overlong, fit
        from ift.generation.sampling import Sampling
        from ift.generation.stop_strings import StopStrings
        from ift.text.encoding import turn_end

        context, limit = self.model.config.context_length, settings.max_new_tokens
        if limit >= context:
            raise ConfigError(
                f"eval.generate.max_new_tokens={limit}: the model has {context} positions, and the prompt needs some"
            )
        ids = [self.prompt_ids(prompt) or [self.tokenizer.before_nothing] for prompt in prompts]
        end = self.tokenizer.end_of_text
        if self.template and not all(isinstance(prompt, str) for prompt in prompts):
            end = turn_end(self.template, self.tokenizer)
        fitted = fit(ids, Overlong.KEEP_END, context_length=context, max_new_tokens=limit)
        stops = StopStrings([*stop, *settings.stop], self.tokenizer.decode)
        with progress(what, len(prompts), "answers") as advance:
            generated = generate(
                self.model,
                fitted.prompts,
                end_of_text=end,
                max_new_tokens=limit,
                sampling=Sampling.of(settings, seed),
                batch_size=settings.batch_size,
                until=stops,
                progress=advance,
            )
        return [stops.text(answer.ids) for answer in generated]

    def prompt_ids(self, question: Row | str) -> list[int]:
        """A text as the model's tokenizer begins it, a row in the template where there is one."""
        from ift.text.encoding import encode_prompt, encode_text

        if isinstance(question, str) or self.template is None:
            return encode_text(str(question), self.tokenizer)
        return encode_prompt(question, self.template, self.tokenizer)

    def fits(self, question: Row | str, settings: GenerateSettings) -> bool:
        """Whether the model sees all of a prompt: a row as `respond` puts it in the template, a text as `complete`."""
        from ift.generation.fitting import Overlong

        is_text = isinstance(question, str) or self.template is None
        policy = Overlong.KEEP_END if is_text else Overlong.REFUSE
        return len(self.prompt_ids(question)) <= policy.longest(
            self.model.config.context_length, settings.max_new_tokens
        )


def no_mirror(folder: str) -> ConfigError:
    return ConfigError(f"data_root={folder}: no such folder (it holds a local mirror of the data)")


def base_of(run: RunFolder) -> ModelSettings:
    """What the run began with. Raises ConfigError where that is no pretrained model."""
    settings = load_settings(run.config).model
    if settings.pretrained is None:
        raise ConfigError(f"eval.base=true: {run.path} was trained from scratch (it has no base model)")
    return settings


class Bench:
    """What an engine works with. Models are loaded when they are first asked for."""

    def __init__(
        self,
        run: RunFolder,
        settings: EvaluateSettings,
        *,
        open_judge: OpenJudge = no_judge,
        judge_pairs: JudgePairs = no_judge,
    ):
        self.open_judge, self.judge_pairs = open_judge, judge_pairs
        self.run, self.settings = RunFolder(run.path.absolute()), settings  # an engine may change the working directory
        self.folder = self.run.evals / settings.eval.name
        self.data_root = None
        if settings.data_root:
            self.data_root = Path(settings.data_root).absolute()
            if not self.data_root.is_dir():
                raise no_mirror(settings.data_root)

    @cached_property
    def tuned(self) -> Subject:
        """The run's best model, in the precision of the settings."""
        from ift.artifacts.model_folder import load_model_folder

        model, tokenizer, template = load_model_folder(self.run.model, self._bases)
        return Subject("tuned", self._placed(model), tokenizer, template)

    @cached_property
    def base(self) -> Subject:
        """The pretrained model that training began with. Raises ConfigError for a run that began from scratch."""
        from ift.artifacts.weights import build_model, plan_model

        settings = base_of(self.run)
        tokenizer = self.tuned.tokenizer
        config, weights = plan_model(settings, vocab_size=tokenizer.vocab_size)
        shared = self._bases and weights and self._bases.model(config, weights)
        return Subject("base", self._placed(shared or build_model(config, weights)), tokenizer, None)

    @cached_property
    def _bases(self) -> Bases | None:
        """Where the base is asked too, an adapter shares its weights."""
        from ift.artifacts.bases import Bases

        return Bases() if self.settings.eval.base else None

    @property
    def subjects(self) -> Iterator[Subject]:
        """The tuned model, and the base model beside it when that is asked for."""
        yield self.tuned
        if self.settings.eval.base:
            yield self.base

    def _placed(self, model: GPT) -> GPT:
        from ift.artifacts.machine import placed

        return placed(model, self.settings.accelerator, self.settings.precision)

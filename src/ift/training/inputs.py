"""What a training run starts from; what is wrong with settings, rows or weight files is found here, without torch."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass

from ift.artifacts.model_template import template_and_tokenizer
from ift.artifacts.model_tokenizer import foreign
from ift.artifacts.weights import Folder, plan_model
from ift.data.contract.prepare import Prepared, prepare
from ift.errors import DataError, MachineError, missing_extra, warn
from ift.launch import is_other_rank
from ift.model.config import GPTConfig
from ift.model.freezing import frozen_parameters
from ift.model.low_rank import LowRank
from ift.run import RunFolder
from ift.sealed import Sealed, newest
from ift.settings import Settings
from ift.text.encoding import turn_end
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer
from ift.training.adapter import planned, refuse_other_base


@dataclass(frozen=True)
class Inputs:
    template: Template
    tokenizer: Tokenizer
    config: GPTConfig
    weights: Folder | None  # None: fresh ones
    data: Prepared
    checkpoint: Sealed | None  # where a run that was stopped goes on
    low_rank: LowRank | None = None  # the adapter; None: all weights are trained

    @property
    def turn_end(self) -> int:
        """The token that is learnt after a whole response."""
        return turn_end(self.template, self.tokenizer)

    @property
    def stops(self) -> frozenset[int]:
        """All tokens that end an answer: what is learnt, the end-of-text, and what the model's files name."""
        return frozenset({self.turn_end, self.tokenizer.end_of_text}) | (self.weights.stops if self.weights else set())

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a checkpoint says of what it began with: of the rows, and of the base of an adapter."""
        base = {} if self.low_rank is None else {"base": self.low_rank.base_hash}
        return {"data": self.data.report["fingerprint"], **base}

    @property
    def about(self) -> dict[str, str]:
        """What a model folder says of the data that it was trained on."""
        return {"data": self.data.report["fingerprint"], "data_report": self.data.hash}


def check_inputs(settings: Settings, run: RunFolder) -> Inputs:
    """Raises IftError. A new run's folder gets what `prepare` says of the rows."""
    checkpoint = newest(run.checkpoints, mend=not is_other_rank())
    template, tokenizer = template_and_tokenizer(settings.prompt, settings.model)
    config, weights = plan_model(settings.model, vocab_size=tokenizer.vocab_size)
    frozen_parameters(settings.model.freeze, config)
    low_rank = planned(settings, config, weights)
    if checkpoint and low_rank:
        refuse_other_base(checkpoint, low_rank)
    refuse_what_is_missing(settings)
    data = prepare(
        settings.data,
        template,
        tokenizer,
        context_length=config.context_length,
        stops=weights.stops if weights else (),
        run=None if is_other_rank() or checkpoint else run,
    )
    if checkpoint:
        refuse_other_data(checkpoint, data)
    if not is_other_rank():
        say_what_is_not_as_it_was(settings, tokenizer, weights)
    return Inputs(template, tokenizer, config, weights, data, checkpoint, low_rank)


def say_what_is_not_as_it_was(settings: Settings, tokenizer: Tokenizer, weights: Folder | None) -> None:
    """Print what training does not take over from a pretrained model."""
    if other := foreign(settings.model, tokenizer):
        warn(f"model.tokenizer={settings.model.tokenizer}: {other}")
    if weights and weights.other_parts:
        print(f"left out  {weights.path}: {', '.join(weights.other_parts)}", flush=True)


def refuse_other_data(checkpoint: Sealed, data: Prepared) -> None:
    """Raises DataError if the rows are not those that the run began with."""
    before, now = checkpoint.about["data"], data.report["fingerprint"]
    if before != now:
        raise DataError(
            f"the rows have changed since the run began: fingerprint {now[:16]}, then {before[:16]} "
            "(bring them back, leave out a column that this release reads and the run's did not: data.ignore=[NAME], "
            "or begin a new run)"
        )


def refuse_what_is_missing(settings: Settings) -> None:
    """Raises MachineError for a package or a program that the settings need and the machine lacks. Imports neither."""
    if settings.optim.name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "adamw8bit")
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch looks for it
    if settings.model.compile and shutil.which(compiler) is None:
        raise MachineError(
            f"model.compile=true: no C++ compiler, {compiler} is not on the PATH (install it, or set CXX to another)"
        )

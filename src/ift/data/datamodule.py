"""The LightningDataModule: owns the three splits and how they become batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ift.data.batches import Batch, Limit, StepSampler, collate_padded, collate_unpadded, limited
from ift.data.contract.cache import StoredExamples, lengths
from ift.data.contract.examples import Example
from ift.data.text_size import TextSize, text_size
from ift.settings import DataSettings
from ift.text.tokenizers import Tokenizer


class Examples(Dataset[list[Example]]):
    """Indexed by a whole micro-batch, so that a loader without a batch size of its own can be used."""

    def __init__(self, examples: Sequence[Example], order: np.ndarray | None = None):
        """order: another than the examples' own."""
        self.examples = examples
        self.order = np.arange(len(examples)) if order is None else order

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: list[int]) -> list[Example]:
        return [self.examples[self.order[i]] for i in indices]


@dataclass(frozen=True)
class Limits:
    """How many batches of each split are used."""

    train: Limit = None
    val: Limit = None
    test: Limit = None


class SFTDataModule(L.LightningDataModule):
    """
    examples: under train, test and val (and clean_test), as `prepare` makes them
    settings: batch_size rows make a micro-batch on one device; a step is batch_size * accumulate * world rows
    border: the model's (GPTConfig.border): rows on its two sides share no prefix
    dropout: the model's; noise: on embeddings; with either rows share no prefix, since each has draws of its own
    limits: rows of validation and test are taken from the front, before they are put in the order of their lengths
    """

    def __init__(
        self,
        examples: dict[str, Sequence[Example]],
        settings: DataSettings,
        *,
        end_of_text: int,
        accumulate: int = 1,
        dropout: float = 0.0,
        noise: float | None = None,
        border: int | None = None,
        seed: int = 0,
        limits: Limits = Limits(),
    ):
        super().__init__()
        self.limits = limits
        self.examples, self.settings = examples, settings
        self.batch_size, self.accumulate, self.seed = settings.batch_size, accumulate, seed
        if settings.batching == "padded":
            self.collate: Callable[[list[Example]], Batch] = partial(
                collate_padded, end_of_text=end_of_text, pad_to=settings.pad_to
            )
        else:
            shares = settings.share_prefix and not dropout and not noise
            self.collate = partial(collate_unpadded, end_of_text=end_of_text, share_prefix=shares, border=border)
        self.begin = (0, 0)  # epoch, and optimizer steps of it that were taken already

    def steps_per_epoch(self, world: int) -> int:
        """Optimizer steps in an epoch on `world` ranks."""
        rows, limit = len(self.examples["train"]), self.limits.train
        return self._sampler(rows, train=True, rank=0, world=world, limit=limit).steps

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.examples["train"], train=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.used("val"))

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """The test rows and, where some have a near twin in training, those that have none."""
        return [self._loader(self.used(name)) for name in ("test", "clean_test") if name in self.examples]

    def baseline_dataloaders(self) -> list[DataLoader[Batch]]:
        """Validation rows and as many training rows: what the untuned model is measured on."""
        val = self.used("val")
        return [self._loader(part) for part in (val, self.examples["train"][: max(len(val), self.batch_size)])]

    def used(self, name: str, world: int | None = None) -> Sequence[Example]:
        """The examples of val, test or clean_test that the limits leave. world: of a trainer that is not there yet."""
        examples = self.examples[name]
        if name == "clean_test":  # those of the test rows that are used
            if self.limits.test is None or not isinstance(examples, StoredExamples):
                return examples
            test = self.used("test", world)
            return examples[: int(np.isin(examples.order, test.order).sum())]  # type: ignore[attr-defined]
        limit = self.limits.val if name == "val" else self.limits.test
        a_batch = self.batch_size * (world or self._place[1])
        return examples if limit is None else examples[: limited(-(-len(examples) // a_batch), limit) * a_batch]

    def text_size(self, name: str, tokenizer: Tokenizer) -> TextSize:
        """Of the supervised text of val, test or clean_test, as far as it is used."""
        return text_size(self.used(name), tokenizer)

    def shortened(self, world: int) -> str | None:
        """The line that says what the limits leave; None without limits."""
        if self.limits == Limits():
            return None
        whole = self._sampler(len(self.examples["train"]), train=True, rank=0, world=world, limit=None).steps
        parts = [f"{self.steps_per_epoch(world):,} of {whole:,} training steps in an epoch"]
        for name, words in (("val", "validation"), ("test", "test")):
            parts.append(f"{len(self.used(name, world)):,} of {len(self.examples[name]):,} {words} rows")
        return f"limits    {', '.join(parts)}"

    def longest_batch(self, rows: int | None = None) -> Batch:
        """The training batch that needs most memory; rows: of another size than batch_size."""
        longest = np.argsort(-lengths(self.examples["train"]), kind="stable")[: rows or self.batch_size]
        return self.collate([self.examples["train"][int(i)] for i in longest])

    @property
    def _place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _sampler(self, rows: int, *, train: bool, rank: int, world: int, limit: Limit) -> StepSampler:
        return StepSampler(
            rows,
            batch_size=self.batch_size,
            accumulate=self.accumulate if train else 1,
            rank=rank,
            world=world,
            seed=self.seed if train else None,
            drop_last=self.settings.drop_last and train,
            limit=limit,
        )

    def _loader(self, examples: Sequence[Example], *, train: bool = False) -> DataLoader[Batch]:
        # validation has no order to keep: rows of one length side by side need least padding
        order = None if train else np.argsort(lengths(examples), kind="stable")
        rank, world = self._place
        limit = self.limits.train if train else None
        sampler = self._sampler(len(examples), train=train, rank=rank, world=world, limit=limit)
        if train:
            sampler.begin_at(*self.begin)
        return DataLoader(
            Examples(examples, order),  # type: ignore[arg-type]
            sampler=sampler,
            generator=torch.Generator(),  # a loader draws a number when it starts: not from the run's random state
            batch_size=None,
            collate_fn=self.collate,
            num_workers=self.settings.num_workers,
            persistent_workers=self.settings.num_workers > 0,
        )

"""Instruction fine-tuning of GPT models: rows -> checked examples -> batches -> model -> responses -> verdicts."""

__version__ = "0.1.0"

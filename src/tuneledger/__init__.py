"""Declarative fine-tuning of language models, with a ledger of what each run scored and cost."""

__version__ = "0.1.0"

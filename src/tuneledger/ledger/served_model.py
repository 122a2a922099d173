"""The model as MLflow serves it: one or two text columns in, label, probabilities and logits out.

MLflow copies this file into the logged model and runs it there, with `learn/text_pairs.py` beside it and nothing else
of this project.
"""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

BATCH = 64


class TextClassifier(PythonModel):
    """A sequence classifier; rows are scored in batches padded to their longest."""

    def load_context(self, context: PythonModelContext) -> None:
        import text_pairs  # noqa: F401  its classifier gets known to transformers
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = context.artifacts["model"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True
        ).eval()
        self.text = context.model_config["text"]

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        parts = [self._score(model_input[start : start + BATCH]) for start in range(0, len(model_input), BATCH)]
        return pd.concat(parts, ignore_index=True)

    def _score(self, rows: pd.DataFrame) -> pd.DataFrame:
        import torch

        texts = [rows[column].tolist() for column in self.text]
        inputs = self.tokenizer(*texts, truncation="longest_first", padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**inputs).logits.float()
        names = [self.model.config.id2label[index] for index in range(logits.shape[1])]
        scores = {"label": [names[index] for index in logits.argmax(dim=1).tolist()]}
        for kind, values in (("probability", logits.softmax(dim=1)), ("logit", logits)):
            scores |= {f"{kind}_{name}": values[:, index].tolist() for index, name in enumerate(names)}
        return pd.DataFrame(scores)


mlflow.models.set_model(TextClassifier())

"""From text to token ids: finding a model's files, tokenizing, batching. Knows nothing of training."""

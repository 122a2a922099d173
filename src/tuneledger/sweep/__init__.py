"""A `--multirun` as one thing: its folder, its trials, the search over them, its page and its runs in MLflow."""

"""BERT-family classifiers computed without padding: what makes training fast on CPUs, and nothing else does."""

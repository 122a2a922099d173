"""What a run took and where it is written down: clock, hardware, provenance, prices, MLflow."""

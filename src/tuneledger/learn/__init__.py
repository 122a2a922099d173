"""Training: the encoder, the Lightning module and data module, checkpoints that resume exactly, prediction."""

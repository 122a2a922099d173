"""What the pictures are made of: a rising rate, descent on a head, training at a fixed rate, an untrained model."""

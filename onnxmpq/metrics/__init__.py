"""What the outputs of a model mean, and how far two of them are apart."""

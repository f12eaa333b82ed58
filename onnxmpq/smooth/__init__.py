"""Outliers of activations moved into the weights that read them, exactly in float, and whether that helped."""

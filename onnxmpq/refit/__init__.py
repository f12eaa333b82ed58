"""Fit weights again behind the layers before them: each layer to what the float model gives there."""

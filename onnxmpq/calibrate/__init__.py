"""One pass over the samples, and what it counts."""

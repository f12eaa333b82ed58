"""Whether a file holds what its plan promises, and its way to the place that was asked for."""

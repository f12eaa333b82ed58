"""A model with its target and samples: what is known of it, and the files that are built of it."""

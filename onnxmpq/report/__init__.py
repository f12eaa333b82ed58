"""The report stage: what was found, on one page without a network, and the same numbers as JSON."""

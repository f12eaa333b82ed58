"""Methods: each names what to measure, how to choose a plan from it, and what to do after solving."""

"""Measure what quantising each unit of a model costs."""

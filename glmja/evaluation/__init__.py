"""Measuring a model and reporting the results."""

"""Checks on finished tokenizers and models."""

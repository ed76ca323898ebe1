"""Folders of weights, read and written as bytes, without transformers."""

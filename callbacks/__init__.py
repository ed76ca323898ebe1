"""What observes a run."""

from callbacks.validation_table import ValidationTable

__all__ = ["ValidationTable"]

"""What observes a run."""

from callbacks.chat_sampler import ChatSampler
from callbacks.exact_resume import ExactResume
from callbacks.final_checkpoint import FinalCheckpoint
from callbacks.largest_batch_check import LargestBatchCheck
from callbacks.non_finite_guard import NonFiniteGuard
from callbacks.throughput import Throughput
from callbacks.validation_table import ValidationTable

__all__ = [
    "ChatSampler",
    "ExactResume",
    "FinalCheckpoint",
    "LargestBatchCheck",
    "NonFiniteGuard",
    "Throughput",
    "ValidationTable",
]

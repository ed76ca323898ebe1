"""What observes a run."""

from callbacks.chat_sampler import ChatSampler
from callbacks.exact_resume import ExactResume
from callbacks.final_checkpoint import FinalCheckpoint
from callbacks.loss_sentry import LossSentry
from callbacks.rehearsal import Rehearsal
from callbacks.throughput import Throughput
from callbacks.validation_table import ValidationTable

__all__ = ["ChatSampler", "ExactResume", "FinalCheckpoint", "LossSentry", "Rehearsal", "Throughput", "ValidationTable"]

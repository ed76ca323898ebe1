"""The demo with short replies, and exports checked by a fork.

Models that are hardly trained would fill any limit with each reply. That an export loads in a process that has imported
nothing of glmja before is tested elsewhere.
"""

import multiprocessing
from dataclasses import replace

from glmja.demo import pipeline, recitation
from glmja.demo.steps import Steps
from glmja.verification import export

evaluate = Steps._evaluate


def main(args):
    recitation._LIMITS = replace(recitation._LIMITS, max_new_tokens=8)
    Steps._evaluate = lambda self, *given: evaluate(self, *given, "--max_new_tokens", "8")
    export._new_processes = lambda: multiprocessing.get_context("fork")
    pipeline.main(args)

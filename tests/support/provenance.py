"""Where the figures of hand-written scores come from."""

from glmja.evaluation.provenance import Provenance, Sample, SourceFile

MADE = Provenance(
    date="2026-01-02T03:04:05+00:00",
    commands=["python -m glmja.evaluate --model <m>"],
    versions={"glmja": "0", "torch": "1"},
    device="cpu",
    dtype="float32",
    samples=[Sample("ja", "text", 2, 1234, "c" * 64, [SourceFile("<ja>.jsonl", 5678, "d" * 64)])],
)

from math import nan
from types import SimpleNamespace

import pytest

from callbacks.end_warnings import end_warnings
from callbacks.validation_table import ValidationTable
from tests.support.tiny_run import TinyRun

ROSE, SKIPPED = "val/zh/bits_per_char rose by {} since before training", "2 steps without finite loss or gradients were"


@pytest.mark.parametrize(
    ("metrics", "skipped", "precision", "said"),
    [
        ({"val/zh/bits_per_char": (4.0, 4.07)}, 0, "32-true", []),
        ({"val/zh/bits_per_char": (4.0, 4.2)}, 0, "32-true", [ROSE.format("5.0%")]),
        ({"val/zh/bits_per_char": (4.0, nan)}, 0, "32-true", [ROSE.format("nan%")]),
        ({"val/zh/loss": (4.0, 9.0)}, 0, "32-true", []),  # bits per character say it
        ({}, 2, "bf16-mixed", [f"{SKIPPED} skipped; their batches are in run/bad_batch"]),
        ({}, 2, "16-mixed", []),  # the gradient scaler looks for its scale
    ],
    ids=["within", "rose", "nan", "loss", "skipped", "scaled"],
)  # fmt: skip
def test_what_became_worse_is_said_at_the_end(metrics, skipped, precision, said, zero_dir):
    table = ValidationTable()
    table.before = {name: before for name, (before, _) in metrics.items()}
    table.last = {name: last for name, (_, last) in metrics.items()}
    module = type("Module", (TinyRun,), {"num_skipped_steps": skipped})(zero_dir)
    trainer = SimpleNamespace(callbacks=[table], lightning_module=module, precision=precision, default_root_dir="run")
    assert end_warnings(trainer) == said

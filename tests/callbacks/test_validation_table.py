from types import SimpleNamespace

import pytest
import torch

from callbacks import ValidationTable


def trainer(step=0, sanity=False, batches=None, accumulate=1, **metrics):
    return SimpleNamespace(
        callback_metrics={f"val/{name}": torch.tensor(value) for name, value in metrics.items()}, loggers=[],
        sanity_checking=sanity, global_step=step, val_check_batch=batches, accumulate_grad_batches=accumulate,
        enable_validation=True,
    )  # fmt: skip


def cells(text):
    return [[cell.strip() for cell in line.strip("│┃ \n").split("│")] for line in text.splitlines() if "val/" in line]


def test_metrics_are_shown_beside_those_before_training_with_their_change(capsys):
    table = ValidationTable()
    table.on_validation_end(trainer(sanity=True, ja=8.0, zh=2.0), None)
    assert cells(capsys.readouterr().out) == [["val/ja", "8.0000"], ["val/zh", "2.0000"]]
    resumed = ValidationTable()
    resumed.load_state_dict(table.state_dict())
    resumed.on_validation_end(trainer(step=5, ja=6.0, zh=2.05, en=1.0), None)
    assert cells(capsys.readouterr().out) == [
        ["val/en", "–", "1.0000", "–"],
        ["val/ja", "8.0000", "6.0000", "-25.0%"],
        ["val/zh", "2.0000", "2.0500", "+2.5%"],
    ]


def test_a_change_from_a_value_that_is_not_finite_is_not_shown(capsys):
    table = ValidationTable()
    table.on_validation_end(trainer(sanity=True, ja=float("nan"), zh=0.0), None)
    capsys.readouterr()
    table.on_validation_end(trainer(step=1, ja=1.0, zh=1.0), None)
    assert [row[-1] for row in cells(capsys.readouterr().out)] == ["–", "–"]


@pytest.mark.parametrize(
    ("batches", "accumulate", "said"),
    [
        (2000, 1, "validation every 2,000 optimizer steps\n"),
        (2000, 8, "validation every 250 optimizer steps (2,000 micro-batches, 8 in a step)\n"),
        (50, 8, "validation every 6.25 optimizer steps (50 micro-batches, 8 in a step)\n"),
        (None, 8, ""),
    ],
)
def test_the_interval_of_validation_is_said_in_optimizer_steps(batches, accumulate, said, capsys):
    ValidationTable().on_train_start(trainer(batches=batches, accumulate=accumulate), None)
    assert capsys.readouterr().out == said

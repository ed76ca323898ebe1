import torch
from lightning import Trainer
from torch import nn

from callbacks.model_line import ModelLine, describe_parameters
from tests.support.tiny_run import TinyRun, loader, make_batch, make_trainer


def test_trained_and_frozen_parameters_are_counted_with_their_dtypes():
    frozen = nn.Linear(8, 4, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    model = nn.Sequential(nn.Linear(100, 20, bias=False), frozen)
    both = "model: 2,032 parameters, of them 2,000 trained (float32), 32 frozen (bfloat16)"
    assert describe_parameters(model) == both
    assert describe_parameters(frozen) == "model: 32 parameters, of them 32 frozen (bfloat16)"


def test_the_first_process_prints_one_line(zero_dir, tmp_path, capsys):
    trainer = make_trainer(tmp_path, [ModelLine()], max_steps=1)
    module = TinyRun(zero_dir)
    trainer.fit(module, loader([make_batch(0)]))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("model: ")]
    assert printed == [f"{describe_parameters(module)}; on 1 × CPU in 32-true"]


def test_other_processes_print_nothing(capsys):
    trainer = type("Other", (Trainer,), {"is_global_zero": False, "__init__": lambda self: None})()
    ModelLine().on_fit_start(trainer, None)
    assert capsys.readouterr().out == ""

"""A run on one device or under DDP goes on with another number of devices, on the same micro-batches per step."""

import pytest

from glmja import fit
from tests.support.demo_run import RECIPE_OF_THE_DAY, args, unbroken
from tests.support.programs.launch import run
from tests.support.recorder import records

DDP = {"trainer.strategy": "ddp", "trainer.devices": 2, "trainer.accumulate_grad_batches": 1}
PLAIN = {"model.init_args.lora.dropout": 0.0, "trainer.limit_val_batches": 0, "trainer.num_sanity_val_steps": 0}


def ids_of_steps(folder, ranks):
    """Returns the hashes of the micro-batches of each optimizer step."""
    steps = {}
    for rank in range(ranks):
        for number, (_, _, ids, _, _) in records(folder / "record", rank).items():
            steps.setdefault(number // (2 // ranks), []).append(ids)
    return {step: sorted(ids) for step, ids in steps.items()}


# the one whose uninterrupted run other tests need, too
DRAWN = "demo_pretrain" if RECIPE_OF_THE_DAY == "demo_pretrain" else "demo_sft"


@pytest.mark.parametrize(
    "recipe", [pytest.param(x, marks=[] if x == DRAWN else pytest.mark.slow) for x in ("demo_pretrain", "demo_sft")]
)
def test_a_run_of_one_device_goes_on_with_two_and_reads_the_same_micro_batches(zero_dir, tmp_path, recipe):
    fit.main(args(zero_dir, tmp_path, recipe, **PLAIN | {"trainer.max_steps": 4}))
    (tmp_path / "record.0").unlink()
    more = [*args(zero_dir, tmp_path, recipe, **PLAIN | DDP), "--ckpt_path=last"]
    code, output = run(tmp_path / "output", fit.main, more, ranks=2)
    assert code == 0, output
    resumed = ids_of_steps(tmp_path, 2)
    assert sorted(resumed) == [4, 5, 6]
    whole = ids_of_steps(unbroken(zero_dir, "one_rank", recipe), 1)
    assert resumed == {step: whole[step] for step in resumed}
    # and back again
    (tmp_path / "record.0").unlink()
    fit.main([*args(zero_dir, tmp_path, recipe, **PLAIN | {"trainer.max_steps": 9}), "--ckpt_path=last"])
    assert sorted(ids_of_steps(tmp_path, 1)) == [7, 8]


def test_another_number_of_micro_batches_in_a_step_is_refused(zero_dir, tmp_path, capsys):
    fit.main(args(zero_dir, tmp_path, "demo_sft", **PLAIN | {"trainer.max_steps": 2}))
    changes = PLAIN | {"trainer.accumulate_grad_batches": 1, "trainer.strategy": "ddp"}
    with pytest.raises(SystemExit, match="4"):
        fit.main([*args(zero_dir, tmp_path, "demo_sft", **changes), "--ckpt_path=last"])
    assert "was saved with micro_batches_per_step 2, this run has 1; set" in capsys.readouterr().err

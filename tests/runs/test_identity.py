import json
import re
from dataclasses import fields

import pytest

from glmja.errors import ModelError
from glmja.runs.identity import _KINDS, _NOT_COMPARED, ADVICE, RunIdentity

SAVED = {
    "world_size": 2, "precision": "bf16-mixed", "strategy": "ZeRO2", "base": "1f3a", "tokenizer": "77bc",
    "data": "d" * 16, "trainable": [["a.weight", [8, 8]], ["b.weight", [8, 8]]], "embeddings": "full",
    "lora": {"rank": 8, "alpha": 16}, "tuning": "lora", "objective": None,
}  # fmt: skip
TRAINABLE = SAVED["trainable"]


def check(change, saved=SAVED):
    RunIdentity.from_json(SAVED | change).check_resumable(RunIdentity.from_json(saved), "x.ckpt")


def test_an_identity_is_read_as_it_was_written():
    assert RunIdentity.from_json(SAVED).as_json() == SAVED
    assert RunIdentity.from_json(json.loads(json.dumps(SAVED))) == RunIdentity.from_json(SAVED)


def test_fields_are_written_once_they_are_known_and_no_adapters_are_known_with_the_tuning():
    assert RunIdentity().as_json() == {}
    assert RunIdentity(world_size=2).as_json() == {"world_size": 2}
    assert RunIdentity(tuning="full").as_json() == {"tuning": "full", "lora": None, "objective": None}


def test_an_unknown_key_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'flavor'"):
        RunIdentity.from_json(SAVED | {"flavor": "x"})


@pytest.mark.parametrize("name", [field.name for field in fields(RunIdentity)])
def test_a_value_of_another_type_is_refused(name):
    for wrong in (True, 0.5, "x" if _KINDS[name] is not str else 7, {} if _KINDS[name] is not dict else []):
        with pytest.raises(TypeError, match=rf"^{name} is '{re.escape(str(wrong))}'$"):
            RunIdentity.from_json(SAVED | {name: wrong})


def test_the_same_run_may_resume():
    check({"trainable": [("a.weight", (8, 8)), ("b.weight", (8, 8))]})


def test_a_field_that_is_not_known_yet_is_not_compared():
    check({"data": None, "trainable": None})
    with pytest.raises(ModelError, match="world_size 2, this run has 1"):
        check({"data": None, "trainable": None, "world_size": 1})


NEW_RUN = ", or start a new run from it with `init_from` x.ckpt and another `run_dir`"
EXPORT = (
    r", or export it \(python -m glmja.export --checkpoint x.ckpt --output MODEL\) and start a new run with "
    "that `model_dir`"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"world_size": 1},
            "world_size 2, this run has 1; this strategy resumes on as many devices as it was saved on; set `devices`"
            + NEW_RUN,
        ),
        ({"precision": "32"}, "precision bf16-mixed, this run has 32; set `precision` to the saved value" + NEW_RUN),
        ({"strategy": "ddp"}, "strategy ZeRO2, this run has ddp; set `strategy` to the saved one" + NEW_RUN),
        (
            {"micro_batches_per_step": 8},
            "micro_batches_per_step 4, this run has 8; set `accumulate_grad_batches` so that devices × "
            "accumulate_grad_batches is the saved number" + NEW_RUN,
        ),
        (
            {"base": "0000"},
            "base 1f3a, this run has 0000; set `model_dir` to the model folder that the run started from" + EXPORT,
        ),
        (
            {"tokenizer": "00"},
            "tokenizer 77bc, this run has 00; set `model_dir` to the folder with the tokenizer that the run started "
            "with" + EXPORT,
        ),
        ({"base": "0000", "world_size": 1}, "world_size 2, this run has 1; .*"),
        (
            {"trainable": TRAINABLE[::-1]},
            r"trainable parameter 0 a.weight \[8, 8\], this run has b.weight \[8, 8\]; use the model, the adapters "
            "and the trainable parameters of the saved run" + EXPORT,
        ),
        (
            {"trainable": [["a.weight", [8, 8]], ["b.weight", [8, 4]]]},
            r"trainable parameter 1 b.weight \[8, 8\], this run has b.weight \[8, 4\]; .*",
        ),
        ({"trainable": TRAINABLE[:1]}, r"trainable parameter 1 b.weight \[8, 8\], this run has absent; .*"),
        (
            {"data": "5e" * 8},
            "data dddddddd…, this run has 5e5e5e5e…; take sources, weights, row length, batch size, accumulation and "
            "seed from RUN_DIR/config.yaml" + NEW_RUN,
        ),
        ({"data": "5e" * 8, "data_settings": {"row_len": 8, "seed": 0}}, "data dddddddd…, this run has 5e5e5e5e…; .*"),
        (
            {"lora": {"rank": 4, "alpha": 16}},
            "lora {'rank': 8}, this run has {'rank': 4}; set `lora` to the saved values" + EXPORT,
        ),
        ({"lora": None, "tuning": "full"}, "lora {'rank': 8, 'alpha': 16}, this run has None; .*"),
        (
            {"embeddings": "frozen"},
            "embeddings full, this run has frozen; set `embeddings` to the saved value" + EXPORT,
        ),
        (
            {"seed": 1},
            "seed 0, this run has 1; the random states go on from the checkpoint: set `seed_everything` to the saved "
            "value" + NEW_RUN,
        ),
        (
            {"parent": {"step": 4, "files": "a" * 64}},
            "parent None, this run has {'step': 4, 'files': 'aaaaaaaa…'}; a resumed run goes on from its own weights: "
            "leave out `init_from`, or start a new run with it in another `run_dir`",
        ),
    ],
)
def test_the_first_difference_of_a_run_is_reported_with_both_values_and_what_to_do(change, message):
    saved = SAVED | {"micro_batches_per_step": 4, "seed": 0}
    with pytest.raises(ModelError, match=f"^x.ckpt was saved with {message}$"):
        check(saved | change, saved)


def test_every_field_that_is_compared_has_advice():
    assert {field.name for field in fields(RunIdentity)} == {*ADVICE, *_NOT_COMPARED}


def test_of_the_data_the_settings_that_differ_are_shown():
    saved = SAVED | {"data_settings": {"row_len": 64, "seed": 0}}
    with pytest.raises(ModelError, match=r"data {'row_len': 64}, this run has {'row_len': 128}; take sources"):
        check(saved | {"data": "5e" * 8, "data_settings": {"row_len": 128, "seed": 0}}, saved)


def test_a_long_value_is_folded_and_the_advice_is_not():
    with pytest.raises(ModelError, match=rf"this run has {{'rank': 'x{{280,290}}…; set `lora`.*{EXPORT}$"):
        check({"lora": {"rank": "x" * 1000, "alpha": 16}})


def test_one_device_and_ddp_resume_each_other_on_any_number_of_devices():
    plain = SAVED | {"strategy": "SingleDeviceStrategy", "world_size": 1, "micro_batches_per_step": 4}
    ddp = plain | {"strategy": "DDPStrategy", "world_size": 4}
    check(plain, ddp)
    check(ddp, plain)
    with pytest.raises(ModelError, match="micro_batches_per_step 4, this run has 8"):
        check(ddp | {"micro_batches_per_step": 8}, plain)


def test_settings_that_explain_others_are_not_compared():
    check({"data_settings": {"epochs": 2}, "plan_ranks": 3}, SAVED | {"data_settings": {"epochs": 1}, "plan_ranks": 2})


def test_a_checkpoint_without_a_field_differs_in_it():
    with pytest.raises(ModelError, match="was saved with data None, this run has dddddddd…"):
        check({}, {key: value for key, value in SAVED.items() if key != "data"})

import json

import pytest

from glmja.errors import ModelError
from glmja.runs.identity import RunIdentity

SAVED = {
    "world_size": 2, "precision": "bf16-mixed", "strategy": "ZeRO2", "base": "1f3a", "tokenizer": "77bc",
    "data": "d" * 16, "trainable": [["a.weight", [8, 8]], ["b.weight", [8, 8]]], "embeddings": "full",
    "lora": {"rank": 8, "alpha": 16}, "tuning": "lora",
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
    assert RunIdentity(tuning="full").as_json() == {"tuning": "full", "lora": None}


def test_an_unknown_key_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'flavor'"):
        RunIdentity.from_json(SAVED | {"flavor": "x"})


def test_the_same_run_may_resume():
    check({"trainable": [("a.weight", (8, 8)), ("b.weight", (8, 8))]})


def test_a_field_that_is_not_known_yet_is_not_compared():
    check({"data": None, "trainable": None})
    with pytest.raises(ModelError, match="world_size 2, this run has 1"):
        check({"data": None, "trainable": None, "world_size": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world_size": 1}, "world_size 2, this run has 1; resume on as many devices as it was saved on"),
        ({"precision": "32"}, "precision bf16-mixed, this run has 32; set `precision` to the saved value"),
        ({"strategy": "ddp"}, "strategy ZeRO2, this run has ddp; set `strategy` to the saved one"),
        ({"base": "0000"}, "base 1f3a, this run has 0000; use the model folder that the run started from"),
        ({"tokenizer": "00"}, "tokenizer 77bc, this run has 00; use the tokenizer that the run started with"),
        ({"base": "0000", "world_size": 1}, "world_size 2, this run has 1; .*"),
        (
            {"trainable": TRAINABLE[::-1]},
            r"trainable parameter 0 a.weight \[8, 8\], this run has b.weight \[8, 8\]; use the model, the adapters .*",
        ),
        (
            {"trainable": [["a.weight", [8, 8]], ["b.weight", [8, 4]]]},
            r"trainable parameter 1 b.weight \[8, 8\], this run has b.weight \[8, 4\]; .*",
        ),
        ({"trainable": TRAINABLE[:1]}, r"trainable parameter 1 b.weight \[8, 8\], this run has absent; .*"),
        (
            {"data": "5e" * 8},
            "data dddddddd…, this run has 5e5e5e5e…; take sources, weights, row_len, batch size, accumulation and seed "
            "from RUN_DIR/config.yaml",
        ),
        ({"lora": {"rank": 4, "alpha": 16}}, "lora {'rank': 8}, this run has {'rank': 4}"),
        ({"lora": None, "tuning": "full"}, "lora {'rank': 8, 'alpha': 16}, this run has None"),
        ({"embeddings": "frozen"}, "embeddings full, this run has frozen"),
    ],
)
def test_the_first_difference_of_a_run_is_reported(change, message):
    with pytest.raises(ModelError, match=f"^x.ckpt was saved with {message}$"):
        check(change)


def test_a_checkpoint_without_a_field_differs_in_it():
    with pytest.raises(ModelError, match="was saved with data None, this run has dddddddd…"):
        check({}, {key: value for key, value in SAVED.items() if key != "data"})

import pytest

from glmja.modeling.contracts import training_module


def test_a_module_that_callbacks_cannot_use_is_refused():
    with pytest.raises(ValueError, match=r"^object has no model, tokenizer, loss, clock or num_skipped_steps, which"):
        training_module(object())

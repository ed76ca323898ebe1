import logging
import warnings

import pytest

from glmja.modeling.loading import load_model
from lit_modules.messages import without_irrelevant_messages


def test_gradient_checkpointing_warns_of_nothing_in_a_run(zero_dir):
    model = load_model(zero_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_irrelevant_messages():
            model.gradient_checkpointing_enable({"use_reentrant": False})


@pytest.mark.parametrize(("text", "shown"), [("Setting accelerator to CPU. If you have", False), ("overflow", True)])
def test_of_deepspeed_only_what_a_user_cannot_act_on_is_hidden(text, shown, caplog):
    logger = logging.getLogger("DeepSpeed")
    logger.addHandler(caplog.handler)
    with without_irrelevant_messages():
        logger.warning(text)
    logger.removeHandler(caplog.handler)
    assert any(text in record.getMessage() for record in caplog.records) == shown

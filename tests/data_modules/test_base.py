from types import SimpleNamespace

import pytest

from data_modules import ChatSource, PackedPretrainingData, PaddedSFTData, TextSource
from data_modules.base import RunData
from data_modules.stores import chat_store, token_store
from glmja.runs.contracts import TrainingData, find_training_data, training_data
from glmja.twin.build import text_file
from tests.support.fake_trainer import FakeTrainer

DATA = {
    "pretraining": (PackedPretrainingData, [TextSource("ja", "ja", [str(text_file("ja"))])]),
    "sft": (PaddedSFTData, [ChatSource("chats", "all", [str(text_file("conversations"))])]),
}


def data(zero_dir, tmp_path, kind, **trainer):
    data_class, sources = DATA[kind]
    made = data_class(str(zero_dir), sources, cache_dir=str(tmp_path), row_len=512)
    made.trainer = FakeTrainer(world_size=2, **trainer)
    return made


@pytest.mark.parametrize("kind", DATA)
def test_other_ranks_open_by_their_keys_the_stores_that_the_first_rank_has_verified(
    zero_dir, tmp_path, monkeypatch, kind
):
    first, second = data(zero_dir, tmp_path, kind), data(zero_dir, tmp_path, kind, rank=1)
    first.prepare_data()
    first.setup("fit")
    for module in (token_store, chat_store):
        monkeypatch.setattr(module, "sha256_of_file", lambda path: pytest.fail(f"hashed {path}"))
    second.trainer.strategy.sent = {
        name: [(store.key, None) for store in stores] for name, stores in first._stores.items()
    }
    second.setup("fit")
    assert (second.fingerprint, second.num_steps, second.ledger) == (first.fingerprint, first.num_steps, first.ledger)


def test_a_machine_without_the_tokenized_source_is_refused(zero_dir, tmp_path):
    second = data(zero_dir, tmp_path, "pretraining", rank=1)
    second.trainer.strategy.sent = {"ja": [("0" * 32, None)]}
    with pytest.raises(FileNotFoundError, match=r"no tokenized source .*/0+; every machine of a run needs it"):
        second.setup("fit")


@pytest.mark.parametrize("kind", DATA)
def test_a_data_module_is_training_data_and_does_not_load_a_given_tokenizer(zero_dir, tmp_path, tokenizer, kind):
    made = data(zero_dir, tmp_path, kind)
    assert isinstance(made, TrainingData) and made.fingerprint is None
    made.tokenizer_dir = "nowhere"
    made.use_tokenizer(tokenizer)
    assert made.tokenizer is tokenizer


def test_a_trainer_without_such_data_is_refused_with_what_the_data_lacks():
    trainer = FakeTrainer()
    assert find_training_data(trainer) is None
    everything = (
        r"the data module does not plan its run \(it has no row_len, num_steps, validation_sources, row_sources, "
        r"fingerprint, settings, saved, ledger, plan_ranks, check_files, first_examples, use_tokenizer\); "
        r"use a class of data_modules"
    )
    with pytest.raises(ValueError, match=everything):
        training_data(trainer)
    trainer.datamodule = SimpleNamespace(**dict.fromkeys(vars(RunData)), row_len=8, num_steps=1, fingerprint=None)
    with pytest.raises(ValueError, match=r"\(it has no validation_sources, settings, saved, ledger\)"):
        training_data(trainer)

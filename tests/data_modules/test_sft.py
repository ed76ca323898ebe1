import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_modules import ChatSource, PaddedSFTData
from data_modules.batches.conversations import ConversationRows
from glmja import fit
from glmja.conversation.rendering import render
from glmja.modeling.batch import IGNORE_INDEX
from glmja.runs.identity import RunIdentity
from glmja.twin import build as twin
from tests.support.fake_trainer import FakeTrainer
from tests.support.worlds import Conversations

CHATS = str(twin.text_file("conversations"))


def planned(zero_dir, tmp_path, trainer=None, sources=None, **others):
    sources = sources or [ChatSource("chats", "all", [CHATS])]
    data = PaddedSFTData(str(zero_dir), sources, cache_dir=str(tmp_path), **{"row_len": 512} | others)
    data.trainer = trainer or FakeTrainer()
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("packing", [False, True])
def test_only_text_of_the_assistant_has_labels(zero_dir, tmp_path, tokenizer, packing):
    data = planned(zero_dir, tmp_path, packing=packing, val_share=0, row_len=1024)
    with open(CHATS, encoding="utf-8") as lines:
        expected = sorted(
            [i for i, kept in zip(*render(json.loads(line)["messages"], tokenizer), strict=True) if kept]
            for line in lines
        )
    seen = []
    for batch in data.train_dataloader():
        for labels, positions in zip(batch["labels"], batch["position_ids"], strict=True):
            starts = [*torch.nonzero(positions == 0).flatten().tolist(), len(labels)]
            for begin, end in itertools.pairwise(starts):
                part = labels[begin:end]
                seen.append(part[part != IGNORE_INDEX].tolist())
    assert sorted(seen) == expected


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 3), (4, 1)])
def test_each_conversation_is_read_once_an_epoch_by_one_rank(zero_dir, tmp_path, packing, world_size, accumulate):
    counts = []
    for rank in range(world_size):
        trainer = FakeTrainer(world_size=world_size, accumulate=accumulate, rank=rank)
        data = planned(zero_dir, tmp_path, trainer, packing=packing, epochs=2)
        loader = data.train_dataloader()
        assert len(loader) % accumulate == 0
        counts += [
            n for batch in loader.batches.plan[rank::world_size] for row in batch for n in data.rows.conversations[row]
        ]
    read = data.rows.members[counts]
    conversations, times = np.unique(read, axis=0, return_counts=True)
    assert len(conversations) == data.ledger.entries[0]["conversations"]
    assert (times == 2).all()


def test_weights_are_shares_of_the_tokens(zero_dir, tmp_path):
    sources = [ChatSource("a", "ja", [CHATS], weight=0.75), ChatSource("b", "zh", [CHATS], weight=0.25)]
    data = planned(zero_dir, tmp_path, sources=sources, epochs=3)
    tokens = [entry["tokens_read"] for entry in data.ledger.entries]
    assert tokens[0] / sum(tokens) == pytest.approx(0.75, abs=0.02)
    assert data.ledger.entries[0]["passes"] == pytest.approx(4.5, abs=0.1)


def test_a_number_of_steps_ends_the_run_in_any_epoch(zero_dir, tmp_path):
    data = planned(zero_dir, tmp_path, FakeTrainer(max_steps=400, accumulate=2))
    assert (data.num_steps, len(data.train_dataloader())) == (400, 800)
    assert data.ledger.entries[0]["passes"] > 2
    shorter = planned(zero_dir, tmp_path, FakeTrainer(max_steps=30, accumulate=2))
    same = [data.rows.members[data.rows.conversations[i]].tolist() for batch in data.plan[:60] for i in batch]
    assert same == [shorter.rows.members[shorter.rows.conversations[i]].tolist() for b in shorter.plan for i in b]
    assert data.fingerprint == shorter.fingerprint


def contents(data):
    return [data.rows.members[data.rows.conversations[row]].tolist() for batch in data.plan for row in batch]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("shorter", "longer"), [(0.5, 1), (1.02, 2), (1.5, 3), (2, 2.25)])
def test_a_run_of_more_epochs_begins_with_that_of_fewer(zero_dir, tmp_path, packing, shorter, longer):
    trainer = FakeTrainer(accumulate=3)
    one, other = (planned(zero_dir, tmp_path, trainer, epochs=e, packing=packing) for e in (shorter, longer))
    assert contents(one) == contents(other)[: len(contents(one))]
    assert one.fingerprint == other.fingerprint
    assert len(one.plan) == pytest.approx(shorter / longer * len(other.plan), abs=4)


def test_a_mix_by_conversations_is_the_same_run_again_and_no_run_by_tokens(zero_dir, tmp_path):
    sources = [ChatSource("a", "ja", [CHATS], weight=0.7), ChatSource("b", "zh", [CHATS], weight=0.3, learn="last")]
    run = {"sources": sources, "packing": True}
    one, longer = (planned(zero_dir, tmp_path, **run, mix_by="conversations", epochs=e) for e in (1, 2.5))
    assert contents(one) == contents(longer)[: len(contents(one))]
    assert one.fingerprint == longer.fingerprint
    a, b = (entry["share_of_conversations"] for entry in one.ledger.entries)
    assert (a, b) == pytest.approx((0.7, 0.3), abs=0.01)
    by_tokens = planned(zero_dir, tmp_path, **run, epochs=1)
    now, then = (RunIdentity(data=data.fingerprint, data_settings=data.settings) for data in (by_tokens, one))
    with pytest.raises(ValueError, match=r"saved with data \{'mix_by': 'conversations'\}, this run has \{\}; take sou"):
        now.check_resumable(then, "step=1.ckpt")


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=20), data=st.data())
def test_the_counts_of_rows_are_those_of_their_tokens(lengths, data):
    store = Conversations(lengths)
    order = data.draw(st.permutations(range(len(lengths))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(lengths)), max_size=5)) - {len(lengths)})
    rows = ConversationRows([store], np.array([[0, i] for i in range(len(lengths))]), np.split(np.array(order), cuts))
    for i in range(len(rows)):
        ids, labels, _ = rows[i][:3]
        assert (rows.lengths[i], rows.num_target_tokens(np.array([i]))) == (len(ids), (labels != IGNORE_INDEX).sum())


def test_validation_files_replace_a_held_out_share(zero_dir, tmp_path):
    lines = Path(CHATS).read_text(encoding="utf-8").splitlines(keepends=True)
    train, val = (tmp_path / name for name in ("train.jsonl", "val.jsonl"))
    train.write_text("".join(lines[9:]), encoding="utf-8")
    val.write_text("".join(lines[:9]), encoding="utf-8")
    data = planned(zero_dir, tmp_path, sources=[ChatSource("chats", "all", [str(train)], val_files=[str(val)])])
    assert (data.ledger.entries[0]["held_out"], data.ledger.entries[0]["equal_to_held_out"]) == (0, 0)
    whole = planned(zero_dir, tmp_path, sources=[ChatSource("chats", "all", [str(val)])], val_share=0)
    num_targets = sum(int((b["labels"][:, 1:] != IGNORE_INDEX).sum()) for b in data.val_dataloader()[0])
    assert num_targets == whole.ledger.entries[0]["target_tokens"]


def test_the_twin_learns_to_answer(zero_dir, tmp_path):
    trainer = fit.main([
        f"--config={Path(__file__).parents[2] / 'configs' / 'demo_sft.yaml'}", f"--run_dir={tmp_path / 'run'}",
        f"--model.init_args.model_dir={zero_dir}", f"--data.init_args.cache_dir={tmp_path / 'cache'}",
        "--data.init_args.sources", json.dumps([{"name": "chats", "lang": "all", "files": [CHATS]}]),
        "--data.init_args.packing=true", "--trainer.max_steps=12", "--trainer.val_check_interval=12",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    ])  # fmt: skip
    before = next(c for c in trainer.callbacks if type(c).__name__ == "ValidationTable").before["val/chats/loss"]
    assert trainer.callback_metrics["val/chats/loss"] < before - 0.5
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert ledger["run"]["optimizer_steps"] == 12
    chats = [json.loads(line) for line in (tmp_path / "run" / "chats.jsonl").read_text().splitlines()]
    assert {chat["step"] for chat in chats} == {0, 12}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens_per_batch": 511}, r"`tokens_per_batch` \(511\) must be at least `row_len` \(512"),
        ({"max_bad_share": 2}, r"`max_bad_share` \(2\) must be a share from 0 to 1"),
        ({"val_share": -1}, r"`val_share` \(-1\) must be at least 0 and below 1"),
        ({"epochs": float("nan")}, r"`epochs` \(nan\) must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(zero_dir, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        planned(zero_dir, tmp_path, **values)


def test_more_ranks_than_conversations_are_refused(zero_dir, tmp_path):
    with pytest.raises(ValueError, match="conversations cannot be shared among the 512 micro-batches"):
        planned(zero_dir, tmp_path, FakeTrainer(world_size=64, accumulate=8))


def test_real_conversations_fill_their_batches(data, tmp_path):
    sources = [ChatSource(x, x, [str(data / "sft" / f"{x}.jsonl.gz")]) for x in ("zh", "en", "code")]
    run = {"sources": sources, "row_len": 1024}
    assert planned(data / "chatglm3", tmp_path, **run).ledger.facts["fill"] >= 0.95
    assert planned(data / "chatglm3", tmp_path, **run, packing=True).ledger.facts["fill"] >= 0.999

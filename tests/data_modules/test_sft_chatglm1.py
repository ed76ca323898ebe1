"""Batches of conversations for ChatGLM-6B, whose tokens have two positions."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from callbacks.throughput import count_tokens
from data_modules import ChatSource, PaddedSFTData
from data_modules.batches.rows import Fragment, collate, pack
from glmja.conversation.rendering import render_examples
from glmja.families.recognition import load_tokenizer
from glmja.modeling.attention import model_inputs
from glmja.modeling.batch import document_starts
from glmja.modeling.loading import load_model
from glmja.modeling.loss import next_token_loss
from glmja.modeling.prefix_positions import positions_of
from tests.support.chatglm1 import reference_model
from tests.support.fake_trainer import FakeTrainer

NUMBERS = "一二三四五六七八九十"


@pytest.fixture(scope="module")
def tokenizer(chatglm1_dir):
    return load_tokenizer(chatglm1_dir)


@pytest.fixture(scope="module")
def model(chatglm1_dir):
    return load_model(chatglm1_dir, torch.float64)


@pytest.fixture(scope="module")
def fragments(tokenizer):
    """Examples of several lengths."""
    talks = [
        [{"role": "user", "content": NUMBERS[:n]}, {"role": "assistant", "content": NUMBERS[-n:]}] for n in (3, 9, 1, 5)
    ]
    examples = [render_examples(talk, tokenizer, 100)[0] for talk in talks]
    return [Fragment(np.array(ids, np.uint32), np.array(mask)) for ids, mask, _ in examples]


def loss(model, batch):
    hidden = model.base_model(**model_inputs(batch, model.config._attn_implementation)).last_hidden_state
    return next_token_loss(hidden, model.get_output_embeddings().weight, batch["labels"])


def test_positions_are_those_that_the_model_derives(fragments, tokenizer, model):
    for fragment in fragments:
        ids = fragment.ids.astype(np.int64)
        derived = positions_of(torch.from_numpy(ids)[None], None, model.config)[0]
        assert torch.equal(torch.from_numpy(tokenizer.positions(ids)), derived)


def test_the_loss_of_packed_and_of_padded_rows_is_the_sum_over_the_examples(fragments, tokenizer, model):
    rows = [pack([fragment], positions=tokenizer.positions) for fragment in fragments]
    alone = [loss(model, collate([row])) for row in rows]
    packed = collate([pack(fragments, positions=tokenizer.positions)], 64)
    for batch in (packed, collate(rows, 8)):
        total, targets = loss(model, batch)
        assert targets.numel() == sum(labels.numel() for _, labels in alone)
        torch.testing.assert_close(total, sum(one for one, _ in alone), rtol=1e-6, atol=1e-6)


def test_examples_of_a_row_are_found_by_their_positions(fragments, tokenizer):
    batch = collate(
        [pack(fragments[:2], positions=tokenizer.positions), pack(fragments[2:], positions=tokenizer.positions)], 8
    )
    width, lengths = batch["input_ids"].shape[1], [len(fragment.ids) for fragment in fragments]
    assert batch["document_offsets"].tolist() == [0, lengths[0], width, width + lengths[2], 2 * width]
    assert document_starts(batch["position_ids"]).sum() == 4
    assert int(count_tokens(batch)[3]) == sum(length**2 for length in lengths)


def chats(path, num_records):
    """Records of three answers each."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_records):
            talk = [(f"{number}{NUMBERS[i]}", f"{NUMBERS[i]}{number}") for i in range(3)]
            messages = [
                {"role": role, "content": text}
                for pair in talk
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return str(path)


@pytest.mark.parametrize("packing", [False, True])
def test_examples_of_one_record_are_all_trained_on_or_all_held_out(packing, chatglm1_dir, tokenizer, tmp_path):
    source = ChatSource("chats", "zh", [chats(tmp_path / "chats.jsonl", 20)])
    data = PaddedSFTData(
        str(chatglm1_dir), [source], row_len=128, packing=packing, val_share=0.2, cache_dir=str(tmp_path)
    )
    data.trainer = FakeTrainer()
    data.prepare_data()
    data.setup("fit")
    ((store, held),) = data.held_out
    assert len(store.lengths) == 60 and store.records.tolist() == [n for n in range(20) for _ in range(3)]
    assert len(held) == 12 and (np.bincount(store.records[held], minlength=20) % 3 == 0).all()
    trained = data.rows.members[np.concatenate(data.rows.conversations), 1]
    assert not set(trained) & set(held) and len(set(trained)) == 48
    labels = [part for batch in data.train_dataloader() for part in batch["labels"][batch["labels"] >= 0].tolist()]
    assert labels.count(tokenizer.eos_id) == 48
    assert tokenizer.control_id("<sop>") not in labels


def test_a_record_with_a_system_message_is_dropped_with_its_reason(chatglm1_dir, tmp_path, caplog):
    path = tmp_path / "chats.jsonl"
    chats(path, 200)
    with path.open("a") as file:
        talk = [{"role": role, "content": "a"} for role in ("system", "user", "assistant")]
        file.write(json.dumps({"messages": talk}) + "\n")
    source = ChatSource("chats", "zh", [str(path)])
    data = PaddedSFTData(str(chatglm1_dir), [source], row_len=128, cache_dir=str(tmp_path))
    data.trainer = FakeTrainer()
    data.prepare_data()
    data.setup("fit")
    assert "no target tokens in 1 of 201 records: 1 × unknown role" in caplog.text


@pytest.mark.parametrize("case", ["answer0", "answer1", "answer2"])
def test_losses_are_those_of_the_official_code_but_for_the_given_token(case, data):
    folder = data / "chatglm1_tiny"
    tensors, expected = load_file(folder / "expected.safetensors"), json.loads((folder / "expected.json").read_text())
    tokenizer, model = load_tokenizer(folder), reference_model(folder)
    question, _, answer = expected["cases"][case]["note"].partition(";")[0].partition(" -> ")
    talk = [
        {"role": role, "content": text.strip().strip("'").replace("\\n", "\n")}
        for role, text in (("user", question), ("assistant", answer))
    ]
    ids, mask, _ = render_examples(talk, tokenizer, 100)[0]
    assert ids == tensors[f"{case}.input_ids"][0].tolist()
    fragment = Fragment(np.array(ids, np.uint32), np.array(mask))
    total, targets = loss(model, collate([pack([fragment], positions=tokenizer.positions)]))
    start = ids.index(tokenizer.control_id("<sop>"))
    given = F.cross_entropy(model(torch.tensor([ids])).logits[0, start - 1], torch.tensor(ids[start]))
    theirs = expected["cases"][case]["loss"] * (targets.numel() + 1)
    assert (total + given).item() / (targets.numel() + 1) == pytest.approx(theirs / (targets.numel() + 1), abs=1e-4)

"""From files to batches, each token is packed or counted as dropped."""

import json
import tempfile
from collections import Counter
from operator import add
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_modules import ChatSource, PackedPretrainingData, PaddedSFTData, TextSource
from glmja.conversation.formats import to_messages
from glmja.conversation.record_fields import BadConversation
from glmja.conversation.rendering import render_within
from glmja.conversation.turns import check_turns, without_unanswered
from tests.support.fake_trainer import FakeTrainer

CORPORA = [20, pytest.param(1000, marks=pytest.mark.slow)]

DOCUMENTS = st.lists(
    st.sampled_from(["", " \n", "日本語。", "図書館です。", "中国", "a", "philosophy of x " * 4, "あ" * 70, "\n行\n"])
    | st.text("あい漢a 1。", max_size=30),
    min_size=3, max_size=25,
)  # fmt: skip
ROLES = ("user", "assistant")
SAID = st.sampled_from(["", " ", "はい。", "短い", "長い" * 60, "<|user|>"])
RECORDS = st.lists(
    st.one_of(
        st.just({"messages": [{"role": "user", "content": "質問"}, {"role": "assistant", "content": "答え"}]}),
        st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "bot"]), SAID), max_size=7).map(
            lambda turns: {"messages": [{"role": role, "content": content} for role, content in turns]}
        ),
        st.lists(SAID, max_size=9).map(
            lambda said: {"messages": [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(said)]}
        ),
    ),
    min_size=4, max_size=25,
)  # fmt: skip
# most of these alone are too few to share among the devices, and then nothing is checked
USABLE = st.lists(
    st.sampled_from("山川海空").map(
        lambda text: {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "はい"}]}
    ),
    max_size=12,
)
MACHINES = st.builds(FakeTrainer, world_size=st.integers(1, 3), accumulate=st.integers(1, 2))


def written(folder, name, records):
    path = Path(folder) / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [str(path)]


def read_by_all_ranks(data, trainer):
    """Returns the tokens of the run's batches without padding, and the number of target tokens."""
    tokens, num_targets = [], 0
    for rank in range(trainer.world_size):
        trainer.global_rank = rank
        batches = data.train_dataloader().batches
        for batch in (batches[i] for i in range(len(batches))):
            rows = zip(batch["input_ids"].tolist(), batch["lengths"].tolist(), strict=True)
            tokens += [token for ids, length in rows for token in ids[:length]]
            num_targets += int((batch["labels"] != -100).sum())
    return tokens, num_targets


def planned(data, trainer):
    """Returns whether there is enough to train on; too little is refused with one of these messages."""
    data.trainer = trainer
    try:
        data.setup("fit")
    except ValueError as error:
        too_little = (
            "no text in",
            "holds fewer than `row_len`",
            "fewer than one optimizer step",
            "needed to hold one out",
            "no conversation with target tokens",
            "cannot be shared",
            "nothing is left to train on",
        )
        assert any(words in str(error) for words in too_little)
        return False
    return True


def held_out(data):
    """Returns the tokens of all records that are validated on."""
    return {tuple(store.tokens[store.starts[i] : store.starts[i + 1]].tolist()) for store, numbers in data.held_out
            for i in numbers}  # fmt: skip


@pytest.mark.parametrize("num_corpora", CORPORA)
def test_every_token_of_a_text_is_read_or_held_out_or_counted(tokenizer_dir, tokenizer, num_corpora):
    def check_source(data, entry, documents, stream, read):
        encoded = [(*tokenizer.encode(text), tokenizer.eos_id) for text in documents if text.strip()]
        distinct = list(dict.fromkeys(encoded))
        assert (entry["blank"], entry["repeated"]) == (len(documents) - len(encoded), len(encoded) - len(distinct))
        assert entry["documents"] + entry["held_out"] + entry["equal_to_held_out"] == len(distinct)
        kept = [ids for ids in distinct if ids not in held_out(data)]
        trained = [token for number in stream.documents for token in distinct[number]]
        assert sorted(trained) == sorted(token for ids in kept for token in ids) and entry["documents"] == len(kept)
        assert entry["tokens"] == len(trained)
        num_passes = -(-entry["tokens_read"] // len(trained))
        left = Counter(trained * num_passes)
        left.subtract(read)
        assert min(left.values(), default=0) >= 0 and left.total() == entry["unread_of_last_pass"]

    @settings(max_examples=num_corpora)
    @given(
        corpora=st.lists(DOCUMENTS, min_size=1, max_size=2), trainer=MACHINES, row_len=st.integers(2, 24),
        batch_size=st.integers(1, 2), val_share=st.sampled_from([0, 0.2]), epochs=st.sampled_from([None, 0.7, 2.3]),
    )  # fmt: skip
    def law(corpora, trainer, row_len, batch_size, val_share, epochs):
        with tempfile.TemporaryDirectory() as folder:
            sources = [TextSource(f"s{i}", "ja", written(folder, i, ({"text": t} for t in texts))) for i, texts in
                       enumerate(corpora)]  # fmt: skip
            data = PackedPretrainingData(
                str(tokenizer_dir), sources, row_len, batch_size, epochs=epochs, val_share=val_share, cache_dir=folder
            )
            assume(planned(data, trainer))
            read, _ = read_by_all_ranks(data, trainer)
            assert len(read) == data.ledger.facts["tokens"] == sum(e["tokens_read"] for e in data.ledger.entries)
            for i, entry in enumerate(data.ledger.entries):
                mine = [data.rows[n].input_ids.tolist() for n in range(len(data.rows)) if data.rows.sources[n] == i]
                check_source(data, entry, corpora[i], data.rows.streams[i], [token for ids in mine for token in ids])

    law()


@pytest.mark.parametrize("num_corpora", CORPORA)
def test_every_conversation_is_read_once_or_held_out_or_counted(tokenizer_dir, tokenizer, num_corpora):
    def rendered(record, row_len):
        """Returns ids and loss mask, or None without target tokens."""
        try:
            messages = without_unanswered(to_messages(record, "messages"))
            check_turns(messages)
        except BadConversation:
            return None
        ids, loss_mask, shortened = render_within(messages, tokenizer, row_len)
        return (ids, loss_mask, shortened) if any(loss_mask[1:]) else None

    @settings(max_examples=num_corpora)
    @given(
        records=st.builds(add, RECORDS, USABLE), trainer=MACHINES, row_len=st.sampled_from([16, 64, 16, 64, 8]),
        packing=st.booleans(), val_share=st.sampled_from([0, 0.2]),
    )  # fmt: skip
    def law(records, trainer, row_len, packing, val_share):
        with tempfile.TemporaryDirectory() as folder:
            sources = [ChatSource("s", "ja", written(folder, "a", records))]
            data = PaddedSFTData(
                str(tokenizer_dir), sources, row_len, 2 * row_len, packing, max_bad_share=1, val_share=val_share,
                cache_dir=folder,
            )  # fmt: skip
            assume(planned(data, trainer))
            kept = [found for found in (rendered(record, row_len) for record in records) if found]
            entry = data.ledger.entries[0]
            assert entry["dropped"] == len(records) - len(kept)
            assert entry["shortened"] == sum(shortened for _, _, shortened in kept)
            mine = [found for found in kept if tuple(found[0]) not in held_out(data)]
            assert entry["held_out"] == sum(len(numbers) for _, numbers in data.held_out)
            assert entry["read"] == len(mine) == len(kept) - entry["held_out"] - entry["equal_to_held_out"]
            read, num_targets = read_by_all_ranks(data, trainer)
            assert Counter(read) == Counter(token for ids, _, _ in mine for token in ids)
            assert num_targets == entry["target_tokens"] == sum(sum(mask) for _, mask, _ in mine)

    law()

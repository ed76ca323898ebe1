"""`benchmarks.tokenizer.peer`: all but the other toolkit, which needs an environment of its own."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.harness.process_cost import Cost
from benchmarks.tokenizer.effects import Sentences
from benchmarks.tokenizer.peer import POLICY, filter_and_cut, grow_peer, row, take_part
from glmja.files.documents import read_documents
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import append_pieces


def written(path, documents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), "utf-8")
    return path


def test_filtering_keeps_the_order_and_leaves_out_what_the_base_has_or_the_policy_rejects(base_tokenizer):
    has = next(p.piece for p in base_tokenizer.proto.pieces if p.piece.isalpha() and p.piece.isascii())
    learned = ["自分", "について", has, "、「", "自分が", "▁この", "a」", "それは"]
    assert filter_and_cut(learned, base_tokenizer.proto, 3) == ["について", "自分が", "▁この"]


def test_a_list_that_is_too_short_after_the_filter_is_refused(base_tokenizer):
    with pytest.raises(ValueError, match="the policy admits only 1 pieces, not 2; raise --surplus"):
        filter_and_cut(["自分", "について"], base_tokenizer.proto, 2)


def test_a_part_has_whole_documents_until_it_has_the_characters_asked_for(tmp_path):
    documents = [f"{i}\u2028" * 10 for i in range(100, 200)]  # a line separator of Unicode ends no line of the file
    training = tmp_path / "all.jsonl"
    training.write_text("".join(json.dumps({"text": x}, ensure_ascii=False) + "\n" for x in documents), "utf-8")
    assert take_part(training, tmp_path / "part.jsonl", 390) == 400
    part = list(read_documents([tmp_path / "part.jsonl"]))
    assert len(part) == 10 and set(part) < set(documents)
    assert part != documents[:10]  # the file has its sources one after another


def test_more_characters_than_there_are_are_refused(tmp_path):
    training = written(tmp_path / "all.jsonl", ["字" * 40])
    with pytest.raises(ValueError, match="the training documents have 40 characters, fewer than 41"):
        take_part(training, tmp_path / "part.jsonl", 41)


def test_a_row_counts_changed_sentences_unreachable_pieces_and_multiples_of_our_cost(tmp_path, base_tokenizer):
    held_out = {"aozora": ["自分が"], "rest": ["字" * 7]}
    files = {"zh": ["自分。自信。天地。玄黄。"], "en": ["one two"]}
    others = {
        lang: Sentences(written(tmp_path / f"{lang}.jsonl", texts), base_tokenizer, [POLICY])
        for lang, texts in files.items()
    }
    rows = {}
    for name, pieces in {"as it comes": ["自分", "自分が"], "filtered": ["自分が", "かは"]}.items():
        (tmp_path / name).mkdir()
        GLMTokenizer(append_pieces(base_tokenizer.proto, pieces)).save(tmp_path / name)
        cost = Cost(seconds=9, cpu_seconds=30, peak_bytes=5 * 10**8, read_bytes=0, written_bytes=0)
        ours = Cost(seconds=1, cpu_seconds=2, peak_bytes=10**9, read_bytes=0, written_bytes=0)
        rows[name] = row(tmp_path / name, cost, ours, held_out, others, len(base_tokenizer))
    num_tokens = len(base_tokenizer.encode("字" * 7))
    rest = f"{num_tokens / 7:.4f}"
    costs = ["30", "15.0", "0.50", "0.5"]
    assert rows["as it comes"][1:2] + rows["as it comes"][4:] == ["2", rest, "25.00 %", "1", "0.00 %", "0", "0", *costs]
    assert rows["as it comes"][3] == "0.6667"  # ▁ and the new piece
    assert rows["filtered"][6:] == ["0", "0.00 %", "0", "1", *costs]  # 自分が has lost the step to it


def test_the_peer_runs_in_its_environment_and_its_error_is_shown(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)tokenizer_extension_peer\.py .*No module named 'tokenizer_extension'"):
        grow_peer(Path(sys.executable), tmp_path, tmp_path / "part.jsonl", 10, tmp_path / "peer")

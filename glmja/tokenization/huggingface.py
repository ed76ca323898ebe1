"""Writes the tokenizer as Hugging Face files, for `AutoTokenizer` without remote code.

SentencePiece merges the neighbors whose concatenation is the piece with the highest score; Hugging Face's BPE merges
the pair with the lowest rank. If all scores are distinct, the two are equal: the pairs are all splits of a piece into
two pieces, ranked by its score. With ties, as in the published merge, they differ. Hugging Face looks up single
characters before it merges, so a piece is only reachable if its characters are pieces, too. `check` tests both.

One difference remains: Hugging Face turns text that spells the name of a control token into that token, as chat
templates require. `AutoTokenizer.from_pretrained(..., split_special_tokens=True)` disables this; `GLMTokenizer` never
does it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from glmja.files.json_files import write_json
from glmja.tokenization.chat_template import CHAT_TEMPLATE, RESPONSE_TEMPLATE
from glmja.tokenization.decoder import decoder_json
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import WORD_BOUNDARY, Piece


def merges(tokenizer: GLMTokenizer) -> list[tuple[str, str]]:
    """Returns every split of a piece into two pieces, by the score of the piece, highest first.

    Splits of one piece have equal rank in SentencePiece, which then merges the leftmost first. Where two of them
    compete for the same characters, they overlap in a string that both begins and ends the piece; the split with the
    shorter left part comes first.
    """
    normal = {p.piece for p in tokenizer.proto.pieces if p.type == Piece.NORMAL}
    by_score = sorted((p for p in tokenizer.proto.pieces if p.type == Piece.NORMAL), key=lambda p: -p.score)
    return list(chain.from_iterable(_splits(p.piece, normal) for p in by_score))


def _splits(piece: str, pieces: set[str]) -> list[tuple[str, str]]:
    pairs = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
    return [(left, right) for left, right in pairs if left in pieces and right in pieces]


def check(tokenizer: GLMTokenizer) -> list[str]:
    """Returns the reasons why Hugging Face's BPE would yield other ids; empty if it yields the same."""
    if tokenizer.algorithm != "BPE":
        return [f"the vocabulary is made for the algorithm {tokenizer.algorithm}"]
    pieces = [p for p in tokenizer.proto.pieces if p.type == Piece.NORMAL]
    normal = {p.piece for p in pieces}
    failures = []
    if len({p.score for p in pieces}) != len(pieces):
        failures.append("two pieces have the same score")
    missing = sorted({c for p in pieces for c in p.piece} - normal)
    if missing:
        failures.append(f"pieces contain characters that are not pieces: {''.join(missing[:20])}")
    return failures


def tokenizer_json(tokenizer: GLMTokenizer) -> dict[str, object]:
    """Returns the content of `tokenizer.json`."""
    control = tokenizer.control_tokens
    special = {"<unk>": 0, **control}
    prefix = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("[gMASK]", "<sop>")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for name, i in sorted(special.items(), key=lambda item: item[1])
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": WORD_BOUNDARY},
                {"type": "Replace", "pattern": {"String": " "}, "content": WORD_BOUNDARY},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*prefix, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [*prefix, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                name: {"id": name, "ids": [control[name]], "tokens": [name]} for name in ("[gMASK]", "<sop>")
            },
        },
        "decoder": decoder_json(WORD_BOUNDARY),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {p.piece: i for i, p in enumerate(tokenizer.proto.pieces)},
            "merges": [list(pair) for pair in merges(tokenizer)],
        },
    }  # fmt: skip


def load_backend(folder: str | Path) -> Tokenizer:
    """Loads a `tokenizer.json` so that names of control tokens in text stay text, as in `GLMTokenizer`."""
    backend = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    backend.encode_special_tokens = True
    return backend


def save(tokenizer: GLMTokenizer, folder: str | Path, model_max_length: int = 8192) -> list[str]:
    """Writes the tokenizer's own file, and Hugging Face's files if they yield the same ids.

    These are `tokenizer.json`, `tokenizer_config.json` and, for a vocabulary with roles, `chat_template.jinja`.

    Args:
        tokenizer: The tokenizer.
        folder: An existing folder.
        model_max_length: Maximum sequence length of the model, in tokens.

    Returns:
        The reasons why Hugging Face's files were not written; empty if they were.
    """
    folder = Path(folder)
    tokenizer.save(folder)
    if reasons := check(tokenizer):
        return reasons
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "eos_token": "</s>",
        "additional_special_tokens": [n for n in tokenizer.control_tokens if n not in ("<s>", "</s>")],
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if tokenizer.has_roles:
        config["response_template"] = RESPONSE_TEMPLATE
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer), ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)
    return []


def describe_saved(reasons: Sequence[str]) -> str:
    """Describes the result of `save` for a report: `written`, or `left out` with the first reason."""
    return f"left out: {reasons[0]}" if reasons else "written"

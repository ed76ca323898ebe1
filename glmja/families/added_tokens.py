"""Tokens that the JSON files beside a tokenizer add to it.

ChatGLM3 has 226 rows more than ids. `add_tokens` of Hugging Face's tokenizers, as trainers call it, gives the ids of
these rows to new tokens, which train; `tokenizer.model` does not know them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import ModelError
from glmja.families.evidence import DeclaredToken
from glmja.tokenization.vocabulary import Piece

# what ChatGLM's tokenizer code calls tokens that have other names here; the last three are further names of tokens
_CHATGLM_NAMES = {"sop": "<sop>", "eop": "<eop>"}
_SECOND_NAMES = {"<bos>": "<s>", "<eos>": "</s>", "<pad>": "<unk>"}


def with_added_tokens(
    proto: spm.ModelProto,
    declared: Sequence[DeclaredToken],
    num_rows: int | None,
    folder: Path,
    of_families: Set[str] = frozenset(),
) -> spm.ModelProto:
    """Returns the model with the added tokens at their ids, as control pieces; unchanged if there are none.

    Args:
        proto: The model, control pieces included.
        declared: The tokens that the files beside it declare.
        num_rows: Number of rows in the model's embeddings; None if unknown.
        folder: The folder, for messages.
        of_families: Control tokens of all families; that this model is of one that lacks them was decided before.

    Raises:
        ModelError: If the files contradict each other or the model, leave ids without a token, or list a token
            without an id.
    """
    added: dict[int, DeclaredToken] = {}
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    for token in declared:
        if token.id is not None and ids.get(_SECOND_NAMES.get(token.name, "")) != token.id:
            _check(token, proto, ids, added, num_rows, folder)
            if token.id >= len(proto.pieces):
                added.setdefault(token.id, token)
                ids[_name(token)] = token.id
    for token in declared:
        known = token.id is not None or {_name(token), _SECOND_NAMES.get(token.name)} & (ids.keys() | of_families)
        if not known:
            # a tokenizer of Hugging Face would give it the next id, whose row may have been trained
            raise ModelError(
                f"{folder / token.file} lists {token.name[:40]!r} among its special tokens, but no file gives its id; "
                "give the id in added_tokens.json, or remove the token"
            )
    if not added:
        return proto
    for number, token_id in enumerate(sorted(added), len(proto.pieces)):
        if token_id != number:
            raise ModelError(
                f"{_said(folder, added[token_id])}, but no file gives a token the id {number}; name the tokens of all "
                f"ids from {len(proto.pieces)} on in added_tokens.json"
            )
    complete = spm.ModelProto()
    complete.CopyFrom(proto)
    for token_id in sorted(added):
        complete.pieces.add(piece=_name(added[token_id]), score=0.0, type=Piece.CONTROL)
    complete.trainer_spec.vocab_size = len(complete.pieces)
    return complete


def _check(
    token: DeclaredToken,
    proto: spm.ModelProto,
    ids: Mapping[str, int],
    added: Mapping[int, DeclaredToken],
    num_rows: int | None,
    folder: Path,
) -> None:
    """Refuses a token that contradicts a piece, a token before it, or the number of rows."""
    assert token.id is not None
    name, fact = _name(token), None
    if not name or token.id < 0:
        fact = "a token needs a name and an id that is not negative"
    elif ids.get(name, token.id) != token.id:
        where = added[ids[name]].file if ids[name] in added else "tokenizer.model"
        fact = f"{where} gives it the id {ids[name]}"
    elif token.id < len(proto.pieces) and name not in ids:
        fact = f"the id is that of {proto.pieces[token.id].piece!r} in tokenizer.model"
    elif token.id in added and _name(added[token.id]) != name:
        fact = f"{added[token.id].file} gives the id to {added[token.id].name!r}"
    elif num_rows is not None and token.id >= num_rows:
        fact = f"config.json has {num_rows} rows"
    if fact is not None:
        raise ModelError(f"{_said(folder, token)}, but {fact}; correct or remove the wrong file")


def _name(token: DeclaredToken) -> str:
    return _CHATGLM_NAMES.get(token.name, token.name)


def _said(folder: Path, token: DeclaredToken) -> str:
    return f"{folder / token.file} gives {token.name[:40]!r} the id {token.id}"

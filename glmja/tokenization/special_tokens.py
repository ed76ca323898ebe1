"""Control tokens that a user adds: pieces of type CONTROL, which no text yields.

They follow the new pieces, so that `embeddings: new_rows` trains their rows, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import ModelError
from glmja.tokenization.vocabulary import Piece

_FORM = re.compile(r"<[^\s<>]{1,60}>|\[[^\s\[\]]{1,60}\]")


def with_special_tokens(proto: spm.ModelProto, names: Sequence[str]) -> spm.ModelProto:
    """Returns a copy of the model with control pieces appended.

    Raises:
        ModelError: If the model has a piece of a name.
    """
    extended = spm.ModelProto()
    extended.CopyFrom(proto)
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    for name in names:
        if name in ids:
            raise ModelError(f"`special_tokens` {name!r} is in the vocabulary already, with the id {ids[name]}")
        extended.pieces.add(piece=name, score=0.0, type=Piece.CONTROL)
    extended.trainer_spec.vocab_size = len(extended.pieces)
    return extended


def check_names(names: Sequence[str]) -> None:
    """Checks the names of special tokens.

    Hugging Face's tokenizers turn text that spells a name into its token, so a name must not occur in text by chance.

    Raises:
        ValueError: If a name has not the form `<name>` or `[name]`, or occurs twice.
    """
    for name in names:
        if not _FORM.fullmatch(name):
            raise ValueError(
                f"`special_tokens` {name!r} could occur in a text; write a name between < and > or [ and ], without "
                "spaces, such as <|law|>"
            )
        if names.count(name) > 1:
            raise ValueError(f"`special_tokens` {name!r} is given twice")

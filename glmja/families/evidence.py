"""Collects evidence of a model's family from the files of its folder.

Only contents count: neither the folder's name nor a path in a file (`_name_or_path`) is evidence, since models are
trained, copied and renamed. Code beside a model is parsed, never executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.errors import ModelError
from glmja.files.json_files import read_json
from glmja.tokenization.tokenizer import PLACEHOLDERS
from glmja.tokenization.vocabulary import Piece
from glmja.weights.chatglm_layout import Config

_MAX_DIGITS = 9  # of an id
_BACKEND = "tokenizer.json"
_MAX_CODE_BYTES = 1 << 20  # ChatGLM3's tokenizer code has 14 kB


@dataclass(frozen=True)
class DeclaredToken:
    """A special token that a JSON file of a tokenizer declares.

    Attributes:
        name: The token.
        id: Its id, or None if no file gives one.
        file: Name of the file.
    """

    name: str
    id: int | None
    file: str


@dataclass(frozen=True)
class Evidence:
    """The facts that a family can be recognized from.

    Attributes:
        config: The content of `config.json`; empty if there is none.
        num_pieces: Number of pieces in the tokenizer's file.
        special_pieces: Names and ids of its control pieces, and of the first placeholder for such.
        declared_tokens: Special tokens that the JSON files beside it declare.
        code_constants: The string constants of each `tokenization_*.py` beside it.
    """

    config: Config
    num_pieces: int
    special_pieces: Mapping[str, int]
    declared_tokens: tuple[DeclaredToken, ...]
    code_constants: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, folder: Path, proto: spm.ModelProto, config: Config, declared: Sequence[DeclaredToken]) -> Evidence:
        """Reads the small files of a folder.

        Args:
            folder: The folder.
            proto: The content of its tokenizer's file.
            config: The content of its `config.json`.
            declared: The tokens that its JSON files declare.
        """
        special = {
            p.piece: i for i, p in enumerate(proto.pieces) if p.type == Piece.CONTROL or p.piece == PLACEHOLDERS[0]
        }
        # what tokenizer.model itself defines is final: other files can only add tokens
        decided = "[gMASK]" in special or PLACEHOLDERS[0] in special
        return cls(
            config,
            len(proto.pieces),
            special,
            () if decided else tuple(_distinct(declared)),
            {} if decided else {path.name: _constants(path) for path in sorted(folder.glob("tokenization_*.py"))},
        )


def declared_tokens(folder: Path) -> list[DeclaredToken]:
    """Returns the special and added tokens that the JSON files of a tokenizer declare, each as often as they do.

    Raises:
        ModelError: If a file is damaged.
    """
    return [
        DeclaredToken(name, token_id, file)
        for file in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", _BACKEND)
        if (folder / file).is_file()
        for name, token_id in _tokens_in(folder / file)
    ]


def _distinct(declared: Iterable[DeclaredToken]) -> list[DeclaredToken]:
    """Returns each token once, with the first file and the first id."""
    found: dict[str, str] = {}
    ids: dict[str, int] = {}
    for token in declared:
        found.setdefault(token.name, token.file)
        if token.id is not None:
            ids.setdefault(token.name, token.id)
    return [DeclaredToken(name, ids.get(name), file) for name, file in found.items()]


def _tokens_in(path: Path) -> Iterator[tuple[str, int | None]]:
    """Yields the tokens of a file and their ids; a value of another type would be a token that is lost."""
    content = read_json(path)
    if path.name == "added_tokens.json":  # {"<|user|>": 64795}
        for name, token_id in content.items():
            if type(token_id) is not int:
                raise _unreadable(path, name, token_id, "the id of a token")
            yield name, token_id
        return
    if path.name == _BACKEND:  # {"added_tokens": [{"id": 64795, "content": "<|user|>", …}]}
        yield from _tokens_in_backend(path, content.get("added_tokens"))
        return
    decoder = content.get("added_tokens_decoder")
    if decoder is not None and not isinstance(decoder, dict):
        raise _unreadable(path, "added_tokens_decoder", decoder, "an object")
    for token_id, token in (decoder or {}).items():  # {"64795": {"content": "<|user|>", …}}
        if not token_id.isdecimal() or len(token_id) > _MAX_DIGITS:
            raise _unreadable(path, "added_tokens_decoder", token_id, "the id of a token")
        yield _name(path, token_id, token), int(token_id)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        tokens = content.get(key)
        if isinstance(tokens, dict) and key == "extra_special_tokens":  # names of attributes, as {"image": "<img>"}
            tokens = list(tokens.values())
        if tokens is not None and not isinstance(tokens, list):
            raise _unreadable(path, key, tokens, "a list of tokens")
        yield from ((_name(path, key, token), None) for token in tokens or ())


def _tokens_in_backend(path: Path, tokens: object) -> Iterator[tuple[str, int]]:
    if tokens is not None and not isinstance(tokens, list):
        raise _unreadable(path, "added_tokens", tokens, "a list of tokens")
    for token in tokens or ():
        token_id = token.get("id") if isinstance(token, dict) else None
        if type(token_id) is not int:
            raise _unreadable(path, "added_tokens", token, "a token with an id")
        yield _name(path, "added_tokens", token), token_id


def _name(path: Path, key: str, token: object) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise _unreadable(path, key, token, "a token")
    return content


def _unreadable(path: Path, key: str, value: object, what: str) -> ModelError:
    return ModelError(f"{path}: {key[:40]} has {str(value)[:40]!r} where {what} must be; correct or remove the file")


def _constants(path: Path) -> frozenset[str]:
    """The string constants of Python code; none if it cannot be parsed."""
    try:
        if path.stat().st_size > _MAX_CODE_BYTES:
            return frozenset()
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return frozenset(node.value for node in nodes if isinstance(node.value, str))

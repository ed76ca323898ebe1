"""Recognizes the family of a model folder, and loads its tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path

from sentencepiece.sentencepiece_model_pb2 import ModelProto

from glmja.errors import ModelError
from glmja.families.added_tokens import with_added_tokens
from glmja.families.chatglm1 import CHATGLM1
from glmja.families.chatglm2 import CHATGLM2
from glmja.families.chatglm3 import CHATGLM3
from glmja.families.evidence import Evidence, declared_tokens
from glmja.families.family import Family
from glmja.files.folder_kinds import check_model_folder
from glmja.files.json_files import read_json
from glmja.tokenization.tokenizer import GLMTokenizer, read_proto, with_control_tokens
from glmja.weights.chatglm_layout import Config

FAMILIES = (CHATGLM3, CHATGLM2, CHATGLM1)

_EITHER = f"{CHATGLM3.name} or {CHATGLM2.name}"

_FIRST_TRANSFORMERS_OF_CHATGLM3 = (4, 30)  # its README requires 4.30.2; ChatGLM2 and CodeGeeX2 say 4.27.1
_SEQ_LENGTHS_OF_CHATGLM3 = (8192, 131072)  # 6B and 128K; its base model and 32K have 32,768, as all ChatGLM2 have

_log = logging.getLogger(__name__)


def family_named(name: str) -> Family:
    """Returns the family of a name.

    Raises:
        ValueError: If there is none.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ValueError(f"`family` {name!r} is unknown; known are {', '.join(family.name for family in FAMILIES)}")


def family_of(tokenizer: GLMTokenizer) -> Family:
    """Returns the family of a loaded tokenizer, by its control tokens.

    Raises:
        ModelError: If they are those of no family.
    """
    defined = tokenizer.control_tokens
    for family in FAMILIES:
        ids = [defined.get(name, -1) for name in family.control_tokens]
        if ids == [*range(ids[0], ids[0] + len(ids))]:
            return family
    found = ", ".join(sorted(defined, key=defined.__getitem__)[:10])
    raise ModelError(f"its control tokens ({found}) are those of no family; take the file of the published model")


def recognize(folder: Path, evidence: Evidence, name: str | None = None) -> Family:
    """Recognizes a family by the evidence in its files.

    Args:
        folder: The folder, for messages.
        evidence: What its files say.
        name: The family that the user named, if any; it decides where the files say nothing or contradict themselves.

    Raises:
        ModelError: If the files speak for two families, or not for the one that was named.
        ValueError: If no family has the name.
    """
    facts = {family.name: list(family.facts(evidence)) for family in FAMILIES}
    candidates = [family for family in FAMILIES if facts[family.name]]
    if name is not None:
        named = family_named(name)
        if candidates and named not in candidates:
            other = candidates[0]
            raise ModelError(f"{folder}: `family` is {named.title}, but {facts[other.name][0]}, as of {other.title}")
        return named
    if len(candidates) > 1:
        said = " but ".join(f"{facts[family.name][0]} ({family.title})" for family in candidates)
        names = " or ".join(family.name for family in candidates)
        raise ModelError(f"{folder}: {said}; remove the wrong file, or set `family` to {names}")
    return candidates[0] if candidates else _by_config(folder, evidence.config)


def tokenizer_file(folder: Path) -> str | None:
    """Returns the name of the tokenizer's file in a folder; None if it has none."""
    return next((known.tokenizer_file for known in FAMILIES if (folder / known.tokenizer_file).is_file()), None)


def load_tokenizer(folder: str | Path, family: str | None = None, config: Config | None = None) -> GLMTokenizer:
    """Loads the tokenizer of a ChatGLM folder, of a folder written by glmja, or of the published Japanese merge.

    Tokens that the JSON files beside it add at further ids are its control tokens, too, so that their rows are kept.

    Args:
        folder: Folder of the tokenizer's file.
        family: Name of the family; recognized by the folder's files if None.
        config: The content of the folder's `config.json`; read, if there is one, if None.

    Raises:
        TokenizerNotFoundError: If the folder has no tokenizer.
        ValueError: If a file is damaged, the family cannot be recognized, or an added token contradicts another file.
    """
    folder = Path(folder)
    file = tokenizer_file(folder)
    if file is None:
        check_model_folder(folder)
    proto = read_proto(folder, file) if file else read_proto(folder)
    if config is None:
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    declared = declared_tokens(folder)
    recognized = recognize(folder, Evidence.read(folder, proto, config, declared), family)
    num_rows = config.get("padded_vocab_size", config.get("vocab_size"))
    own = with_control_tokens(proto, recognized.control_tokens)
    try:
        complete = with_added_tokens(
            own,
            declared,
            num_rows if type(num_rows) is int else None,
            folder,
            {name for known in FAMILIES for name in known.control_tokens},
        )
    except ModelError:
        _create(recognized, own, folder)  # other files contradict a damaged tokenizer.model, which is what is wrong
        raise
    return _create(recognized, complete, folder)


def _create(family: Family, proto: ModelProto, folder: Path) -> GLMTokenizer:
    try:
        tokenizer = family.tokenizer_class(proto)
        family_of(tokenizer)
        return tokenizer
    except ValueError as error:
        raise ModelError(f"{folder / family.tokenizer_file}: {error}") from error


def _by_config(folder: Path, config: Config) -> Family:
    """Recognizes a family where no file names control tokens: a bare tokenizer, and ChatGLM3's own lengths."""
    written_by = str(config.get("transformers_version", ""))
    version = tuple(int(part) for part in written_by.split(".")[:2] if part.isdecimal() and len(part) < 10)
    if len(version) == 2 and version < _FIRST_TRANSFORMERS_OF_CHATGLM3:
        raise ModelError(
            f"{folder}: no file names the tokenizer's control tokens, and config.json was written by transformers "
            f"{written_by}, older than ChatGLM3; put tokenization_chatglm.py beside it, or set `family` to {_EITHER}"
        )
    length = config.get("seq_length", config.get("max_position_embeddings"))
    if config and length not in _SEQ_LENGTHS_OF_CHATGLM3:
        raise ModelError(
            f"{folder}: ChatGLM2 or ChatGLM3? No file names the tokenizer's control tokens (tokenization_chatglm.py, "
            f"tokenizer_config.json …), and config.json has seq_length {str(length)[:20]}, which does not "
            f"distinguish them; set `family` to {_EITHER}"
        )
    reason = f"config.json has seq_length {length}" if config else "there is no config.json"
    _log.warning("%s: no file names the tokenizer's control tokens; %s: taken as %s", folder, reason, CHATGLM3.title)
    return CHATGLM3

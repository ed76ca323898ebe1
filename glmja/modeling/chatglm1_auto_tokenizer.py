"""ChatGLM-6B's tokenizer for `AutoTokenizer` and the pipelines of `transformers`.

It encodes and decodes as `ChatGLM1Tokenizer`; text that spells a control token stays text. Importing this module
registers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoTokenizer, PreTrainedTokenizer

from glmja.modeling.chatglm1_config import ChatGLM1Config
from glmja.tokenization.chatglm1_tokenizer import ChatGLM1Tokenizer
from glmja.tokenization.tokenizer import read_proto


class ChatGLM1AutoTokenizer(PreTrainedTokenizer):
    """Encodes prompts with `[gMASK] <sop>` at their end, padded on the left."""

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": ChatGLM1Tokenizer.file_name}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    padding_side: ClassVar[str] = "left"

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        """Reads the vocabulary.

        Args:
            vocab_file: Path of `ice_text.model`.
            kwargs: Settings of every tokenizer of transformers.
        """
        path = Path(vocab_file)
        self.glm = ChatGLM1Tokenizer(read_proto(path.parent, path.name))
        self._ids = {piece.piece: i for i, piece in enumerate(self.glm.proto.pieces)}
        tokens = {"bos_token": "<sop>", "eos_token": "<eop>", "pad_token": "<pad>", "unk_token": "<unk>"}
        super().__init__(**kwargs | tokens | {"split_special_tokens": True})

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.glm)

    def get_vocab(self) -> dict[str, int]:
        """Returns the pieces and their ids."""
        return dict(self._ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self.glm.piece(i) for i in self.glm.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return self.glm.piece(index)

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, *args: Any, **kwargs: Any) -> str:
        ids, control = [token_ids] if isinstance(token_ids, int) else token_ids, set(self.glm.control_tokens.values())
        if skip_special_tokens:
            return self.glm.decode(list(ids))
        parts = [(is_control, list(part)) for is_control, part in groupby(ids, control.__contains__)]
        return "".join("".join(map(self.glm.piece, p)) if is_control else self.glm.decode(p) for is_control, p in parts)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Returns a prompt, or with a second text a prompt and its answer."""
        answer = [] if token_ids_1 is None else [*token_ids_1, self.glm.eos_id]
        return [*self.glm.prompt_ids(token_ids_0), *answer]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Writes the vocabulary; returns its path."""
        name = f"{filename_prefix}-{self.glm.file_name}" if filename_prefix else self.glm.file_name
        path = Path(save_directory) / name
        path.write_bytes(self.glm.proto.SerializeToString(deterministic=True))
        return (str(path),)


AutoTokenizer.register(ChatGLM1Config, slow_tokenizer_class=ChatGLM1AutoTokenizer)

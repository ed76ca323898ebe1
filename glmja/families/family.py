"""The interface of a model family.

A family is what the files of a model folder do not say by themselves: which control tokens follow the pieces of the
vocabulary, how a chat is written, and how `config.json` is to be read. Code asks the family for these, never which
family it is; what distinguishes networks is in `glmja.weights.architecture`.

To add a family, write one module with a `Family` and add it to `glmja.families.recognition.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from glmja.errors import ModelError
from glmja.families.evidence import Evidence
from glmja.families.names import FamilyName, PromptFormat
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.chatglm_layout import Config


@dataclass(frozen=True)
class Family:
    """Properties that distinguish a model family.

    Attributes:
        name: The name by which users give it.
        title: The name in messages.
        tokenizer_file: Name of the tokenizer's file in a model folder.
        tokenizer_class: Class of its tokenizers; it says with which ids a sequence begins and a reply ends.
        control_tokens: Control tokens, in the order of their ids above the vocabulary's own pieces.
        prompt_format: The chat format that its models were tuned on.
        facts: Yields the facts in a folder's files that only a model of this family has, as clauses of a sentence.
        check_config: Raises ModelError if a model of this family with this `config.json` cannot be represented,
            although one of another family can.
        clean_reply: Returns a decoded reply as the family's own code shows it.
        temperature: Divisor of the logits with which its own code samples.
        top_p: Probability mass that its own code samples from.
        cannot_grow: Why its vocabulary cannot be extended, as a clause of a sentence; None if it can.
    """

    name: FamilyName
    title: str
    tokenizer_file: str
    tokenizer_class: type[GLMTokenizer]
    control_tokens: tuple[str, ...]
    prompt_format: PromptFormat
    facts: Callable[[Evidence], Iterator[str]]
    check_config: Callable[[Config], None] = lambda config: None
    clean_reply: Callable[[str], str] = str
    temperature: float = 0.8
    top_p: float = 0.8
    cannot_grow: str | None = None

    def check_can_grow(self, folder: str | Path) -> None:
        """Checks that the vocabulary of a model can be extended.

        Args:
            folder: The model's folder, for the message.

        Raises:
            ModelError: If not; says why.
        """
        if self.cannot_grow is not None:
            raise ModelError(f"{folder}: the vocabulary of {self.title} cannot be extended: {self.cannot_grow}")

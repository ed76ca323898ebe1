"""The interface of a model family.

A family is what the files of a model folder do not say by themselves: which control tokens follow the pieces of the
vocabulary, how a chat is written, and how `config.json` is to be read. Code asks the family for these, never which
family it is; what distinguishes networks is in `glmja.weights.architecture`.

To add a family, write one module with a `Family` and add it to `glmja.families.recognition.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from glmja.families.evidence import Evidence
from glmja.families.names import FamilyName, PromptFormat
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.chatglm_layout import Config


@dataclass(frozen=True)
class Family:
    """What distinguishes a model family.

    Attributes:
        name: The name by which users give it.
        title: The name in messages.
        tokenizer_file: Name of the tokenizer's file in a model folder.
        tokenizer_class: Class of its tokenizers; it says with which ids a sequence begins and a reply ends.
        control_tokens: Control tokens, in the order of their ids above the vocabulary's own pieces.
        prompt_format: The chat format that its models were tuned on.
        has_roles: Whether its chat format marks messages with role tokens.
        facts: Yields the facts in a folder's files that only a model of this family has, as clauses of a sentence.
        to_runtime_config: Converts the content of `config.json` to the config that the running model has; raises
            ModelError if the model cannot be represented.
    """

    name: FamilyName
    title: str
    tokenizer_file: str
    tokenizer_class: type[GLMTokenizer]
    control_tokens: tuple[str, ...]
    prompt_format: PromptFormat
    has_roles: bool
    facts: Callable[[Evidence], Iterator[str]]
    to_runtime_config: Callable[[Config], Config]

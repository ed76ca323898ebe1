"""ChatGLM2-6B (6B and 32K) and CodeGeeX2-6B, which has the same architecture and tokenizer.

Sources: `tokenization_chatglm.py`, `modeling_chatglm.py` and `config.json` of https://huggingface.co/THUDM/chatglm2-6b
and https://huggingface.co/THUDM/codegeex2-6b. The vocabulary is ChatGLM3's; the tokenizer class appends five control
tokens to it, none of them for roles: chats are numbered rounds of plain text.
"""

from __future__ import annotations

from collections.abc import Iterator

from glmja.errors import ModelError
from glmja.families.chatglm3 import CHATGLM3
from glmja.families.evidence import Evidence
from glmja.families.family import Family
from glmja.tokenization.tokenizer import FILE_NAME, ROLE_TOKENS, GLMTokenizer, has_role_tokens
from glmja.weights.chatglm_layout import Config

CONTROL_TOKENS = CHATGLM3.control_tokens[:5]

_CODEGEEX2_KEYS = ("interleaved_qkv", "rotary_percent")  # in its config.json, and in no ChatGLM3's


def _facts(evidence: Evidence) -> Iterator[str]:
    pieces = evidence.special_pieces
    first = pieces.get("[gMASK]", -1)
    in_place = [pieces.get(name) for name in CONTROL_TOKENS[1:]] == [*range(first, first + 4)]
    if in_place and not has_role_tokens(pieces):
        yield f"{FILE_NAME} defines [gMASK] but no role token after <eop>"
    for token in evidence.declared_tokens:
        if token.name in ROLE_TOKENS and token.id is not None:
            expected = evidence.num_pieces + CHATGLM3.control_tokens.index(token.name)
            if token.id != expected:
                yield f"{token.file} gives {token.name} the id {token.id}, which in ChatGLM3 is {expected}"
    for file, constants in evidence.code_constants.items():
        if "[gMASK]" in constants and not constants & set(ROLE_TOKENS):
            yield f"{file} names [gMASK] but no role token"
    for key in _CODEGEEX2_KEYS:
        if key in evidence.config:
            yield f"config.json has {key}"


def _check_config(config: Config) -> None:
    if config.get("model_type") == "chatglm" and config.get("rope_ratio", 1) != 1:
        raise ModelError(
            f"the ChatGLM2 config has rope_ratio = {config['rope_ratio']!r}: ChatGLM2 interpolates positions by it, "
            "ChatGLM3 scales the rotary base; only the latter can be converted"
        )


CHATGLM2 = Family(
    name="chatglm2",
    title="ChatGLM2",
    tokenizer_file=FILE_NAME,
    tokenizer_class=GLMTokenizer,
    control_tokens=CONTROL_TOKENS,
    prompt_format="chatglm2",
    facts=_facts,
    check_config=_check_config,
)

"""ChatGLM3-6B: the base model, 6B, 32K and 128K.

Sources: `tokenization_chatglm.py` and `config.json` of https://huggingface.co/THUDM/chatglm3-6b. The tokenizer class
appends nine control tokens to the 64,789 pieces of `tokenizer.model`; four of them open the messages of a chat.
"""

from __future__ import annotations

from collections.abc import Iterator

from glmja.families.evidence import Evidence
from glmja.families.family import Family
from glmja.tokenization.tokenizer import FILE_NAME, PLACEHOLDERS, ROLE_TOKENS, GLMTokenizer, has_role_tokens

# ChatGLM writes `sop` and `eop` bare; as the string `sop` a Hugging Face tokenizer would find the token inside
# "philosophy", so they are named as GLM-4 names them.
CONTROL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLE_TOKENS)


def _facts(evidence: Evidence) -> Iterator[str]:
    pieces = evidence.special_pieces
    if has_role_tokens(pieces):
        yield f"{FILE_NAME} defines {ROLE_TOKENS[0]}"
    elif PLACEHOLDERS[0] in pieces:
        yield f"{FILE_NAME} has the placeholders of nine control tokens ({PLACEHOLDERS[0]} …)"
    for token in evidence.declared_tokens:
        expected = evidence.num_pieces + CONTROL_TOKENS.index(token.name) if token.name in ROLE_TOKENS else None
        if expected is not None and token.id in (None, expected):
            yield f"{token.file} defines {token.name}"
    for file, constants in evidence.code_constants.items():
        if roles := [token for token in ROLE_TOKENS if token in constants]:
            yield f"{file} names {roles[0]}"


CHATGLM3 = Family(
    name="chatglm3",
    title="ChatGLM3",
    tokenizer_file=FILE_NAME,
    tokenizer_class=GLMTokenizer,
    control_tokens=CONTROL_TOKENS,
    prompt_format="chatglm3",
    facts=_facts,
)

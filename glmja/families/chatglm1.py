"""ChatGLM-6B of March 2023.

Sources: `tokenization_chatglm.py`, `modeling_chatglm.py` (`chat`, `process_response`) and `config.json` of
https://huggingface.co/THUDM/chatglm-6b, revision 8b7d3359.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from glmja.families.evidence import Evidence
from glmja.families.family import Family
from glmja.tokenization.chatglm1_tokenizer import ChatGLM1Tokenizer

CONTROL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")

_LAST = CONTROL_TOKENS[-1]
_FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_HAN = "[\u4e00-\u9fff]"


def clean_reply(text: str) -> str:
    """Returns a reply as the original `chat` returns it: the vocabulary has no ，！：；？, which Chinese text needs.

    A mark becomes full-width beside a Chinese character; a placeholder for the date of the training is filled in.

    Args:
        text: The decoded reply.
    """
    text = text.strip().replace("[[训练时间]]", "2023年")
    for mark, full in _FULL_WIDTH.items():
        text = re.sub(f"({_HAN}){re.escape(mark)}", rf"\1{full}", text)
        text = re.sub(f"{re.escape(mark)}({_HAN})", rf"{full}\1", text)
    return text


def _facts(evidence: Evidence) -> Iterator[str]:
    if _LAST in evidence.special_pieces:
        yield f"{ChatGLM1Tokenizer.file_name} defines {_LAST}"
    for key in ("inner_hidden_size", "position_encoding_2d"):
        if key in evidence.config:
            yield f"config.json has {key}"


CHATGLM1 = Family(
    name="chatglm",
    title="ChatGLM-6B",
    tokenizer_file=ChatGLM1Tokenizer.file_name,
    tokenizer_class=ChatGLM1Tokenizer,
    control_tokens=CONTROL_TOKENS,
    prompt_format="chatglm",
    facts=_facts,
    clean_reply=clean_reply,
    temperature=0.95,
    top_p=0.7,
    cannot_grow="the pieces of its vocabulary compete by their probabilities (SentencePiece's Unigram), so that text "
    "would not keep its ids; only the vocabularies of ChatGLM2 and ChatGLM3 can be extended",
)

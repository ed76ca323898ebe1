"""Tiny random ChatGLM-6B models, and the reference material of the real one."""

import io
import json
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from sentencepiece import sentencepiece_model_pb2 as spm

from glmja.modeling.chatglm1 import ChatGLM1ForCausalLM
from glmja.modeling.chatglm1_config import ChatGLM1Config
from glmja.tokenization.vocabulary import Piece, parse_proto

MASK, GMASK, SOP, EOP, PAD = 90, 91, 94, 95, 3
TINY = {
    "vocab_size": 100, "hidden_size": 32, "num_layers": 3, "num_attention_heads": 4, "inner_hidden_size": 64,
    "max_sequence_length": 64, "mask_token_id": MASK, "gmask_token_id": GMASK, "bos_token_id": SOP,
    "eos_token_id": EOP, "pad_token_id": PAD,
}  # fmt: skip


def tiny_model(seed=0, **settings):
    """A model whose weights are large enough that each part of it matters."""
    torch.manual_seed(seed)
    model = ChatGLM1ForCausalLM(ChatGLM1Config(**TINY | settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.3)
    return model


def reference_model(folder: Path, **settings):
    """The reference model in fp32; `settings` are those of a prefix."""
    config = json.loads((folder / "config.json").read_text())
    known = {key: config[key] for key in TINY}
    model = ChatGLM1ForCausalLM(ChatGLM1Config(**known | settings)).eval()
    weights = {}
    for path in sorted(folder.glob("pytorch_model-*.bin")):
        weights |= torch.load(path, weights_only=True)
    if settings:
        kind = "projected" if settings.get("prefix_projection") else "plain"
        weights |= torch.load(folder / "ptuning" / f"{kind}.bin", weights_only=True)
    model.load_state_dict({name: w.float() for name, w in weights.items() if "inv_freq" not in name})
    return model


CONTROL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
WHITE_SPACE = ("<|tab|>", *(f"<|blank_{number}|>" for number in range(2, 81)))


def train_vocabulary(texts, num_pieces=1800) -> spm.ModelProto:
    """A small vocabulary with the options and the order of ChatGLM-6B's: control tokens, white space and bytes last."""
    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=trained, vocab_size=num_pieces, model_type="unigram",
        normalization_rule_name="nmt_nfkc", split_digits=True, byte_fallback=True, character_coverage=0.999,
        pad_id=PAD, user_defined_symbols=["<n>"], minloglevel=2,
    )  # fmt: skip
    proto = parse_proto(trained.getvalue())
    pieces, ordered = list(proto.pieces), spm.ModelProto()
    ordered.CopyFrom(proto)
    del ordered.pieces[:]
    ordered.pieces.extend(piece for piece in pieces if piece.type != Piece.BYTE)
    for names, kind in ((CONTROL_TOKENS, Piece.CONTROL), (WHITE_SPACE, Piece.USER_DEFINED)):
        for name in names:
            ordered.pieces.add(piece=name, score=0.0, type=kind)
    ordered.pieces.extend(piece for piece in pieces if piece.type == Piece.BYTE)
    ordered.trainer_spec.vocab_size = len(ordered.pieces)
    return ordered

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
from glmja.weights.chatglm1 import CHATGLM1
from glmja.weights.tensors import MemoryTensor

MASK, GMASK, SOP, EOP, PAD = 90, 91, 94, 95, 3
TINY = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "mask_token_id": MASK, "gmask_token_id": GMASK, "bos_token_id": SOP,
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
    config = CHATGLM1.runtime_config(json.loads((folder / "config.json").read_text()))
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


def build_folder(folder: Path, texts, num_layers=2, width=32, seed=0) -> Path:
    """A tiny random ChatGLM-6B as it was published: two shards with code-free pickles, norms in fp32, wrong size."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = train_vocabulary(texts)
    (folder / "ice_text.model").write_bytes(proto.SerializeToString())
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    config = {
        "model_type": "chatglm", "architectures": ["ChatGLMModel"], "vocab_size": len(ids) + 4, "hidden_size": width,
        "num_layers": num_layers, "num_attention_heads": 2, "inner_hidden_size": 2 * width, "max_sequence_length": 256,
        "layernorm_epsilon": 1e-5, "position_encoding_2d": True, "use_cache": True, "torch_dtype": "float16",
        "mask_token_id": ids["[MASK]"], "gmask_token_id": ids["[gMASK]"], "bos_token_id": ids["<sop>"],
        "eos_token_id": ids["<eop>"], "pad_token_id": PAD,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    runtime = CHATGLM1.runtime_config(config)
    torch.manual_seed(seed)
    weights = {name: MemoryTensor(_random(name, shape)) for name, shape in CHATGLM1.expected_shapes(runtime).items()}
    stored = {name: source.read_all() for name, source in CHATGLM1.to_original(weights, config).items()}
    shards = [{n: t for n, t in stored.items() if (n == "lm_head.weight") == last} for last in (False, True)]
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for name, shard in zip(names, shards, strict=True):
        torch.save(shard, folder / name)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": 13744473856}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def _random(name, shape):
    if "norm" in name:
        return torch.randn(shape) * 0.1 + name.endswith("weight")
    return (torch.randn(shape) * (1.0 if "embeddings" in name else shape[-1] ** -0.5)).half()

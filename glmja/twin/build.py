"""Builds a tiny twin of ChatGLM3: the same layout and tokenizer options, with random weights.

Every step of the pipeline runs on it as on the real model, without a download.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer

from glmja.families.chatglm3 import CONTROL_TOKENS
from glmja.files.json_files import write_json
from glmja.files.output_folder import atomic_output_folder
from glmja.tokenization.tokenizer import FILE_NAME, ROLE_TOKENS
from glmja.tokenization.vocabulary import parse_proto
from glmja.weights.chatglm_layout import EMBEDDING, INV_FREQ, Config, expected_shapes, plan_to_chatglm, to_glm_config
from glmja.weights.glm import inv_freq

TEXTS = Path(__file__).parent / "texts"
LANGUAGES = ("ja", "zh", "en")


def text_file(language: str) -> Path:
    """Returns the path of texts of the package, as JSON lines: `ja`, `zh`, `en`, or `conversations`."""
    return TEXTS / f"{language}.jsonl"


def build_base(
    output: str | Path,
    texts: Iterable[str],
    vocab_size: int = 2500,
    hidden_size: int = 128,
    num_layers: int = 2,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Writes a tiny ChatGLM3 in its original layout.

    Args:
        output: New folder.
        texts: Chinese and English texts to train the vocabulary on.
        vocab_size: Number of pieces of the vocabulary, without control tokens.
        hidden_size: Hidden size; a multiple of 32.
        num_layers: Number of transformer layers.
        seed: Seed of the weights.
        overwrite: Whether to replace the contents of `output`.

    Raises:
        ValueError: If the texts yield too few pieces.
        FileExistsError: If `output` is not empty and `overwrite` is false.
    """
    write_base(output, train_vocabulary(texts, vocab_size), hidden_size, num_layers, seed, overwrite)


def write_base(
    output: str | Path,
    vocabulary: bytes,
    hidden_size: int = 128,
    num_layers: int = 2,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Writes a tiny ChatGLM3 with a given vocabulary; other arguments as `build_base`.

    Args:
        output: New folder.
        vocabulary: SentencePiece model without control tokens, as ChatGLM3's.
        hidden_size: Hidden size; a multiple of 32.
        num_layers: Number of transformer layers.
        seed: Seed of the weights.
        overwrite: Whether to replace the contents of `output`.

    Raises:
        FileExistsError: If `output` is not empty and `overwrite` is false.
    """
    num_pieces = len(parse_proto(vocabulary).pieces)
    num_rows = -(-(num_pieces + len(CONTROL_TOKENS)) // 64) * 64
    config = _config(num_rows, hidden_size, num_layers)
    with atomic_output_folder(output, overwrite) as folder:
        (folder / FILE_NAME).write_bytes(vocabulary)
        write_json(folder / "config.json", config)
        write_json(folder / "tokenizer_config.json", _tokenizer_config(num_pieces))
        save_file(_weights(config, seed), folder / "model.safetensors", {"format": "pt"})


def train_vocabulary(texts: Iterable[str], vocab_size: int) -> bytes:
    """Trains a SentencePiece model with ChatGLM3's options; like ChatGLM3's, it has no control tokens.

    Raises:
        ValueError: If the texts yield too few pieces.
    """
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            character_coverage=0.9999,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"the texts do not yield {vocab_size} pieces: {error}; set `vocab_size` lower") from error
    return model.getvalue()


def _tokenizer_config(num_pieces: int) -> dict[str, object]:
    """As in ChatGLM3's repository: the tokenizer's class, and the ids of its role tokens."""
    ids = {token: num_pieces + i for i, token in enumerate(CONTROL_TOKENS) if token in ROLE_TOKENS}
    return {
        "tokenizer_class": "ChatGLMTokenizer",
        "added_tokens_decoder": {str(i): {"content": token, "special": True} for token, i in ids.items()},
    }


def _config(num_rows: int, hidden_size: int, num_layers: int) -> Config:
    return {
        "_name_or_path": "glmja-twin",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "ffn_hidden_size": 3 * hidden_size,
        "hidden_size": hidden_size,
        "kv_channels": hidden_size // 4,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 4,
        "num_layers": num_layers,
        "original_rope": True,
        "padded_vocab_size": num_rows,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": 2048,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _weights(config: Config, seed: int) -> dict[str, torch.Tensor]:
    """Returns random weights under ChatGLM's names."""
    glm = to_glm_config(config)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_shapes(glm).items():
        if len(shape) == 1:
            tensors[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        else:
            scale = 1.0 if name == EMBEDDING else shape[1] ** -0.5
            tensors[name] = torch.randn(shape, generator=generator) * scale
    renamed = {
        name: torch.cat([tensors[rows.name] for rows in parts]).half()
        for name, parts in plan_to_chatglm(tensors).items()
    }
    return renamed | {INV_FREQ: inv_freq(config, torch.float16)}

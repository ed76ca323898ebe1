"""What llama.cpp's converter reads in a folder written by glmja, read by llama.cpp's own Python package.

Its converter takes pieces, scores and types from `tokenizer.model` (`TextModel._create_vocab_sentencepiece` in
https://github.com/ggml-org/llama.cpp/blob/0c1e57098/conversion/base.py, of which `SentencePieceVocab` is the elder
sibling), special ids and the chat template by `SpecialVocab`, and the rest from `config.json` (`ChatGLMModel` in
https://github.com/ggml-org/llama.cpp/blob/0c1e57098/conversion/chatglm.py). What it then writes was compared by hand.
"""

import json
from collections import Counter

import gguf
import pytest
from gguf import TokenType

from glmja.families.chatglm3 import CONTROL_TOKENS
from glmja.families.recognition import load_tokenizer
from glmja.modeling.model_folder import write_model
from glmja.tokenization import huggingface
from glmja.weights.chatglm_layout import EMBEDDING
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.options import MAX_SHARD_SIZE

CONTROL_NAMES = {"<s>", "</s>", *CONTROL_TOKENS}


@pytest.fixture(scope="module", params=["glm", "chatglm"])
def exported(request, zero_dir, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_model(folder, Checkpoint.open(zero_dir).as_glm(), tokenizer, request.param, MAX_SHARD_SIZE)
    return folder


def pieces_read(folder):
    return [(text.decode(), score, kind) for text, score, kind in gguf.SentencePieceVocab(folder).all_tokens()]


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_every_piece_is_read_at_its_id_with_its_score_and_type(exported, tokenizer):
    assert pieces_read(exported) == [(p.piece, p.score, p.type) for p in tokenizer.proto.pieces]


def test_the_control_tokens_and_nothing_else_are_of_type_control(exported, tokenizer):
    pieces = pieces_read(exported)
    found = {text: i for i, (text, _, kind) in enumerate(pieces) if kind == TokenType.CONTROL}
    assert found == tokenizer.control_tokens and found.keys() == CONTROL_NAMES
    assert Counter(text for text, _, _ in pieces).most_common(1)[0][1] == 1  # so no text makes a second of the name


def test_bytes_are_bytes_and_appended_pieces_are_text(exported, tokenizer):
    pieces = pieces_read(exported)
    bytes_read = [text for text, _, kind in pieces if kind == TokenType.BYTE]
    assert bytes_read == [f"<0x{byte:02X}>" for byte in range(256)]
    assert {pieces[i][2] for i in tokenizer.new_ids} == {TokenType.NORMAL} and len(tokenizer.new_ids) == 600
    assert {kind for _, _, kind in pieces} == {TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE, TokenType.NORMAL}


def test_no_file_beside_the_model_gives_a_token_another_type_or_score(exported, tokenizer):
    """`added_tokens.json` makes tokens USER_DEFINED, which text can spell; `added_tokens_decoder` resets scores."""
    assert not (exported / "added_tokens.json").exists()
    assert "added_tokens_decoder" not in read(exported, "tokenizer_config.json")
    added = read(exported, "tokenizer.json")["added_tokens"]
    assert all(token["special"] for token in added)
    assert {token["content"]: token["id"] for token in added} == {"<unk>": 0} | tokenizer.control_tokens


def test_special_ids_and_the_chat_template_are_found(exported, tokenizer):
    """Newer readers take the first token of the post-processor's template for BOS, which a chat then has once."""
    special = gguf.SpecialVocab(exported, n_vocab=len(tokenizer))
    mask = tokenizer.control_id("[gMASK]")
    found = {"bos": mask} | special.special_token_ids
    assert {name: found[name] for name in ("bos", "eos", "unk", "pad")} == {"bos": mask, "eos": 2, "unk": 0, "pad": 0}
    assert special.add_special_token == {"bos": "bos" in special.special_token_ids}
    assert special.chat_template == huggingface.CHAT_TEMPLATE


def test_the_ids_that_end_a_turn_are_the_ones_passed_to_gguf_new_metadata_by_name(exported, tokenizer):
    named = [tokenizer.control_id(name) for name in ("</s>", "<|user|>", "<|observation|>")]
    assert read(exported, "generation_config.json")["eos_token_id"] == named == tokenizer.stop_ids


def test_the_original_layout_has_every_key_that_the_converter_reads(zero_dir, tokenizer, tmp_path):
    """Of a Glm config it would read no context length, rotary base or epsilon; without `vocab_size` it pads nothing."""
    model = Checkpoint.open(zero_dir).as_glm()
    write_model(tmp_path, model, tokenizer, "chatglm", MAX_SHARD_SIZE)
    config = read(tmp_path, "config.json")
    assert config["architectures"] == ["ChatGLMModel"]
    assert config["vocab_size"] == config["padded_vocab_size"] == model.tensors[EMBEDDING].shape[0] > len(tokenizer)
    asked = {
        "seq_length": "max_position_embeddings",
        "hidden_size": "hidden_size",
        "ffn_hidden_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_attention_heads": "num_attention_heads",
        "multi_query_group_num": "num_key_value_heads",
        "layernorm_epsilon": "rms_norm_eps",
    }
    assert {key: config[key] for key in asked} == {key: model.config[glm] for key, glm in asked.items()}
    assert (
        config["hidden_size"] == config["num_attention_heads"] * config["kv_channels"]
    )  # as it takes the rotary width
    assert "rope_ratio" not in config and model.config["rope_parameters"]["rope_theta"] == 10000


def test_the_stock_vocabulary_is_read_with_its_control_tokens(data, tmp_path):
    tokenizer = load_tokenizer(data / "chatglm3")
    huggingface.save(tokenizer, tmp_path)
    pieces = pieces_read(tmp_path)
    assert [(i, text) for i, (text, _, kind) in enumerate(pieces) if kind == TokenType.CONTROL] == [
        (1, "<s>"), (2, "</s>"), *enumerate(CONTROL_TOKENS, 64789)
    ]  # fmt: skip
    assert len(pieces) == 64798

import json
import logging
import shutil

import pytest
import torch

from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.weights.chatglm1 import CHATGLM1
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.glm import GLM
from tests.support.families import change_config


@pytest.fixture
def folder(chatglm1_dir, tmp_path):
    return shutil.copytree(chatglm1_dir, tmp_path / "model")


def read(folder):
    return json.loads((folder / "config.json").read_text())


def test_shards_in_two_dtypes_are_read_as_published_without_a_warning(chatglm1_dir, caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint = Checkpoint.open(chatglm1_dir)
    assert not caplog.records
    assert (checkpoint.dtype, checkpoint.layout) == (torch.float16, "chatglm")
    glm = checkpoint.as_glm()
    assert glm.tensors["transformer.final_layernorm.weight"].dtype == torch.float32
    assert not [name for name in glm.tensors if "inv_freq" in name]
    assert load_model(ModelFolder.open(chatglm1_dir)).dtype == torch.float16


def test_norms_stay_in_fp32_in_another_dtype(chatglm1_dir):
    cast = Checkpoint.open(chatglm1_dir).as_glm().astype(torch.bfloat16)
    assert cast.tensors["transformer.layers.1.input_layernorm.bias"].dtype == torch.float32
    assert cast.tensors["lm_head.weight"].dtype == cast.dtype == torch.bfloat16


def test_the_original_layout_comes_back(chatglm1_dir, tmp_path):
    first = Checkpoint.open(chatglm1_dir)
    first.as_glm().save(tmp_path, 10**9)
    runtime = Checkpoint.open(tmp_path)
    assert (runtime.layout, runtime.config["model_type"]) == ("glm", "glmja_chatglm1")
    back = runtime.as_chatglm()
    assert back.tensors.keys() == first.tensors.keys()
    for name, source in first.tensors.items():
        assert torch.equal(back.tensors[name].read_all(), source.read_all()), name
    wanted = {key: value for key, value in first.config.items() if key != "torch_dtype"}
    assert wanted.items() <= back.config.items()
    assert back.config["tie_word_embeddings"] is False  # the original code would tie what was trained apart


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"model_type": "chatglm", "inner_hidden_size": 64}, CHATGLM1),
        ({"model_type": "chatglm", "position_encoding_2d": True}, CHATGLM1),
        ({"model_type": "glmja_chatglm1"}, CHATGLM1),
        ({"model_type": "chatglm", "padded_vocab_size": 65024}, GLM),
        ({"model_type": "glm"}, GLM),
    ],
)
def test_the_settings_tell_the_architecture(config, architecture):
    assert CHATGLM1.layout_of(config) == (None if architecture is GLM else CHATGLM1.layout_of(config))
    assert (CHATGLM1.layout_of(config) is not None) == (architecture is CHATGLM1)
    assert GLM.layout_of(config) == (None if config["model_type"] == "glmja_chatglm1" else config["model_type"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 150528}, "has 150,528 rows: a revision of ChatGLM-6B before April 2023.*get the current"),
        ({"position_encoding_2d": False}, "has position_encoding_2d = False; only True can be converted"),
        ({"num_attention_heads": 16}, "has 16 attention heads in a width of 32, which must give each a multiple of 4"),
        ({"inner_hidden_size": "64"}, "has inner_hidden_size = '64'; it must be a whole number"),
        ({"pre_seq_len": -1}, "has pre_seq_len = -1; it must be a length, or null"),
        ({"gmask_token_id": 7}, r"has gmask_token_id = 7, but the tokenizer's \[gMASK\] is \d+; they do not belong"),
        ({"num_layers": 3}, r"lacks \d+ tensors: transformer.layers.2"),
        ({"pre_seq_len": 4}, r"lacks 1 tensors: transformer.prefix_encoder.embedding.weight"),
        ({"quantization_bit": 4}, "the weights are quantized"),
    ],
)
def test_another_config_is_refused(changes, message, folder):
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        ModelFolder.open(folder).checkpoint  # noqa: B018


def test_a_config_without_sizes_is_refused(folder):
    config = read(folder)
    del config["max_sequence_length"], config["layernorm_epsilon"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the config of ChatGLM-6B lacks max_sequence_length, layernorm_epsilon"):
        ModelFolder.open(folder)


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_of_p_tuning_beside_the_weights_is_read(projection, folder):
    change_config(folder, pre_seq_len=4, prefix_projection=projection)
    shapes = CHATGLM1.expected_shapes(CHATGLM1.runtime_config(read(folder)))
    prefix = {name: torch.randn(shape) for name, shape in shapes.items() if "prefix_encoder" in name}
    shard = folder / "pytorch_model-00002-of-00002.bin"
    torch.save(torch.load(shard, weights_only=True) | prefix, shard)
    opened = ModelFolder.open(folder)
    model = load_model(opened, torch.float32)
    assert model.transformer.prefix_encoder().shape == (4, 2, 4, 16)
    original = opened.checkpoint.as_chatglm()
    assert (original.config["pre_seq_len"], original.config["prefix_projection"]) == (4, projection)


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_an_attention_that_the_model_does_not_have_is_refused(attention, chatglm1_dir):
    with pytest.raises(ValueError, match=rf"no attention {attention}; set `attn_implementation` to documents"):
        load_model(chatglm1_dir, attn_implementation=attention)


def test_the_reference_model_is_opened_from_its_eight_shards(data):
    opened = ModelFolder.open(data / "chatglm1_tiny")
    assert (opened.checkpoint.dtype, len(opened.checkpoint.tensors)) == (torch.float16, 340)
    assert opened.max_positions == 2048

"""Dtypes are read off the tensors: what a config says about them is neither believed nor passed on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from glmja.modeling.loading import load_model, outline
from glmja.resize_embeddings import resize_embeddings
from glmja.weights.chatglm_layout import EMBEDDING
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.dtypes import common_dtype
from tests.support.layouts import convert

NORM = "transformer.encoder.final_layernorm.weight"
QUERIES = "model.layers.0.self_attn.q_proj.weight"
TOO_LARGE = 1e5  # for float16

SAID = [{}, {"dtype": "bfloat16"}, {"torch_dtype": "float16"}, {"dtype": "float16", "torch_dtype": "float32"}]
SAID += [{"dtype": None}, {"torch_dtype": None, "dtype": 3}, {"dtype": "float8_e4m3fn"}, {"torch_dtype": ["bfloat16"]}]


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def copy_with(folder, to, change, said):
    """Copies a model; `change` gets its tensors, and the config says `said` about dtypes."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    kept = {key: value for key, value in config_of(folder).items() if key not in ("dtype", "torch_dtype")}
    (to / "config.json").write_text(json.dumps(kept | said))
    return to


def in_bfloat16(tensors):
    tensors |= {name: tensor.bfloat16() for name, tensor in tensors.items()}
    tensors[NORM][0] = TOO_LARGE


@pytest.mark.parametrize("said", SAID, ids=str)
def test_a_written_config_names_the_dtype_of_its_tensors_whatever_the_base_says(
    base_dir, tokenizer_dir, tmp_path, said
):
    base = copy_with(base_dir, tmp_path / "base", in_bfloat16, said)
    zero = tmp_path / "zero"
    resize_embeddings(str(base), str(tokenizer_dir), str(zero), check_greedy=False)
    convert(zero, tmp_path / "back", "chatglm")
    for folder in (zero, tmp_path / "back"):
        assert [config_of(folder)[key] for key in ("dtype", "torch_dtype")] == ["bfloat16"] * 2
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    loaded = AutoModelForCausalLM.from_pretrained(zero, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert loaded.model.norm.weight[0].item() == pytest.approx(TOO_LARGE, rel=0.01)


def test_dtypes_of_bin_files_are_read_off_their_tensors(base_dir, tmp_path):
    base = copy_with(base_dir, tmp_path / "base", in_bfloat16, {"torch_dtype": "float16"})
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    convert(base, tmp_path / "glm", "glm")
    assert config_of(tmp_path / "glm")["dtype"] == "bfloat16"
    assert load_model(base).dtype == torch.bfloat16


def mixed(tensors):
    """Norms in float32, as trainers leave them, and the rest in float16."""
    tensors |= {name: tensor.float() for name, tensor in tensors.items() if "layernorm" in name}
    tensors[NORM][0] = TOO_LARGE


def test_a_folder_of_several_dtypes_keeps_its_bits_and_names_a_dtype_that_holds_all(
    base_dir, tokenizer_dir, tmp_path, caplog
):
    base = copy_with(base_dir, tmp_path / "base", mixed, {"torch_dtype": "float16"})
    resize_embeddings(str(base), str(tokenizer_dir), str(tmp_path / "zero"))
    assert f"{base} holds float16 and float32; read as float32, which holds all values exactly" in caplog.text
    written = load_file(tmp_path / "zero" / "model.safetensors")
    assert (written["model.norm.weight"].dtype, written[EMBEDDING].dtype) == (torch.float32, torch.float16)
    assert config_of(tmp_path / "zero")["dtype"] == "float32"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "zero", dtype="auto")
    assert loaded.model.norm.weight[0].item() == TOO_LARGE


def test_a_folder_of_several_dtypes_computes_in_one(base_dir, tmp_path):
    base = copy_with(base_dir, tmp_path / "base", mixed, {})
    model = load_model(base)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in outline(base).parameters()} == {torch.float32}
    assert torch.isfinite(model(torch.tensor([[5, 300, 7, 900]])).logits).all()
    assert load_model(base_dir).dtype == outline(base_dir).dtype == torch.float16


def test_a_fused_matrix_of_several_dtypes_is_written_in_one_that_holds_all(base_dir, tmp_path):
    convert(base_dir, tmp_path / "glm", "glm")

    def change(tensors):
        tensors[QUERIES] = tensors[QUERIES].float() * (1 + 2**-20)

    glm = copy_with(tmp_path / "glm", tmp_path / "changed", change, {})
    convert(glm, tmp_path / "chatglm", "chatglm")
    back = Checkpoint.open(tmp_path / "chatglm").as_glm()
    assert torch.equal(back.tensors[QUERIES].read_all(), load_file(glm / "model.safetensors")[QUERIES])


def test_the_common_dtype_holds_all_values():
    assert common_dtype([torch.float16, torch.bfloat16]) == torch.float32
    assert common_dtype([torch.bfloat16]) == torch.bfloat16
    assert common_dtype([]) == torch.float32

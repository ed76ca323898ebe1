import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from glmja import convert
from glmja.conversation.rendering import render_prompt
from glmja.families.recognition import load_tokenizer
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.verification import conversion
from glmja.weights.checkpoint import Checkpoint

CHAT = [{"role": "user", "content": "你好"}]


def run(**values):
    convert.main([part for key, value in values.items() for part in (f"--{key}", str(value))])


def refused(capsys, code, **values):
    with pytest.raises(SystemExit) as stop:
        run(**values)
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def weights(folder):
    return {name: source.read_all() for name, source in Checkpoint.open(folder).tensors.items()}


def test_a_chatglm_base_becomes_a_folder_that_transformers_loads_without_remote_code(base_dir, tmp_path, capsys):
    run(model=base_dir, output=tmp_path / "glm")
    assert "tensors in the layout glm, read back and compared with" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "glm", dtype=torch.float32)
    ids = torch.tensor([[5, 300, 7, 900]])
    assert torch.equal(model(ids).logits, load_model(base_dir, torch.float32)(ids).logits)
    tokenizer = load_tokenizer(base_dir)
    assert model.generation_config.eos_token_id == tokenizer.stop_ids
    written = AutoTokenizer.from_pretrained(tmp_path / "glm")
    rendered = written.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert rendered == render_prompt(CHAT, tokenizer)
    card = (tmp_path / "glm" / "README.md").read_text()
    assert "# base in the layout glm" in card and "| dtype | float16 |" in card


def test_there_and_back_is_bit_exact_for_weights_and_tokenizer(zero_dir, tmp_path):
    run(model=zero_dir, output=tmp_path / "chatglm", format="chatglm")
    run(model=tmp_path / "chatglm", output=tmp_path / "back", max_shard_size=100_000)
    ours, theirs = weights(tmp_path / "back"), weights(zero_dir)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("tokenizer.model", "tokenizer.json", "config.json", "generation_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (zero_dir / name).read_bytes()
    assert json.loads((tmp_path / "chatglm" / "config.json").read_text())["model_type"] == "chatglm"


def test_another_dtype_is_torchs_cast(base_dir, tmp_path):
    run(model=base_dir, output=tmp_path / "out", dtype="bfloat16")
    expected = {
        name: source.read_all().bfloat16() for name, source in Checkpoint.open(base_dir).as_glm().tensors.items()
    }
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "out").items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_output_inside_of_which_the_model_lies_is_refused(base_dir, capsys):
    line = refused(capsys, 2, model=base_dir, output=base_dir.parent, overwrite="true")
    assert line.startswith(f"python -m glmja.convert: error: --output {base_dir.parent} contains the input")


def test_the_size_of_a_weight_file_is_checked(base_dir, tmp_path, capsys):
    line = refused(capsys, 2, model=base_dir, output=tmp_path / "out", max_shard_size=-3)
    assert "--max_shard_size -3 must be at least 1" in line


def test_a_written_tensor_that_differs_from_its_source_is_refused_by_name(base_dir, tmp_path):
    run(model=base_dir, output=tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.norm.weight of the converted model differs from that of .*base"):
        conversion.verify_conversion(ModelFolder.open(base_dir).checkpoint, tmp_path / "out")


def test_a_damaged_model_is_refused_and_nothing_is_written(base_dir, tmp_path, capsys):
    damaged = shutil.copytree(base_dir, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"x")
    assert "damaged safetensors file" in refused(capsys, 4, model=damaged, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_chatglm_6b_is_loaded_by_transformers_and_comes_back_bit_for_bit(chatglm1_dir, tmp_path):
    run(model=chatglm1_dir, output=tmp_path / "glm")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "glm", dtype=torch.float32)
    tokenizer = load_tokenizer(tmp_path / "glm")
    ids = torch.tensor([render_prompt(CHAT, tokenizer)])
    assert torch.equal(model(ids).logits, load_model(chatglm1_dir, torch.float32)(ids).logits)
    card = (tmp_path / "glm" / "README.md").read_text()
    assert "AutoModelForCausalLM and AutoTokenizer load this folder after import glmja" in card
    assert "some characters are decoded as others" in card
    assert "left out: the vocabulary is made for the algorithm UNIGRAM" in card
    run(model=tmp_path / "glm", output=tmp_path / "back", format="chatglm")
    ours, theirs = weights(tmp_path / "back"), weights(chatglm1_dir)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (tmp_path / "back" / "ice_text.model").read_bytes() == (chatglm1_dir / "ice_text.model").read_bytes()

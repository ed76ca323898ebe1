import json

import pytest
import torch

from glmja.modeling.loading import choose_dtype, load_model
from glmja.modeling.model_folder import ModelFolder

IDS = torch.tensor([[5, 300, 7, 900]])


def test_both_layouts_are_one_model(base_dir, tmp_path):
    from tests.support.layouts import convert

    convert(base_dir, tmp_path / "glm", "glm")
    ours, theirs = (load_model(folder, torch.float32)(IDS).logits for folder in (tmp_path / "glm", base_dir))
    assert torch.equal(ours, theirs)


def test_weights_are_loaded_in_the_requested_dtype(zero_dir):
    assert load_model(zero_dir).dtype == torch.float16
    assert load_model(zero_dir, torch.float32).dtype == torch.float32


def test_inference_computes_in_float32_on_a_cpu_and_as_stored_elsewhere_unless_a_dtype_is_named():
    assert [choose_dtype(None, device) for device in ("cpu", "cpu:0", "cuda:1")] == [torch.float32, torch.float32, None]
    assert [choose_dtype("bfloat16", device) for device in ("cpu", "cuda")] == [torch.bfloat16] * 2


def test_a_model_that_is_too_small_for_its_tokenizer_is_refused_with_both_numbers(zero_dir, tmp_path):
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((zero_dir / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 3072}))
    with pytest.raises(ValueError, match="the tokenizer has 3109 ids but the model has 3072 rows"):
        ModelFolder.open(tmp_path)


def test_a_model_that_is_far_too_large_for_its_tokenizer_is_refused(zero_dir, tmp_path):
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((zero_dir / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 65024}))
    with pytest.raises(ValueError, match="the tokenizer has 3109 ids but the model has 65024 rows"):
        ModelFolder.open(tmp_path)

import json

import pytest
import torch

from glmja.model import load_model
from glmja.model_folder import check_folder
from glmja.trainable import LINEAR_LAYERS, add_lora, train_embeddings

IDS = torch.tensor([[5, 300, 7, 900]])


def test_both_layouts_are_one_model(base_dir, tmp_path):
    from glmja.checkpoint import convert

    convert(base_dir, tmp_path / "glm", "glm")
    ours, theirs = (load_model(folder, torch.float32)(IDS).logits for folder in (tmp_path / "glm", base_dir))
    assert torch.equal(ours, theirs)


def test_weights_come_in_the_dtype_asked_for(zero_dir):
    assert load_model(zero_dir).dtype == torch.float16
    assert load_model(zero_dir, torch.float32).dtype == torch.float32


def test_fresh_adapters_change_nothing(zero_dir):
    model = load_model(zero_dir, torch.float32)
    before = model(IDS).logits
    assert torch.equal(add_lora(model, rank=4, alpha=8, dropout=0.0)(IDS).logits, before)


@pytest.mark.parametrize("embeddings", ["full", "frozen"])
def test_adapters_train_and_embeddings_if_wanted(zero_dir, embeddings):
    model = add_lora(load_model(zero_dir, torch.float32), rank=4, alpha=8, dropout=0.0)
    train_embeddings(model, embeddings)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert adapted == set(LINEAR_LAYERS)
    others = {name.removeprefix("base_model.model.") for name in trained if ".lora_" not in name}
    assert others == ({"model.embed_tokens.weight", "lm_head.weight"} if embeddings == "full" else set())


def test_a_model_that_is_too_small_for_its_tokenizer_is_refused_with_both_numbers(zero_dir, tmp_path):
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((zero_dir / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 3072}))
    with pytest.raises(ValueError, match="the tokenizer makes 3109 ids but the model has 3072 rows"):
        check_folder(tmp_path)


def test_a_model_that_is_far_too_large_for_its_tokenizer_is_refused(zero_dir, tmp_path):
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((zero_dir / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 65024}))
    with pytest.raises(ValueError, match="the tokenizer makes 3109 ids but the model has 65024 rows"):
        check_folder(tmp_path)

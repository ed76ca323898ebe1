import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from glmja.evaluation.likelihood import measure
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.verification.zero_outputs import Probe, compare_outputs, first_characters
from glmja.weights.chatglm_layout import HEAD


@given(documents=st.lists(st.text(min_size=1, max_size=9), max_size=9), size=st.integers(1, 40))
def test_the_first_characters_of_documents_are_read(documents, size):
    found = first_characters(iter(documents), size)
    assert "".join(found) == "".join(documents)[:size]
    assert all(found) and len(found) <= len(documents)


def test_no_document_is_read_beyond_the_last_that_is_needed():
    documents = iter(["abc", "def", "ghi"])
    assert first_characters(documents, 6) == ["abc", "def"]
    assert next(documents) == "ghi"


def test_bits_per_character_are_those_of_an_evaluation(base_dir, zero_dir, texts):
    base, zero = ModelFolder.open(base_dir), ModelFolder.open(zero_dir)
    documents = {"ja": texts["ja"][:2], "zh": [texts["zh"][0]]}
    found = compare_outputs(base, zero, torch.float32, Probe(False, documents))
    for lang, check in found.items():
        for folder, other, bits in ((base, zero, check.base_bits_per_char), (zero, base, check.zero_bits_per_char)):
            model = load_model(folder, torch.float32)
            expected, _ = measure(model, folder.tokenizer, documents[lang], 1024, 1, beside=[other.tokenizer])
            assert bits == pytest.approx(expected.bits_per_char, rel=1e-5)
    assert found["zh"].new_on_top == found["ja"].new_on_top == 0
    assert found["zh"].smallest_lead > 0 and 0 < found["zh"].mass_of_new < 1
    assert found["zh"].change == pytest.approx(found["zh"].zero_bits_per_char / found["zh"].base_bits_per_char - 1)


def test_new_pieces_on_top_are_counted(base_dir, zero_dir, base_tokenizer, texts, tmp_path):
    folder = shutil.copytree(zero_dir, tmp_path / "zero")
    tensors = load_file(folder / "model.safetensors")
    rows_VD = tensors[HEAD]
    rows_VD[len(base_tokenizer) : len(base_tokenizer) + 2] = 50 * torch.stack([rows_VD[9], -rows_VD[9]])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    base, zero = ModelFolder.open(base_dir), ModelFolder.open(folder)
    found = compare_outputs(base, zero, torch.float32, Probe(False, {"zh": [texts["zh"][0]]}))["zh"]
    assert 0.9 * found.positions < found.new_on_top <= found.positions
    assert found.smallest_lead < 0


def test_without_new_pieces_nothing_changes(base_dir, texts):
    base = ModelFolder.open(base_dir)
    found = compare_outputs(base, base, torch.float32, Probe(True, {"en": [texts["en"][0]]}))["en"]
    assert found.change == 0 and found.new_on_top == 0 and found.smallest_lead is None

import torch

from glmja.modeling.loading import load_model, outline
from glmja.modeling.model_folder import ModelFolder
from glmja.resize_embeddings import resize_embeddings
from glmja.weights.checkpoint import Checkpoint
from tests.support.file_reads import counted_opens, reads_of

IDS = torch.tensor([[5, 300, 7, 900]])


def test_an_opened_folder_reads_config_and_tokenizer_once_however_it_is_used(base_dir):
    with counted_opens() as opens:
        folder = ModelFolder.open(base_dir)
        load_model(folder)
        outline(folder)
        assert folder.fingerprint and folder.max_positions == 2048
    assert reads_of(opens, base_dir) == (1, 1)


def test_an_opened_folder_is_what_its_parts_are(base_dir, base_tokenizer):
    folder = ModelFolder.open(base_dir)
    assert folder.config == Checkpoint.open(base_dir).as_glm().config
    assert folder.fingerprint == Checkpoint.open(base_dir).fingerprint()
    assert folder.tokenizer.fingerprint == base_tokenizer.fingerprint
    assert torch.equal(load_model(folder)(IDS).logits, load_model(base_dir)(IDS).logits)


def test_resize_embeddings_reads_config_and_tokenizer_of_its_models_once(base_dir, tokenizer_dir, tmp_path):
    with counted_opens() as opens:
        resize_embeddings(str(base_dir), str(tokenizer_dir), str(tmp_path / "zero"))
    assert reads_of(opens, base_dir) == (1, 1)
    assert reads_of(opens, tokenizer_dir) == (0, 1)

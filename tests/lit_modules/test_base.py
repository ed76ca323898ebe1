import shutil

from lit_modules import PackedPretraining
from tests.support.families import without_evidence


def test_the_family_of_a_model_without_evidence_can_be_given(base_dir, tmp_path):
    folder = without_evidence(shutil.copytree(base_dir, tmp_path / "model"))
    assert PackedPretraining(str(folder), family="chatglm2").tokenizer.stop_ids == [2]
    assert len(PackedPretraining(str(folder), family="chatglm3").tokenizer.stop_ids) == 3

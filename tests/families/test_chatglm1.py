import json
import shutil

import pytest

from glmja.build_tokenizer import build_tokenizer
from glmja.families.chatglm1 import CHATGLM1, clean_reply
from glmja.families.recognition import load_tokenizer
from glmja.modeling.model_folder import ModelFolder
from glmja.resize_embeddings import resize_embeddings
from glmja.tokenization.tokenizer import FILE_NAME
from glmja.twin import build as twin


@pytest.fixture
def folder(chatglm1_dir, tmp_path):
    return shutil.copytree(chatglm1_dir, tmp_path / "model")


def test_a_folder_is_recognized_by_its_tokenizer_and_its_config(folder):
    opened = ModelFolder.open(folder)
    assert opened.family is CHATGLM1
    assert (opened.layout, opened.max_positions) == ("chatglm", 256)
    (folder / "config.json").unlink()
    assert load_tokenizer(folder).stop_ids == opened.tokenizer.stop_ids


def test_a_config_of_chatglm_6b_beside_another_tokenizer_is_refused_with_both_facts(folder, base_dir):
    (folder / "ice_text.model").unlink()
    (folder / FILE_NAME).write_bytes((base_dir / FILE_NAME).read_bytes())
    (folder / "tokenizer_config.json").write_bytes((base_dir / "tokenizer_config.json").read_bytes())
    with pytest.raises(
        ValueError, match=r"<\|system\|> \(ChatGLM3\) but config.json has inner_hidden_size \(ChatGLM-6B\)"
    ):
        ModelFolder.open(folder)


def test_another_family_that_is_named_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"`family` is ChatGLM2, but ice_text.model defines <dBLOCK>, as of ChatGLM-6B"
    ):
        ModelFolder.open(folder, "chatglm2")


@pytest.mark.parametrize("command", [build_tokenizer, resize_embeddings])
def test_its_vocabulary_cannot_be_extended_and_the_error_says_why(command, folder, tokenizer_dir, tmp_path):
    output = tmp_path / "output"
    args = {"corpus": [str(twin.text_file("ja"))]} if command is build_tokenizer else {"tokenizer": str(tokenizer_dir)}
    with pytest.raises(ValueError, match=r"model: the vocabulary of ChatGLM-6B cannot be extended: .* Unigram"):
        command(str(folder), output=str(output), **args)
    assert not output.exists()


def test_replies_are_cleaned_as_by_the_official_code(data):
    expected = json.loads((data / "chatglm1_tiny" / "expected.json").read_text())
    for text, cleaned in expected["process_response"]:
        assert clean_reply(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("好!!", "好！!"),
        (" a,中,b\n", "a，中，b"),
        ("か?き", "か?き"),
        ("[[训练时间]]:3:4", "2023年：3:4"),
        ("12:30", "12:30"),
    ],
)
def test_a_mark_is_full_width_beside_a_chinese_character_only(text, cleaned):
    assert clean_reply(text) == cleaned

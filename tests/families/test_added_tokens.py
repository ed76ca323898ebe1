import json
import shutil

import pytest

from glmja.errors import ModelError
from glmja.families.recognition import family_of, load_tokenizer
from glmja.modeling.model_folder import ModelFolder
from glmja.resize_embeddings import resize_embeddings
from glmja.tokenization import huggingface
from glmja.tokenization.tokenizer import FILE_NAME
from glmja.tokenization.vocabulary import append_pieces
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from tests.support.families import CHATGLM2_CODE


@pytest.fixture
def model(base_dir, tmp_path):
    return shutil.copytree(base_dir, tmp_path / "model")


def add(folder, tokens, file="added_tokens.json"):
    (folder / file).write_text(json.dumps(tokens))


def test_added_tokens_and_their_rows_keep_their_ids(model, base_tokenizer, tmp_path):
    first = len(base_tokenizer)
    add(model, {"<|case|>": first + 1, "<|law|>": first, "<|user|>": base_tokenizer.role_id("user"), "<pad>": 0})
    opened = ModelFolder.open(model)
    assert [opened.tokenizer.control_id(name) for name in ("<|law|>", "<|case|>")] == [first, first + 1]
    assert not {first, first + 1} & set(opened.tokenizer.encode("<|law|><|case|>"))
    new = tmp_path / "tokenizer"
    new.mkdir()
    (new / FILE_NAME).write_bytes(append_pieces(opened.tokenizer.proto, ["です"]).SerializeToString())
    report = resize_embeddings(str(model), str(new), str(tmp_path / "zero"), check_greedy=False)
    zero = ModelFolder.open(tmp_path / "zero")
    assert (report["old_rows_kept"], list(zero.tokenizer.new_ids)) == (first + 2, [first + 2])
    for name in (EMBEDDING, HEAD):
        before, after = (folder.checkpoint.tensors[name].read(first, first + 2) for folder in (opened, zero))
        assert before.equal(after)


def test_a_tokenizer_without_the_added_tokens_does_not_extend_the_base(model, tokenizer_dir, base_tokenizer, tmp_path):
    add(model, {"<|law|>": len(base_tokenizer)})
    with pytest.raises(ModelError, match=r"does not extend .* is '<\|law\|>' in the base"):
        resize_embeddings(str(model), str(tokenizer_dir), str(tmp_path / "zero"))


def test_tokens_added_to_a_written_folder_are_kept(zero_dir, tmp_path):
    folder = shutil.copytree(zero_dir, tmp_path / "zero")
    before = ModelFolder.open(folder).tokenizer
    add(folder, {"<|law|>": len(before)})
    after = ModelFolder.open(folder).tokenizer
    assert after.control_id("<|law|>") == len(before)
    assert after.new_ids == range(before.new_ids.start, len(after))


def test_role_tokens_added_to_chatglm2_do_not_make_it_a_chatglm3(model, base_tokenizer):
    first = len(base_tokenizer) - 4
    (model / "tokenizer_config.json").unlink()
    (model / "tokenization_chatglm.py").write_text(CHATGLM2_CODE)
    roles = ("user", "assistant", "observation", "system")
    add(model, {f"<|{role}|>": first + i for i, role in enumerate(roles)})
    tokenizer = load_tokenizer(model)
    assert (family_of(tokenizer).name, tokenizer.role_id("system")) == ("chatglm2", first + 3)
    assert tokenizer.stop_ids == [tokenizer.eos_id]
    assert huggingface.save(tokenizer, model) == []
    assert not (model / "chat_template.jinja").exists()
    assert family_of(load_tokenizer(model)).name == "chatglm2"


@pytest.mark.parametrize(
    ("tokens", "fact"),
    [
        ({"<|a|>": 1}, r"'<\|a\|>' the id \d+, but no file gives a token the id \d+; name the tokens of all ids"),
        ({"<|a|>": 10**6}, r"the id 1\d+, but config.json has \d+ rows; correct or remove the wrong file"),
        ({"</s>": 0}, r"'</s>' the id \d+, but tokenizer.model gives it the id 2;"),
        ({"<|a|>": -2000}, r"the id \d+, but the id is that of '.+' in tokenizer.model;"),
        ({"<|a|>": -10**6}, r"a token needs a name and an id that is not negative;"),
        ({"<|a|>": 0, "<|b|>": 0}, r"'<\|b\|>' the id \d+, but added_tokens.json gives the id to '<\|a\|>';"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_both_facts(model, base_tokenizer, tokens, fact):
    add(model, {name: len(base_tokenizer) + shift for name, shift in tokens.items()})
    with pytest.raises(ModelError, match=f"added_tokens.json gives .*{fact}"):
        load_tokenizer(model)


def test_one_token_with_two_ids_is_refused_with_both_files(model, base_tokenizer):
    first = len(base_tokenizer)
    add(model, {"added_tokens_decoder": {str(first): {"content": "<|a|>"}}}, "tokenizer_config.json")
    add(model, {"<|a|>": first + 1})
    with pytest.raises(ModelError, match=rf"added_tokens.json gives .* tokenizer_config.json gives it the id {first};"):
        ModelFolder.open(model, "chatglm3")


def backend(*tokens):
    return {"added_tokens": [{"id": number, "content": name, "special": True} for number, name in tokens]}


def test_tokens_inside_tokenizer_json_are_read_like_those_of_added_tokens(model, base_tokenizer):
    first = len(base_tokenizer)
    user = base_tokenizer.role_id("user")
    add(model, backend((0, "<unk>"), (2, "</s>"), (user, "<|user|>"), (first, "<|law|>")), "tokenizer.json")
    assert ModelFolder.open(model).tokenizer.control_id("<|law|>") == first
    add(model, {"<|law|>": first})
    assert ModelFolder.open(model).tokenizer.control_id("<|law|>") == first
    add(model, {"<|law|>": first + 1, "<|case|>": first})
    with pytest.raises(ModelError, match=rf"tokenizer.json gives '<\|law\|>' the id {first}, but added_tokens.json"):
        ModelFolder.open(model)


@pytest.mark.parametrize("tokens", [{"a": 1}, ["<|law|>"], [{"content": "<|law|>"}], [{"id": "3", "content": "x"}]])
def test_tokens_inside_tokenizer_json_that_cannot_be_read_are_refused(model, tokens):
    add(model, {"added_tokens": tokens}, "tokenizer.json")
    with pytest.raises(
        ModelError, match=r"tokenizer.json: added_tokens has .* where a (list of tokens|token with an id) "
    ):
        load_tokenizer(model)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_special_token_without_an_id_is_refused_unless_another_file_gives_it(model, base_tokenizer, file):
    add(model, {"additional_special_tokens": ["<|user|>", "<pad>", {"content": "<|law|>"}]}, file)
    with pytest.raises(
        ModelError, match=rf"{file} lists '<\|law\|>' among .* no file gives its id; give the id in added"
    ):
        load_tokenizer(model)
    add(model, {"<|law|>": len(base_tokenizer)})
    assert load_tokenizer(model).control_id("<|law|>") == len(base_tokenizer)

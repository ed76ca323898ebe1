import ast
import json
import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.errors import ModelError
from glmja.families.chatglm2 import CHATGLM2
from glmja.families.chatglm3 import CHATGLM3
from glmja.families.recognition import FAMILIES, family_named, family_of, load_tokenizer
from glmja.modeling.model_folder import ModelFolder
from glmja.tokenization.special_tokens import with_special_tokens
from glmja.tokenization.tokenizer import FILE_NAME, ROLE_TOKENS, GLMTokenizer, with_control_tokens
from glmja.tokenization.vocabulary import append_pieces, parse_proto
from tests.support.families import CHATGLM2_CODE, CHATGLM3_CODE, as_chatglm2, change_config, without_evidence

ROOT = Path(__file__).parents[2]
AMBIGUOUS = r"ChatGLM2 or ChatGLM3\? No file names .* seq_length .*; set `family` to chatglm3 or chatglm2$"


@pytest.fixture
def bare(base_dir, tmp_path):
    """The twin without evidence."""
    folder = tmp_path / "model"
    shutil.copytree(base_dir, folder)
    return without_evidence(folder)


@pytest.fixture(scope="module")
def num_pieces(base_dir):
    return len(parse_proto((base_dir / FILE_NAME).read_bytes()).pieces)


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def decoder(num_pieces, *names, shift=0):
    ids = {num_pieces + CHATGLM3.control_tokens.index(name) + shift: name for name in names}
    return {"added_tokens_decoder": {str(i): {"content": name, "special": True} for i, name in ids.items()}}


def family(folder, name=None):
    return ModelFolder.open(folder, name).family


class TestEvidence:
    """One fact is enough, in whichever file it is."""

    @pytest.mark.parametrize("code", [CHATGLM3_CODE, f"# {CHATGLM2_CODE}\n{CHATGLM3_CODE}"])
    def test_tokenizer_code_that_names_role_tokens_is_chatglm3s(self, bare, code):
        write(bare, "tokenization_chatglm.py", code)
        assert family(bare) is CHATGLM3

    @pytest.mark.parametrize("code", [CHATGLM2_CODE, f"{CHATGLM2_CODE}# not '<|user|>'\n"])
    def test_tokenizer_code_that_names_no_role_tokens_is_chatglm2s(self, bare, code):
        write(bare, "tokenization_chatglm.py", code)
        assert family(bare) is CHATGLM2

    def test_role_tokens_at_chatglm3s_ids_are_chatglm3s(self, bare, num_pieces):
        write(bare, "tokenizer_config.json", decoder(num_pieces, "<|user|>", "<|observation|>"))
        assert family(bare) is CHATGLM3

    def test_role_tokens_at_other_ids_were_added_to_chatglm2(self, bare, num_pieces):
        write(bare, "tokenizer_config.json", decoder(num_pieces, "<|user|>", "<|assistant|>", shift=-1))
        write(bare, "special_tokens_map.json", {"additional_special_tokens": ["<|user|>"]})
        assert family(bare) is CHATGLM2

    @pytest.mark.parametrize("token", ["<|user|>", {"content": "<|user|>", "lstrip": False}])
    def test_additional_special_tokens_count_without_ids(self, bare, token):
        write(bare, "special_tokens_map.json", {"additional_special_tokens": [token]})
        assert family(bare) is CHATGLM3

    def test_added_tokens_count(self, bare, num_pieces):
        write(bare, "added_tokens.json", {"<|user|>": num_pieces + 6})
        assert family(bare) is CHATGLM3

    @pytest.mark.parametrize("key", ["interleaved_qkv", "rotary_percent"])
    def test_keys_of_codegeex2s_config_are_chatglm2s(self, bare, key):
        change_config(bare, **{key: 0.5})
        assert family(bare) is CHATGLM2

    def test_what_glmja_writes_keeps_the_family_of_its_base(self, zero_dir):
        assert family(zero_dir) is CHATGLM3

    def test_the_published_merge_is_chatglm3(self, bare):
        published = append_pieces(
            parse_proto((bare / FILE_NAME).read_bytes()), [*(f"vcxv{i}" for i in range(1, 10)), "です"]
        )
        (bare / FILE_NAME).write_bytes(published.SerializeToString())
        assert family(bare) is CHATGLM3

    @pytest.mark.parametrize("name", ["chatglm3", "chatglm3_tiny"])
    def test_real_folders_without_tokenizer_code_are_taken_as_chatglm3(self, data, name):
        assert family_of(load_tokenizer(data / name)) is CHATGLM3

    @pytest.mark.parametrize(
        "content",
        [{"added_tokens_decoder": []}, {"added_tokens_decoder": {"x": 3, "9" * 5000: {}}}, {"extra_special_tokens": 3},
         {"additional_special_tokens": [None, {}, {"content": 3}]}],
    )  # fmt: skip
    def test_values_of_another_type_are_refused_by_name(self, bare, content):
        write(bare, "tokenizer_config.json", content)
        with pytest.raises(ModelError, match=r"tokenizer_config.json: \w+ has .* must be; correct or remove the file$"):
            family(bare)

    @pytest.mark.parametrize("code", ["'", "(" * 100_000, "\0", "x = 1\n" * 500_000])
    def test_code_that_cannot_be_parsed_is_no_evidence(self, bare, code):
        write(bare, "tokenization_chatglm.py", code)
        with pytest.raises(ModelError, match=AMBIGUOUS):
            family(bare)

    def test_code_is_not_executed(self, bare):
        write(bare, "tokenization_chatglm.py", f"{CHATGLM2_CODE}open({str(bare / 'ran')!r}, 'w')\n")
        assert family(bare) is CHATGLM2
        assert not (bare / "ran").exists()


NAMES = st.sampled_from(["THUDM/chatglm2-6b", "/data/ChatGLM2-6B/THUDM/chatglm3-6b", "codegeex2", "", "out/1"])


class TestNames:
    """Neither the name of a folder nor a path in its config is evidence."""

    @pytest.mark.parametrize("code", [CHATGLM2_CODE, CHATGLM3_CODE, None])
    @given(name=NAMES | st.text(max_size=20))
    def test_the_family_does_not_depend_on_the_path_in_the_config(self, base_dir, tmp_path_factory, code, name):
        folder = tmp_path_factory.mktemp("named") / "model"
        shutil.copytree(base_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        without_evidence(folder)
        change_config(folder, seq_length=8192)
        if code:
            write(folder, "tokenization_chatglm.py", code)
        change_config(folder, _name_or_path=name)
        assert family(folder) is (CHATGLM2 if code == CHATGLM2_CODE else CHATGLM3)

    @pytest.mark.parametrize("name", ["chatglm2-6b", "chatglm3-6b"])
    def test_the_family_does_not_depend_on_the_name_of_the_folder(self, bare, tmp_path, name):
        change_config(bare, seq_length=8192)
        assert family(bare.rename(tmp_path / name)) is CHATGLM3
        assert family(as_chatglm2(tmp_path / name)) is CHATGLM2


class TestRefusals:
    def test_facts_of_two_families_are_refused_with_both(self, bare, num_pieces):
        write(bare, "tokenizer_config.json", decoder(num_pieces, "<|user|>"))
        write(bare, "tokenization_chatglm.py", CHATGLM2_CODE)
        both = (
            r"tokenizer_config.json defines <\|user\|> \(ChatGLM3\) but tokenization_chatglm.py names \[gMASK\] but no "
            r"role token \(ChatGLM2\); remove the wrong file, or set `family` to chatglm3 or chatglm2"
        )
        with pytest.raises(ModelError, match=both):
            family(bare)

    @pytest.mark.parametrize("name", ["chatglm2", "chatglm3"])
    def test_the_user_decides_where_files_contradict_each_other(self, bare, name):
        write(bare, "tokenizer_config.json", {"additional_special_tokens": ["<|user|>"]})
        write(bare, "tokenization_chatglm.py", CHATGLM2_CODE)
        assert family(bare, name).name == name

    @pytest.mark.parametrize("name", ["chatglm2", "chatglm3"])
    def test_the_user_decides_where_files_say_nothing(self, bare, name):
        assert family(bare, name).name == name

    def test_a_family_that_all_facts_contradict_is_refused(self, bare, zero_dir):
        write(bare, "tokenization_chatglm.py", CHATGLM2_CODE)
        with pytest.raises(ModelError, match=r"`family` is ChatGLM3, but tokenization_chatglm.py .* as of ChatGLM2"):
            family(bare, "chatglm3")
        with pytest.raises(ModelError, match=r"`family` is ChatGLM2, but tokenizer.model defines .* as of ChatGLM3"):
            family(zero_dir, "chatglm2")

    def test_an_unknown_family_is_refused(self, bare):
        with pytest.raises(ValueError, match="`family` 'glm4' is unknown; known are chatglm3, chatglm2"):
            family(bare, "glm4")

    @pytest.mark.parametrize("version", ["4.27.1", "4.29"])
    def test_a_config_older_than_chatglm3_without_evidence_is_refused(self, bare, version):
        change_config(bare, transformers_version=version)
        message = rf"written by transformers {version}, older than ChatGLM3; put .* set `family` to"
        with pytest.raises(ModelError, match=message):
            family(bare)

    @pytest.mark.parametrize("version", ["4.30.2", "5.0.0.dev0", "4", "", None, 7, "9" * 5000 + ".1"])
    @pytest.mark.parametrize("length", [8192, 131072])
    def test_lengths_that_only_chatglm3_has_are_enough_and_said(self, bare, version, length, caplog):
        change_config(bare, transformers_version=version, seq_length=length)
        with caplog.at_level(logging.WARNING):
            assert family(bare) is CHATGLM3
        assert f"config.json has seq_length {length}: taken as ChatGLM3" in caplog.text

    @pytest.mark.parametrize("length", [32768, 2048, None, [8192], "x" * 5000])
    def test_where_evidence_is_missing_the_family_is_asked_for(self, bare, length):
        change_config(bare, transformers_version="4.41.2", seq_length=length)
        with pytest.raises(ModelError, match=AMBIGUOUS) as refusal:
            load_tokenizer(bare)
        assert len(str(refusal.value)) < 500

    def test_a_tokenizer_without_config_is_taken_as_chatglm3_and_said(self, bare, caplog):
        (bare / "config.json").unlink()
        assert family_of(load_tokenizer(bare)) is CHATGLM3
        assert "there is no config.json: taken as ChatGLM3" in caplog.text

    @pytest.mark.parametrize("name", [None, "chatglm2", "chatglm3"])
    @pytest.mark.parametrize("names", [["[sMASK]", "[gMASK]", "[MASK]", "<eop>", "sop"], ["[gMASK]", "[MASK]"]])
    def test_control_tokens_of_no_family_are_refused(self, bare, names, name):
        change_config(bare, seq_length=8192)
        proto = with_control_tokens(parse_proto((bare / FILE_NAME).read_bytes()), names)
        (bare / FILE_NAME).write_bytes(proto.SerializeToString())
        with pytest.raises(
            ModelError, match=r"tokenizer.model: its control tokens \(.*\[gMASK\].*\) are those of no fam"
        ):
            load_tokenizer(bare, name)

    def test_with_evidence_nothing_is_said(self, base_dir, zero_dir, caplog):
        assert family(base_dir) is family(zero_dir) is CHATGLM3
        assert not caplog.records

    def test_chatglm2_that_interpolates_positions_is_refused(self, bare):
        change_config(as_chatglm2(bare), rope_ratio=50)
        with pytest.raises(ModelError, match="has rope_ratio = 50: ChatGLM2 interpolates positions by it"):
            family(bare)

    def test_chatglm3_scales_the_rotary_base(self, bare):
        change_config(bare, rope_ratio=50)
        assert ModelFolder.open(bare, "chatglm3").config["rope_parameters"]["rope_theta"] == 500_000

    def test_chatglms_own_tokenizer_is_not_loaded_without_its_family(self, bare):
        with pytest.raises(ModelError, match=r"defines no control tokens; load it with glmja\.families"):
            GLMTokenizer.load(bare)


def test_families_have_distinct_names_and_control_tokens():
    assert len({family.name for family in FAMILIES}) == len({family.control_tokens for family in FAMILIES}) == 3
    assert all(family_named(family.name) is family for family in FAMILIES)


def test_role_tokens_that_chatglm2_has_after_new_pieces_do_not_make_it_a_chatglm3(bare):
    proto = with_control_tokens(parse_proto((bare / FILE_NAME).read_bytes()), CHATGLM2.control_tokens)
    proto = with_special_tokens(append_pieces(proto, ["まことに"]), ROLE_TOKENS)
    (bare / FILE_NAME).write_bytes(proto.SerializeToString())
    assert family(bare) is CHATGLM2
    assert not load_tokenizer(bare).has_roles


def test_nothing_outside_the_room_asks_for_a_family_by_name():
    """Names of families in code are allowed where users give them: chat formats, and the arguments named `family`."""
    for package in ("glmja", "data_modules", "lit_modules", "callbacks"):
        for path in (ROOT / package).rglob("*.py"):
            if "families" not in path.parts and "conversation" not in path.parts:
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Compare):
                        assert "chatglm2" not in ast.unparse(node), path

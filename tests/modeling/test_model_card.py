import pytest
import yaml

from glmja.modeling.model_card import code_note, converted_card, export_card, hub_name, zero_card

BASE = "zai-org/chatglm3-6b"
LICENSE = {
    "license": "other",
    "license_name": "chatglm3-6b-license",
    "license_link": "https://huggingface.co/zai-org/chatglm3-6b/blob/main/MODEL_LICENSE",
}


def metadata(card):
    _, content, _ = card.split("---\n", 2)
    return yaml.safe_load(content)


def exported(**values):
    return {"format": "glm", "step": 1, "run": "r", "model": "zero"} | values


@pytest.mark.parametrize(
    ("card", "languages"),
    [
        (zero_card({"init": "mean"}, "japanese", BASE), ["zh", "en", "ja"]),
        (export_card(exported(), BASE), ["zh", "en", "ja"]),
        (export_card(exported(ledger={"sources": [{"lang": "ja"}, {"lang": "code"}, {"lang": "ko"}]}), BASE),
         ["zh", "en", "ja", "ko"]),
        (converted_card("m", "glm", "float16", {}, BASE), ["zh", "en"]),
        (converted_card("m", "glm", "float16", {}, BASE, extended=True), ["zh", "en", "ja"]),
    ],
)  # fmt: skip
def test_every_card_names_license_base_and_languages(card, languages):
    found = metadata(card)
    assert found["base_model"] == BASE and found["language"] == languages
    assert {key: found[key] for key in LICENSE} == LICENSE


def test_a_card_names_no_base_that_is_not_known():
    found = metadata(export_card(exported()))
    assert "base_model" not in found and found["license"] == "other"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("THUDM/chatglm3-6b", BASE),
        ("zai-org/chatglm2-6b-32k", "zai-org/chatglm2-6b-32k"),
        ("/home/me/THUDM/chatglm3-6b", None),
        ("THUDM/a\nb", None),
        ("someone/chatglm3-6b", None),
        ("glmja-twin", None),
        (3, None),
    ],
)
def test_the_name_on_the_hub_is_what_the_config_of_the_owner_says(tmp_path, name, expected):
    assert hub_name(tmp_path, {"_name_or_path": name}) == expected


def test_the_name_on_the_hub_is_kept_in_what_is_made_of_a_model(tmp_path):
    assert hub_name(tmp_path, {}) is None
    (tmp_path / "README.md").write_text(zero_card({"init": "mean"}, "japanese", BASE), encoding="utf-8")
    assert hub_name(tmp_path, {}) == BASE


def test_a_folder_in_the_layout_of_chatglm_says_which_files_its_code_needs():
    for card in (export_card(exported(format="chatglm")), converted_card("m", "chatglm", "float16", {})):
        assert "copy the .py files of the original model beside config.json" in card
    assert code_note("glm") is None and ".py files" not in export_card(exported())

"""The recipes with data sets of the Hub, on local folders of the same names and structure."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from data_modules import ChatSource, PackedPretrainingData, PaddedSFTData, TextSource
from tests.support.fake_trainer import FakeTrainer

CONFIGS = Path(__file__).parents[2] / "configs"
LENGTHS = {"ja_oasst2": 3, "code_python": 40}  # repetitions of the answer


def lines(*records):
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records)


def alpaca(name, i, **others):
    return {"instruction": f"{name}の質問{i}", "input": "", "output": f"答え{i}。" * LENGTHS.get(name, 9), **others}


def sharegpt(name, i):
    record = alpaca(name, i)
    turns = [("human", record["instruction"]), ("gpt", record["output"])]
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def dolly(name, i):
    record = alpaca(name, i)
    return {"instruction": record["instruction"], "context": "", "response": record["output"], "category": "open_qa"}


# file in the repository, and a record; JSON arrays and lines as in the originals
CHATS = {
    "ja_oasst2": ("oasst2_chat_ja.jsonl", sharegpt),
    "ja_dolly": ("databricks-dolly-15k-ja.json", lambda name, i: alpaca(name, i, index=str(i), category="open_qa")),
    "ja_hh": ("data/train-00000-of-00001-157934b4864eb8e0.parquet", alpaca),
    "zh_alpaca": ("alpaca_gpt4_data_zh.json", alpaca),
    "zh_ruozhiba": ("ruozhiba_qa.json", lambda name, i: {k: v for k, v in alpaca(name, i).items() if k != "input"}),
    "en_dolly": ("databricks-dolly-15k.jsonl", dolly),
    "code_alpaca": ("code_alpaca_20k.json", alpaca),
    "code_python": ("data/train-00000-of-00001-8b6e212f3e1ece96.parquet", lambda n, i: alpaca(n, i, prompt="…")),
}
TEXTS = {"ja_wiki": "data/train-00000.parquet", "ja_aozora": "aozorabunko-dedupe-clean.jsonl",
         "zh_wiki": "wikipedia-cn-20230720-filtered.json",
         "en_wiki": "wikitext-103-raw-v1/train-00000-of-00002.parquet"}  # fmt: skip


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        path.write_text(lines(*records) if path.suffix == ".jsonl" else json.dumps(records), encoding="utf-8")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A working folder in which the names of data sets are folders."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["data"]["init_args"]


def planned(data):
    data.trainer = FakeTrainer()
    data.prepare_data()
    data.setup("fit")
    return {entry["source"]: entry for entry in data.ledger.entries}


def sft_data(offline, zero_dir, **changes):
    args = recipe("sft_hub") | changes
    sources = [ChatSource(**source) for source in args.pop("sources")]
    for source in sources:
        name, record = CHATS[source.name]
        write(offline / source.hub / name, [record(source.name, i) for i in range(60)])
        (offline / source.hub / "README.md").write_text("a card")
    return PaddedSFTData(str(zero_dir), sources, cache_dir=str(offline / "stores"), **args)


def test_the_sft_recipe_mixes_52_22_9_17_by_conversations(offline, zero_dir):
    data = sft_data(offline, zero_dir)
    entries = planned(data)
    shares = {lang: sum(e["share_of_conversations"] for e in entries.values() if e["lang"] == lang)
              for lang in ("ja", "zh", "en", "code")}  # fmt: skip
    assert shares == pytest.approx({"ja": 0.52, "zh": 0.22, "en": 0.09, "code": 0.17}, abs=0.01)
    assert all(entry["dropped"] == 0 for entry in entries.values())
    assert data.settings["mix_by"] == "conversations"
    assert "weight of ja_oasst2" in data.settings


def test_a_mix_by_tokens_is_another_mix_and_another_run(offline, zero_dir):
    by_tokens, by_conversations = (sft_data(offline, zero_dir, mix_by=unit) for unit in ("tokens", "conversations"))
    tokens, conversations = planned(by_tokens), planned(by_conversations)
    assert tokens["code_python"]["share_of_tokens"] == pytest.approx(0.082, abs=0.02)
    assert conversations["code_python"]["share_of_tokens"] > 2 * tokens["code_python"]["share_of_tokens"]
    assert by_tokens.fingerprint != by_conversations.fingerprint
    assert "mix_by" not in by_tokens.settings  # the fingerprint of earlier runs


def test_an_unknown_unit_of_the_mix_is_refused(offline, zero_dir):
    with pytest.raises(ValueError, match=r"`mix_by` \('rows'\) must be tokens or conversations"):
        sft_data(offline, zero_dir, mix_by="rows")


def test_the_pretraining_recipe_reads_every_document_that_is_not_held_out_once(offline, zero_dir):
    args = recipe("pretrain_hub") | {"row_len": 64}
    sources = [TextSource(**source) for source in args.pop("sources")]
    for source in sources:
        size = 6 if source.lang == "ja" else 1
        records = [{source.text_key: f"{source.name} {i} " + "文章。" * 30, "title": "…"} for i in range(60 * size)]
        write(offline / source.hub / TEXTS[source.name], records)
    folder = offline / "Salesforce" / "wikitext"
    configs = [{"config_name": "wikitext-103-raw-v1", "data_files": "wikitext-103-raw-v1/train*"}]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    entries = planned(PackedPretrainingData(str(zero_dir), sources, cache_dir=str(offline / "stores"), **args))
    assert {name: entry["documents"] for name, entry in entries.items()} == {
        "ja_wiki": 342, "ja_aozora": 342, "zh_wiki": 57, "en_wiki": 57
    }  # fmt: skip
    assert all(entry["passes"] == pytest.approx(1, abs=0.05) for entry in entries.values())


@pytest.mark.parametrize("kind", [TextSource, ChatSource])
def test_a_key_of_a_dataset_beside_files_is_refused(kind):
    for key, value in {"split": "test", "revision": "v1", "data_files": ["a"], "hub_config": "ja"}.items():
        with pytest.raises(ValueError, match=rf"source 'a' has {key}, a key of datasets, but files; set hub"):
            kind("a", "ja", ["a.jsonl"], **{key: value})
    with pytest.raises(ValueError, match=r"has files \['a.jsonl'\] and hub 'b'; set either files or hub"):
        kind("a", "ja", ["a.jsonl"], hub="b")


def test_validation_files_of_a_dataset_may_be_another_split(offline, zero_dir):
    for split in ("train", "validation"):
        write(offline / "adgen" / f"{split}.json", [{"content": f"{split}{i}", "summary": "文案。"} for i in range(9)])
    source = ChatSource("adgen", "zh", format="adgen", hub="adgen", val_files=["hub:adgen,split=validation"])
    data = PaddedSFTData(str(zero_dir), [source], row_len=64, cache_dir=str(offline / "stores"))
    assert planned(data)["adgen"]["conversations"] == 9
    assert [len(numbers) for _, numbers in data.held_out] == [9]

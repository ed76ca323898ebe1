import json

import pyarrow
import pyarrow.parquet
import pytest

from glmja.files import hub_datasets
from glmja.files.documents import check_document_files, documents_of, read_documents
from glmja.files.hub_datasets import HubDataset
from glmja.files.input_files import find_files
from glmja.files.records import check_record_files, read_records

TEXTS = ["一つ目。\n二行目。", "  two  ", "三つ目"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of data files, loaded without a network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub"
    folder.mkdir()
    lines = [json.dumps({"text": t, "number": 1}) for t in [*TEXTS, " "]]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_dataset_gives_its_documents_in_order(hub):
    dataset = HubDataset(str(hub))
    chunks = list(dataset.chunks("text"))
    assert [text for chunk in chunks for text in documents_of(chunk)] == TEXTS
    assert chunks[-1].done == dataset.size
    assert list(read_documents([dataset], description="reading")) == TEXTS


def test_a_dataset_may_be_parquet_with_any_column(hub):
    (hub / "train.jsonl").unlink()
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS}), hub / "train.parquet")
    assert list(read_documents([f"hub:{hub},key=body"])) == TEXTS
    assert [record for _, record in read_records([f"hub:{hub}"])] == [{"body": text} for text in TEXTS]


def test_only_the_named_files_of_a_dataset_are_read(hub):
    for name in ("b", "c"):
        (hub / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    assert list(read_documents([HubDataset(str(hub), data_files=("c.jsonl", "b.jsonl"))])) == ["c", "b"]
    (hub / "bad.jsonl").write_text("{")
    assert list(read_documents([f"hub:{hub},data_files=b.jsonl,data_files=c*"])) == ["b", "c"]


def test_a_revision_is_what_the_hub_is_asked_for(monkeypatch):
    import datasets

    asked = {}
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **kwargs: asked.update(kwargs) or datasets)
    HubDataset.parse("hub:owner/name,revision=0123abc,config=ja").check()
    assert asked == {"data_files": None, "revision": "0123abc"}


def test_the_content_of_a_dataset_depends_on_its_rows_and_on_the_part_that_is_read(hub):
    first = HubDataset(str(hub)).content()
    assert first == HubDataset(str(hub)).content(limit=99)
    assert len({first, HubDataset(str(hub)).content(2), HubDataset(str(hub), split="train[:50%]").content()}) == 3
    (hub / "train.jsonl").write_text(json.dumps({"text": "other"}))
    assert first != HubDataset(str(hub)).content()


def test_checking_a_dataset_reads_none_of_its_records(hub, monkeypatch):
    monkeypatch.setattr(hub_datasets, "row_chunks", None)
    (dataset,) = check_record_files([f"hub:{hub}"], ("json",))
    assert "rows" not in vars(dataset)
    assert check_document_files([f"hub:{hub}"]) == find_files([dataset])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "gone"}, r"dataset '.*hub', split 'gone': unknown split 'gone'; known are train"),
        ({"config": "gone"}, r"dataset '.*hub', split 'train': BuilderConfig 'gone' not found"),
        ({"data_files": ("gone.jsonl",)}, r"dataset '.*hub', split 'train': Unable to find '.*gone.jsonl'"),
        ({"revision": "main"}, r"dataset '.*hub', split 'train': a local folder has no revisions; leave the revision"),
        ({"name": "/nowhere/gone"}, r"dataset '/nowhere/gone', split 'train': "),
    ],
)
def test_a_dataset_that_does_not_exist_is_named_before_it_is_loaded(hub, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        HubDataset(**{"name": str(hub)} | arguments).check()
    assert "\n" not in str(caught.value)


def test_an_option_that_a_saved_dataset_does_not_have_is_refused(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    assert list(read_documents([f"hub:{tmp_path}/saved,split=train[1:]"])) == TEXTS[1:]
    with pytest.raises(ValueError, match=r"written by Dataset.save_to_disk and has no config; leave it out"):
        list(read_documents([f"hub:{tmp_path}/saved,config=ja"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hub:", "hub:: no name; write hub:NAME, as in hub:wikimedia/wikipedia,config=20231101.ja"),
        ("hub:a/b,splits=x", "hub:a/b,splits=x: 'splits=x' is no option; write NAME=VALUE with one of config, split"),
        ("hub:a/b,split", "'split' is no option"),
    ],
)
def test_a_mistake_in_the_name_of_a_dataset_is_explained(text, message):
    with pytest.raises(ValueError, match=message):
        find_files([text])


def test_a_dataset_is_no_single_document(hub):
    with pytest.raises(ValueError, match="only a text file can be one document as a whole; this is a dataset"):
        find_files([f"hub:{hub}"], whole_texts=True)


def test_a_column_that_a_dataset_does_not_have_is_named(hub):
    with pytest.raises(ValueError, match=r"dataset '.*hub': no column 'body' \(found: \['text', 'number'\]\); rename"):
        list(read_documents([f"hub:{hub}"], "body"))


def test_files_with_different_columns_are_refused_with_a_remedy(hub):
    (hub / "train.jsonl").rename(hub / "a.jsonl")
    (hub / "b.jsonl").write_text(json.dumps({"text": "b", "number": {"c": [1]}}))
    with pytest.raises(ValueError, match=r"; download its files \(hf download NAME\) and name these"):
        list(read_documents([f"hub:{hub}"]))


def test_a_dataset_row_without_text_is_named(hub):
    with pytest.raises(ValueError, match=r"dataset '.*hub', split 'train': row 1: 'number' is not text but int"):
        list(read_documents([f"hub:{hub}"], "number"))


def test_commands_take_a_dataset_in_the_place_of_a_file(hub):
    from glmja.cli.arguments import files_by_language
    from glmja.evaluation.references import read_references
    from glmja.evaluation.tasks import first_documents

    texts = files_by_language("--text", [f"ja=hub:{hub},split=train[:2]"], check_document_files)
    assert first_documents(texts["ja"], "text", 100) == TEXTS[:2]
    (hub / "train.jsonl").write_text(json.dumps({"content": "類型#裙", "summary": "文案。"}), encoding="utf-8")
    assert len(read_references([f"hub:{hub}"], 9).kept) == 1

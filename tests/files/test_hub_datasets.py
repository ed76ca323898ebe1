import json

import pyarrow
import pyarrow.parquet
import pytest

from glmja.files.documents import documents_of
from glmja.files.hub_datasets import load_hub, read_hub_chunks

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
    dataset = load_hub(str(hub))
    chunks = list(read_hub_chunks(dataset, "hub", description="reading"))
    assert [text for chunk in chunks for text in documents_of(chunk)] == TEXTS
    assert chunks[-1].done == 4


def test_a_dataset_may_be_parquet_with_any_column(hub):
    (hub / "train.jsonl").unlink()
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS}), hub / "train.parquet")
    (chunk,) = read_hub_chunks(load_hub(str(hub), text_key="body"), "hub", "body")
    assert list(documents_of(chunk, "body")) == TEXTS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "gone"}, r"dataset '.*hub', split 'gone': Unknown split \"gone\""),
        ({"config": "gone"}, r"dataset '.*hub', split 'train': BuilderConfig 'gone' not found"),
        (
            {"text_key": "body"},
            r"dataset '.*hub': no column 'body' \(found: \['text', 'number'\]\); rename the col",
        ),
        ({"name": "/nowhere/gone"}, r"dataset '/nowhere/gone', split 'train': "),
    ],
)
def test_a_dataset_that_cannot_be_read_is_named_in_one_line(hub, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_hub(**{"name": str(hub)} | arguments)
    assert "\n" not in str(caught.value)


def test_a_dataset_row_without_text_is_named(hub):
    (chunk,) = read_hub_chunks(load_hub(str(hub), text_key="number"), "dataset 'hub'", "number")
    with pytest.raises(ValueError, match=r"dataset 'hub': row 1: 'number' is not text but int"):
        list(documents_of(chunk, "number"))

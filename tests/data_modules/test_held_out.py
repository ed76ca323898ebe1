import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_modules import ChatSource, PackedPretrainingData, PaddedSFTData, TextSource
from data_modules.held_out import Split, split, warn_of_few
from data_modules.stores import chat_store
from data_modules.stores.chat_store import ChatStore
from glmja.evaluate import evaluate
from glmja.evaluation.retention import RetentionLimits
from glmja.files.checksums import write_checksums
from glmja.runs.identity import RunIdentity
from glmja.twin.build import text_file
from tests.support.fake_trainer import FakeTrainer

KINDS = ("pretraining", "sft")
LINES = {
    "pretraining": text_file("ja").read_text(encoding="utf-8").splitlines(keepends=True),
    "sft": text_file("conversations").read_text(encoding="utf-8").splitlines(keepends=True)[:40],
}


def source(kind, folder, name, lines, val_lines=(), **others):
    paths = {"files": folder / f"{name}.jsonl", "val_files": folder / f"{name}.val.jsonl"}
    for path, content in zip(paths.values(), (lines, val_lines), strict=True):
        path.write_text("".join(content), encoding="utf-8")
    files = {key: [str(path)] if path.stat().st_size else [] for key, path in paths.items()}
    return (TextSource if kind == "pretraining" else ChatSource)(name, "ja", **files, **others)


def planned(kind, zero_dir, folder, sources, stores=None, saved=None, **others):
    data_class = PackedPretrainingData if kind == "pretraining" else PaddedSFTData
    data = data_class(str(zero_dir), sources, row_len=64, cache_dir=str(folder / "cache"), **others)
    data.trainer = FakeTrainer()
    data._stores, data.saved = stores or {}, saved
    data.setup("fit")
    return data


def contents(store, numbers):
    return {tuple(store.tokens[store.starts[i] : store.starts[i + 1]].tolist()) for i in numbers}


def trained_and_held_out(data):
    stores = [data._stores[source.name][0] for source in data.sources]
    trained = [contents(store, part.used) for store, part in zip(stores, data.splits, strict=True)]
    return set().union(*trained), set().union(*(contents(store, numbers) for store, numbers in data.held_out))


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_text_is_never_trained_on_across_sources_and_validation_files(zero_dir, tmp_path, kind, caplog):
    lines = LINES[kind]
    sources = [
        source(kind, tmp_path, "a", lines[:20] + lines[:5]),
        source(kind, tmp_path, "b", lines[10:30]),
        source(kind, tmp_path, "c", lines[25:40], [*lines[0:3], *lines[26:28]]),
    ]
    data = planned(kind, zero_dir, tmp_path, sources, val_share=0.3)
    trained, held_out = trained_and_held_out(data)
    assert held_out and not trained & held_out
    first, _, last = data.ledger.entries
    assert last["equal_to_held_out"] >= last["held_out_by_c"] == 2
    assert first["held_out_by_c"] >= 1 and first["held_out"] > 0
    assert "source 'c': " in caplog.text and "are left out of training because equal ones are held out" in caplog.text
    again = planned(kind, zero_dir, tmp_path, sources, val_share=0.3)
    assert (again.fingerprint, again.ledger) == (data.fingerprint, data.ledger)


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_overlaps_nothing_is_left_out(zero_dir, tmp_path, kind, caplog):
    lines = LINES[kind]
    sources = [source(kind, tmp_path, "a", lines[:15]), source(kind, tmp_path, "b", lines[15:30], lines[30:40])]
    data = planned(kind, zero_dir, tmp_path, sources, val_share=0.2)
    for i, entry in enumerate(data.ledger.entries):
        assert entry["equal_to_held_out"] == 0 and not any(key.startswith("held_out_by") for key in entry)
        assert data.splits[i].used.tolist() == split(15, 0 if i else 0.2, (0, i), "x")[0].tolist()
    assert "left out" not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_their_own_validation_files_are_refused(zero_dir, tmp_path, kind):
    lines = LINES[kind][:10]
    message = r"source 'a': all of its 10 records are held out for validation \(10 by 'a'\), and nothing is left to tra"
    with pytest.raises(ValueError, match=message):
        planned(kind, zero_dir, tmp_path, [source(kind, tmp_path, "a", lines, lines)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_an_earlier_version_without_digests_is_compared_by_its_tokens(zero_dir, tmp_path, kind):
    data = planned(kind, zero_dir, tmp_path, [source(kind, tmp_path, "a", LINES[kind][:20])])
    (store,) = data._stores["a"]
    saved = store.digests.tolist()
    (store.folder / "digests.npy").unlink()
    assert type(store)(store.folder).digests.tolist() == saved
    assert len(set(saved)) == 20 and store.digests.dtype == np.uint64


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_identified_by_their_bytes_not_by_their_paths(zero_dir, tmp_path, kind, monkeypatch):
    lines = LINES[kind][:12]
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    first, moved = ([source(kind, folder, "a", lines)] for folder in folders)
    fingerprint = planned(kind, zero_dir, tmp_path, first).fingerprint
    assert planned(kind, zero_dir, tmp_path, moved).fingerprint == fingerprint
    monkeypatch.chdir(folders[0])
    relative = type(first[0])("a", "ja", files=["a.jsonl"])
    assert planned(kind, zero_dir, tmp_path, [relative]).fingerprint == fingerprint
    renamed = Path("renamed.jsonl")
    renamed.write_bytes(Path("a.jsonl").read_bytes())
    assert planned(kind, zero_dir, tmp_path, [type(first[0])("a", "ja", files=["renamed.jsonl"])]).fingerprint == (
        fingerprint
    )
    reordered = source(kind, tmp_path, "a", lines[::-1])
    assert planned(kind, zero_dir, tmp_path, [reordered]).fingerprint != fingerprint


def test_places_of_dropped_records_begin_with_the_path_of_now(zero_dir, tmp_path, caplog):
    bad = [json.dumps({"messages": []}) + "\n"]
    for name in ("here", "there"):
        caplog.clear()
        (tmp_path / name).mkdir()
        moved = source("sft", tmp_path / name, "a", LINES["sft"][:12] + bad)
        planned("sft", zero_dir, tmp_path, [moved], max_bad_share=0.5)
        assert f"{tmp_path}/{name}/a.jsonl:13" in caplog.text


@pytest.mark.parametrize("same", [True, False])
def test_a_run_of_the_version_that_hashed_paths_resumes_if_its_store_is_there_with_the_same_tokens(
    zero_dir, tmp_path, same
):
    sources = [source("sft", tmp_path, "a", LINES["sft"][:12])]
    now = planned("sft", zero_dir, tmp_path, sources)
    *_, former_key = chat_store._keys(sources[0], sources[0].find_files(), now.tokenizer, now.row_len)
    former = tmp_path / "cache" / former_key
    shutil.copytree(now._stores["a"][0].folder, former)
    (former / "digests.npy").unlink()
    if not same:
        (former / "tokens.bin").write_bytes((former / "tokens.bin").read_bytes()[::-1])
    write_checksums(former)
    then = planned("sft", zero_dir, tmp_path, sources, stores={"a": [ChatStore.open(tmp_path / "cache", former_key)]})
    again = planned("sft", zero_dir, tmp_path, sources, saved=RunIdentity(data=then.fingerprint))
    assert again.fingerprint == (then.fingerprint if same else now.fingerprint)
    assert then.fingerprint != now.fingerprint


@pytest.mark.parametrize(
    ("num_documents", "val_share", "num_held_out"),
    [(2, 0.01, 1), (100, 0.01, 5), (1000, 0.01, 20), (10_000, 0.01, 100), (1000, 0.001, 20), (40, 0.5, 20), (40, 0, 0)],
)
def test_enough_documents_are_held_out_for_a_verdict(num_documents, val_share, num_held_out):
    used, held = split(num_documents, val_share, (0, 0), "x")
    assert (len(used), len(held)) == (num_documents - num_held_out, num_held_out)


@pytest.mark.parametrize(
    ("held", "warned"),
    [
        ({"ja": [19]}, ["few held-out records (ja 19): with fewer than 20"]),
        ({"ja": [20]}, []),
        ({"ja": [10, 10], "zh": [3, 4]}, ["few held-out records (zh 7)"]),
        ({"ja": [1], "zh": [3]}, ["few held-out records (ja 1, zh 3)"]),
        ({"ja": [0]}, []),  # no validation
    ],
)
def test_few_held_out_records_of_a_language_are_warned_of(held, warned, caplog):
    parts = [(lang, Split("s", None, np.arange(9), None, np.arange(n), {})) for lang, ns in held.items() for n in ns]
    warn_of_few([part for _, part in parts], [lang for lang, _ in parts])
    assert [record.getMessage()[: len(text)] for record, text in zip(caplog.records, warned, strict=True)] == warned


def test_as_many_documents_are_held_out_as_a_verdict_on_retention_needs():
    needed = RetentionLimits().min_documents
    assert len(split(1000, 0.001, (0,), "a")[1]) == needed
    assert inspect.signature(evaluate).parameters["min_documents"].default == needed


def test_a_source_with_few_held_out_documents_is_warned_of_when_a_run_is_planned(zero_dir, tmp_path, caplog):
    planned(
        "pretraining", zero_dir, tmp_path, [source("pretraining", tmp_path, "a", LINES["pretraining"])], val_share=0.1
    )
    assert "few held-out records (ja " in caplog.text

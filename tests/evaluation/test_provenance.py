from glmja.evaluation import provenance as module
from glmja.evaluation.provenance import provenance
from glmja.evaluation.references import Reference, References
from glmja.evaluation.tasks import EvalLimits, EvalTasks
from glmja.files.hub_datasets import HubDataset
from glmja.files.input_files import InputFile


def made(texts, files, references=()):
    kept = {"ja": References(list(references))} if references else {}
    tasks = EvalTasks({"ja": texts}, kept, (), [], EvalLimits(9, 9, 9, 9, 9))
    return provenance(["x"], tasks, {"ja": files}, {"ja": files}, "cpu", None)


def test_a_large_file_is_named_with_its_size_but_not_hashed(tmp_path, monkeypatch):
    path = tmp_path / "ja.txt"
    path.write_text("abc")
    (small,) = made(["a"], [InputFile(path, "text")]).samples[0].files
    monkeypatch.setattr(module, "_MAX_HASHED", 2)
    (large,) = made(["a"], [InputFile(path, "text")]).samples[0].files
    assert (small.name, small.size, large.size) == (str(path), 3, 3)
    assert small.sha256.startswith("ba7816bf") and large.sha256 is None


def test_a_dataset_of_the_hub_is_named(tmp_path):
    (file,) = made(["a"], [HubDataset("a/b", split="test")]).samples[0].files
    assert "a/b" in file.name and (file.size, file.sha256) == (None, None)


def test_the_hash_of_a_sample_is_that_of_what_was_used():
    reference = Reference([{"role": "user", "content": "q"}], ["a"])
    assert [(one.use, one.records, one.characters) for one in made(["ab", "c"], [], [reference]).samples] == [
        ("text", 2, 3), ("conversations", 1, None)
    ]  # fmt: skip
    hashes = [made(texts, []).samples[0].sha256 for texts in (["ab", "c"], ["ab", "c"], ["a", "bc"], ["ab", "d"])]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3

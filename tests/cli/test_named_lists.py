import json

import pytest
from jsonargparse import capture_parser

from glmja import fit
from glmja.cli.named_lists import merge_named

LIST = """
data:
  init_args:
    sources:
      - {name: ja, lang: ja, weight: 0.76, files: [ja.jsonl]}
      - {name: en, lang: en, weight: 0.24, files: [en.jsonl], columns: {prompt: q}}
trainer:
  callbacks:
    - class_path: callbacks.Throughput
    - class_path: callbacks.ChatSampler
      init_args: {every_n_steps: 500}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(LIST)
    return f"--config={tmp_path / 'recipe.yaml'}"


def merged(*args):
    """The sources by name and the callbacks by class, and the other arguments."""
    result = merge_named(args)
    lists = dict(
        arg.split("=", 1) for arg in result if arg.startswith(("--data.init_args.sources=[", "--trainer.callb"))
    )
    sources = {entry.pop("name"): entry for entry in json.loads(lists.get("--data.init_args.sources", "[]"))}
    callbacks = {
        e["class_path"].split(".")[-1]: e.get("init_args") for e in json.loads(lists.get("--trainer.callbacks", "[]"))
    }
    return sources, callbacks, [arg for arg in result if arg.partition("=")[0] not in lists]


def test_arguments_without_names_stay_as_they_are(recipe):
    args = [
        recipe,
        "--data.init_args.sources",
        "[]",
        "--trainer.callbacks+=callbacks.Throughput",
        "-c",
        "x",
        "--run_dir",
        "a",
    ]
    assert merge_named(args) == args


def test_a_flag_changes_one_value_of_the_entry_that_it_names(recipe):
    sources, callbacks, rest = merged(
        recipe, "--data.sources.ja.weight", "0.5", "--run_dir", "r", "--data.init_args.sources.en.columns.response=a",
        "--data.sources.ja.files", "a.jsonl", "b.jsonl", "--data.sources.en.files=c.jsonl",
        "--callbacks.ChatSampler.every_n_steps", "100", "--trainer.callbacks.Throughput.init_args.peak=1",
    )  # fmt: skip
    assert sources == {
        "ja": {"lang": "ja", "weight": 0.5, "files": ["a.jsonl", "b.jsonl"]},
        "en": {"lang": "en", "weight": 0.24, "files": ["c.jsonl"], "columns": {"prompt": "q", "response": "a"}},
    }
    assert callbacks == {"Throughput": {"peak": 1}, "ChatSampler": {"every_n_steps": 100}}
    assert rest == [recipe, "--run_dir", "r"]


def test_a_mapping_changes_adds_and_removes_entries_of_earlier_files(recipe, tmp_path):
    (tmp_path / "more.yaml").write_text("""
data: {init_args: {sources: {ja: {weight: 1}, en: false, code: {lang: code, weight: 2, files: [c.jsonl]}}}}
callbacks: {Throughput: , EarlyStopping: {monitor: val/ja/loss}, ChatSampler: false}
""")
    sources, callbacks, _ = merged(recipe, "-c", str(tmp_path / "more.yaml"))
    assert {name: source["weight"] for name, source in sources.items()} == {"ja": 1, "code": 2}
    assert callbacks == {"Throughput": None, "EarlyStopping": {"monitor": "val/ja/loss"}}


def test_a_later_list_replaces_what_was_named_before(recipe):
    given = '[{"name": "zh", "lang": "zh", "files": ["z"]}]'
    sources, _, _ = merged(recipe, "--data.sources.ja.weight=1", f"--data.init_args.sources={given}")
    assert list(sources) == ["zh"]
    sources, _, _ = merged(recipe, f"--data.init_args.sources={given}", "--data.sources.zh.limit=3")
    assert sources["zh"]["limit"] == 3


def test_a_key_after_the_list_of_callbacks_belongs_to_the_last_one(recipe):
    _, callbacks, _ = merged(recipe, "--callbacks.Throughput.peak=1", "--trainer.callbacks.max_new_tokens=9")
    assert callbacks["ChatSampler"] == {"every_n_steps": 500, "max_new_tokens": 9}


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("--data.sources.jap.weight=1", "--data.sources: no source 'jap'; did you mean ja?"),
        ("--data.sources.weight=1", "no source 'weight'; known are ja, en"),
        ("--callbacks.Chat.seed=1", "--callbacks: no callback 'Chat'; known are Throughput, ChatSampler"),
        ("--data.sources.ja=3", "--data.sources.ja is 3; write `key: value` lines, or false to remove it"),
        ("--data.sources={jap: {weight: 1}}", "no source 'jap'; did you mean ja?, and a new one needs `lang`"),
        ("--data.sources={jap: false}", "no source 'jap'; did you mean ja"),
        ("--data.sources.ja.lang.x=1", "'lang' holds 'ja' and has no key 'x'"),
        ("--trainer.callbacks+=callbacks.Throughput", "2 entries have the name 'Throughput'; write the list instead"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused(recipe, arg, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?").replace("+", r"\+")):
        merged(recipe, arg, "--callbacks.Throughput.peak=1")


def test_fit_parses_what_is_named_and_names_its_mistakes(tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("data: {init_args: {sources: {chats: {limit: 5}}}}")
    args = ["--config=configs/demo_sft.yaml", f"--config={tmp_path}/more.yaml"]
    args += ["--data.sources.chats.lang", "ja", "--callbacks.ChatSampler.every-n-steps", "7"]
    config = capture_parser(lambda: fit.main(args)).parse_args(args)
    (source,) = config.data.init_args.sources
    assert (source.limit, source.lang, source.files) == (5, "ja", ["glmja/twin/texts/conversations.jsonl"])
    assert config.trainer.callbacks[3].init_args.every_n_steps == 7
    with pytest.raises(SystemExit) as ended:
        fit.main([*args, "--data.sources.chat.weight=1"])
    assert ended.value.code == 2
    assert "--data.sources: no source 'chat'; did you mean chats?" in capsys.readouterr().err


def test_a_configuration_may_have_nothing_but_names(tmp_path):
    (tmp_path / "named.yaml").write_text("""
trainer: {callbacks: {ValidationTable: , LearningRateMonitor: {logging_interval: step}}}
model: {class_path: lit_modules.PackedPretraining, init_args: {model_dir: m}}
data:
  class_path: data_modules.PackedPretrainingData
  init_args: {sources: {ja: {lang: ja, files: [a.txt]}, zh: {lang: zh, hub: b, data_files: [c]}}}
""")
    args = [f"--config={tmp_path}/named.yaml"]
    config = capture_parser(lambda: fit.main(args)).parse_args(args)
    assert [(source.name, source.files, source.hub) for source in config.data.init_args.sources] == [
        ("ja", ["a.txt"], None), ("zh", [], "b"),
    ]  # fmt: skip
    names = [callback.class_path.split(".")[-1] for callback in config.trainer.callbacks]
    assert names == ["ValidationTable", "LearningRateMonitor"]

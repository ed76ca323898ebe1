import io
import json
import re
import shutil
import unicodedata

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer
from transformers import AutoTokenizer

from glmja import build_tokenizer
from glmja.conversation.rendering import render_prompt
from glmja.convert import convert
from glmja.families.recognition import load_tokenizer
from glmja.modeling.model_folder import ModelFolder
from glmja.resize_embeddings import resize_embeddings
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.vocabulary import POLICIES, append_pieces, check_premises
from glmja.twin import build as twin
from glmja.verification.tokenizer import TextReport, efficiency
from glmja.weights.chatglm_layout import EMBEDDING
from tests.support.daily import drawn


def flags(base, output, **others):
    values = {"base": base, "output": output, "corpus": twin.text_file("ja"), "num_new_pieces": 200} | others
    return [part for key, value in values.items() if value is not None for part in (f"--{key}", str(value))]


def refused(capsys, args):
    """The one line that a refused command leaves on stderr."""
    with pytest.raises(SystemExit) as stop:
        build_tokenizer.main(args)
    assert stop.value.code in (2, 3, 4, 5)  # which one: tests/system/test_exit_codes.py
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


CHECKS = [f"{language}={twin.text_file(language)}" for language in twin.LANGUAGES]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_report_describes_the_tokenizer(base_dir, tmp_path, policy, base_tokenizer, texts, capsys):
    args = [*flags(base_dir, tmp_path / "out", policy=policy), "--check", *CHECKS]
    report = build_tokenizer.main(args)
    assert report == json.loads((tmp_path / "out" / "tokenizer_report.json").read_text())
    new = GLMTokenizer.load(tmp_path / "out")
    assert report["pieces_after"] == len(new) == len(base_tokenizer) + 200
    assert report["tokenizer_sha256"] == new.fingerprint
    assert report["unreachable_pieces"] == 0
    assert check_premises(base_tokenizer.proto, new.proto, policy) == []
    for language in ("zh", "en"):
        assert report["texts"][language]["changed"] == 0
    japanese = report["texts"]["ja"]
    assert japanese["tokens_per_character_after"] < 0.6 * japanese["tokens_per_character_before"]
    assert japanese["round_trip_after"] == japanese["protected_changed"] == 0
    assert japanese["byte_tokens_after"] < japanese["byte_tokens_before"]
    assert 0 < japanese["renyi_efficiency_after"] < 1
    assert report["pieces_with_space"] == sum(new.piece(i).startswith("▁") for i in new.new_ids)
    assert [row["pieces"] for row in report["learning"]["rows"]] == [0, 200]
    printed = capsys.readouterr().out
    assert "conditions of the proof" in printed and "tokens/char" in printed and "0.9360 → 0.9360" in printed
    assert "next 1,024 save" in printed and "Rényi efficiency" in printed and "hold a kana" in printed


def test_counts_are_those_of_encoding_every_sentence(base_dir, tmp_path, base_tokenizer):
    lines = ["駅まで歩きます。今日は雨です。", "外婆的厨房朝北。<|user|> 16", "the end"]
    (tmp_path / "mixed.txt").write_text("\n".join(lines), encoding="utf-8")
    report = build_tokenizer.main([*flags(base_dir, tmp_path / "out"), "--check", f"mixed={tmp_path / 'mixed.txt'}"])
    new = GLMTokenizer.load(tmp_path / "out")
    sentences = ["駅まで歩きます。", "今日は雨です。", "外婆的厨房朝北。", "<|user|> 16", "the end"]
    counted = report["texts"]["mixed"]
    assert counted["sentences"] == 5
    assert counted["characters"] == sum(map(len, sentences))
    assert counted["tokens_before"] == sum(len(base_tokenizer.encode(s)) for s in sentences)
    assert counted["tokens_after"] == sum(len(new.encode(s)) for s in sentences)
    assert counted["changed"] == sum(base_tokenizer.encode(s) != new.encode(s) for s in sentences) == 2
    assert counted["protected"] == 3
    assert counted["protected_changed"] == counted["hugging_face_differs"] == 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"protected_changed": 2, "examples": ["a"]}, r"2 protected sentences of zh changed: \['a'\]"),
        ({"round_trip_after": 3, "round_trip_before": 1}, "3 sentences of zh are not decoded to themselves"),
        ({"hugging_face_differs": 1}, "tokenizer.json gives other ids to 1 sentences of zh"),
    ],
)
def test_violated_conditions_fail_the_verification(counts, message):
    (failure,) = TextReport(**counts).failures("zh", "japanese")
    assert re.search(message, failure)


def test_a_base_with_equal_scores_gets_no_hugging_face_files(base_dir, tmp_path, base_tokenizer):
    proto = append_pieces(base_tokenizer.proto, ["ゑ", "ヱ"])
    proto.pieces[-1].score = proto.pieces[-2].score
    (tmp_path / "base").mkdir()
    GLMTokenizer(proto).save(tmp_path / "base")
    report = build_tokenizer.main(flags(tmp_path / "base", tmp_path / "out"))
    assert report["hugging_face_tokenizer"] == "left out: two pieces have the same score"
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_an_output_that_holds_the_input_is_refused(base_dir, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    base = tmp_path / "out" / "base"
    base.mkdir()
    for path in base_dir.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    line = refused(capsys, flags(base, tmp_path / "out", overwrite="true"))
    assert "contains the input" in line and "choose another folder" in line
    assert base.is_dir()
    files = {"corpus": "ja.jsonl", "check": "ja=ja.jsonl", "pieces": "pieces.txt", "exclude": "words.txt"}
    shutil.copy(twin.text_file("ja"), tmp_path / "out" / "ja.jsonl")
    for name in ("pieces.txt", "words.txt", "tokenizer.model"):
        (tmp_path / "out" / name).write_text("日本\n", encoding="utf-8")
    for key, name in files.items():
        path = name.replace("ja.jsonl", f"{tmp_path}/out/ja.jsonl") if "ja" in name else f"{tmp_path}/out/{name}"
        more = [] if key == "pieces" else ["--num_new_pieces=10"]
        args = [f"--base={base_dir}", f"--output={tmp_path}/out", "--overwrite", *more, f"--{key}={path}"]
        if key in ("check", "exclude"):
            args.append(f"--corpus={twin.text_file('ja')}")
        assert "contains the input" in refused(capsys, args), key
    assert len([*(tmp_path / "out").iterdir()]) == 5


def test_a_tokenizer_of_ours_can_be_extended_again(tokenizer_dir, tokenizer, tmp_path):
    report = build_tokenizer.main(flags(tokenizer_dir, tmp_path / "out", num_new_pieces=50))
    assert report["pieces_after"] == len(tokenizer) + 50


def test_a_ready_model_is_filtered_and_its_rejects_are_shown(base_dir, tmp_path, texts):
    model = io.BytesIO()
    lines = [line for text in texts["ja"] for line in text.split("\n") if line]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=2500, model_type="bpe", minloglevel=2
    )
    (tmp_path / "ja.model").write_bytes(model.getvalue())
    report = build_tokenizer.main(flags(base_dir, tmp_path / "out", corpus=None, pieces=tmp_path / "ja.model"))
    assert report["rejected_pieces"] > 0 < len(report["rejected_examples"])


def test_a_command_can_be_given_as_a_file(base_dir, tmp_path):
    config = {"base": str(base_dir), "corpus": [str(twin.text_file("ja"))], "output": str(tmp_path / "out")}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    report = build_tokenizer.main(["--config", str(tmp_path / "config.yaml"), "--num_new_pieces", "10"])
    assert report["pieces_after"] - report["pieces_before"] == 10


def test_help_explains_every_argument(capsys):
    with pytest.raises(SystemExit) as stop:
        build_tokenizer.main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for word in (
        "--corpus",
        "learn pieces from",
        "--check",
        "LANG=FILE",
        "--policy",
        "an ideograph outside GB 2312; protects simplified Chinese.",
    ):
        assert word in printed


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"base": "nowhere"}, "no such folder: nowhere"),
        ({"corpus": "nowhere.txt"}, "no such file: nowhere.txt"),
        ({"corpus": "setup.cfg"}, "setup.cfg: unknown kind of file"),
        (
            {"num_new_pieces": 99999},
            "99999 asked for; give a larger --corpus or a smaller --num_new_pieces",
        ),
        ({"num_new_pieces": 0}, "--num_new_pieces 0 must be at least 1"),
        ({"corpus": None}, "give either --corpus FILE… to learn pieces from, or --pieces FILE"),
        ({"pieces": "x.model"}, "give either --corpus FILE… to learn pieces from, or --pieces FILE"),
        (
            {"corpus": None, "pieces": "gone.model", "num_new_pieces": "auto"},
            "--num_new_pieces auto measures what pieces save on a --corpus; with --pieces, give a number",
        ),
        ({"num_new_pieces": "auto", "min_gain": 2}, "--min_gain (2.0) must be between 0 and 1"),
        ({"exclude": "gone.txt"}, "no such file: gone.txt"),
        ({"corpus": None, "pieces": "gone.model"}, "No such file or directory: 'gone.model'"),
        ({"check": "ja"}, "--check 'ja' must be LANG=FILE, as in ja=data/ja.jsonl"),
        ({"check": "ja=gone.txt"}, "no such file: gone.txt"),
        ({"text_key": "body"}, "ja.jsonl:1: no key 'body' (found: ['text']); rename the key or set --text_key"),
        ({"output": "tests"}, "--output tests exists and is not empty; set --overwrite to replace it"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(base_dir, tmp_path, capsys, others, message):
    line = refused(capsys, flags(**{"base": base_dir, "output": tmp_path / "out"} | others))
    assert line.startswith("python -m glmja.build_tokenizer: error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_not_utf8_is_named_with_its_line(base_dir, tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes("日本語\n".encode() + "日本語".encode("euc_jp"))
    line = refused(capsys, flags(base_dir, tmp_path / "out", corpus=tmp_path / "a.txt"))
    assert "a.txt:2: not UTF-8" in line


def test_nothing_is_written_if_the_verification_fails(base_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build_tokenizer, "check_premises", lambda *_: ["piece 7 changed"])
    line = refused(capsys, flags(base_dir, tmp_path / "out"))
    assert line.endswith("the verification fails, nothing is written: piece 7 changed")
    assert list(tmp_path.iterdir()) == []


def test_the_traceback_is_shown_on_request(base_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GLMJA_DEBUG", "1")
    with pytest.raises(ValueError, match="must be at least 1"):
        build_tokenizer.main(flags(base_dir, tmp_path / "out", num_new_pieces=0))


@pytest.mark.parametrize(("policy",), drawn("policies", [("japanese",), ("shinjitai",), ("kana",)], 1))
def test_no_protected_sentence_of_real_text_changes(data, tmp_path, policy):
    from glmja.files.documents import read_documents
    from glmja.tokenization.ready_pieces import ready_pieces
    from glmja.tokenization.vocabulary import append_pieces
    from glmja.verification.tokenizer import compare_on_texts

    old = load_tokenizer(data / "chatglm3")
    pieces = ready_pieces(old.proto, data / "reference" / "ja_bpe.model", 5000, policy).pieces
    new = GLMTokenizer(append_pieces(old.proto, pieces))
    for language in ("zh", "en"):
        documents = list(read_documents([data / "text" / f"{language}.jsonl.gz"]))[::10]
        report = compare_on_texts(documents, old, new, policy)
        assert report.protected_changed == 0
        assert report.protected > 1000


def aozora_line(number):
    return f"主人《あるじ》は書斎《しょさい》に籠《こも》って居る。［＃「居る」に傍点］［＃改ページ］ {number}\n"


def test_markup_of_aozora_is_named_and_stripped_on_request(base_dir, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("".join(map(aozora_line, range(100))), encoding="utf-8")
    args = flags(base_dir, tmp_path / "out", corpus=tmp_path / "a.txt", num_new_pieces=10, overwrite="true")
    report = build_tokenizer.main(args)
    assert report["corpus"]["aozora_marks"] == 500
    said = capsys.readouterr().out
    assert "--strip_aozora leaves them out" in " ".join(said.replace("│", " ").split())
    assert "WARN: the corpus has 500 readings and notes of Aozora; set --strip_aozora\n" in said
    build_tokenizer.main([*args, "--strip_aozora"])
    assert "Aozora; set" not in capsys.readouterr().out
    new = GLMTokenizer.load(tmp_path / "out")
    assert not set("《》［］＃") & set("".join(map(new.piece, new.new_ids)))


def test_repeated_lines_do_not_become_pieces(base_dir, tmp_path):
    text = twin.text_file("ja").read_text(encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(text + '{"text": "ページのトップへもどる"}\n' * 500, encoding="utf-8")
    report = build_tokenizer.main(flags(base_dir, tmp_path / "out", corpus=tmp_path / "a.jsonl"))
    assert report["corpus"]["repeated_lines"] >= 499
    new = GLMTokenizer.load(tmp_path / "out")
    assert not [new.piece(i) for i in new.new_ids if "トップ" in new.piece(i)]


def test_a_corpus_of_repeated_lines_alone_is_learned_from_with_a_warning(base_dir, tmp_path, caplog):
    (tmp_path / "a.txt").write_text("だからガラスが割れたのではないでしょうか。\n" * 30, encoding="utf-8")
    build_tokenizer.main(flags(base_dir, tmp_path / "out", corpus=tmp_path / "a.txt", num_new_pieces=25))
    assert "repeated lines count as often as they occur" in caplog.text
    assert len(GLMTokenizer.load(tmp_path / "out").new_ids) == 25


def test_a_decomposed_corpus_is_named_and_composed_on_request(base_dir, tmp_path, capsys):
    lines = [f"だからガラスが割れたのではないでしょうか。{number}\n" for number in range(30)]
    (tmp_path / "nfd.txt").write_text(unicodedata.normalize("NFD", "".join(lines)), encoding="utf-8")
    (tmp_path / "nfc.txt").write_text("".join(lines), encoding="utf-8")
    found = {}
    for name, normalize in (("nfc", "none"), ("nfd", "none"), ("nfd", "nfc")):
        args = flags(base_dir, tmp_path / "out", corpus=tmp_path / f"{name}.txt", num_new_pieces=10, overwrite="true")
        report = build_tokenizer.main([*args, f"--normalize={normalize}"])
        assert report["corpus"]["decomposed_characters"] == (0 if name == "nfc" else 30 * 5)
        new = GLMTokenizer.load(tmp_path / "out")
        found[name, normalize] = [new.piece(i) for i in new.new_ids]
        said = " ".join(capsys.readouterr().out.replace("│", " ").split())
        is_decomposed = (name, normalize) == ("nfd", "none")
        assert ("--normalize nfc composes them" in said) == is_decomposed
        warning = "WARN: 150 characters of the corpus are decomposed (NFD), as macOS writes them; set --normalize nfc"
        assert (warning in said) == is_decomposed
    assert found["nfc", "none"] == found["nfd", "nfc"] != found["nfd", "none"]


@pytest.mark.parametrize(
    ("number", "remedy"), [(1200, "lower --num_new_pieces"), ("auto", "raise --min_gain"), (900, None)]
)
def test_many_pieces_that_a_small_corpus_uses_rarely_are_named_at_the_end(base_dir, tmp_path, capsys, number, remedy):
    args = [*flags(base_dir, tmp_path / "out", num_new_pieces=number), "--special_tokens", "[CASE]"]
    report = build_tokenizer.main(args)
    rare, new = report["learning"]["pieces_used_rarely"], report["pieces_after"] - report["pieces_before"] - 1
    assert rare > new / 2
    said = " ".join(capsys.readouterr().out.split())
    line = f"WARN: {rare:,} of {new:,} new pieces occur fewer than 10 times in the text that they were learned from"
    assert (f"{line}; give more text, or {remedy}" in said) == (remedy is not None) == ("WARN" in said)


def test_special_tokens_have_rows_and_survive_every_written_folder(base_dir, tmp_path):
    names = ["<|law|>", "[CASE]"]
    args = [*flags(base_dir, tmp_path / "out", num_new_pieces=20), "--special_tokens", *names]
    report = build_tokenizer.main(args)
    assert report["special_tokens"] == names
    resize_embeddings(str(base_dir), str(tmp_path / "out"), str(tmp_path / "zero"), check_greedy=False)
    convert(str(tmp_path / "zero"), str(tmp_path / "converted"), format="chatglm")
    old = load_tokenizer(base_dir)
    for folder in (tmp_path / "out", tmp_path / "zero", tmp_path / "converted"):
        new = load_tokenizer(folder)
        ids = [new.control_id(name) for name in names]
        assert ids == [len(old) + 20, len(old) + 21] == list(new.new_ids)[-2:]
        prompt = render_prompt([{"role": "user", "content": "<|law|>[CASE]"}], new)
        assert not set(ids) & set(prompt)
        fast = AutoTokenizer.from_pretrained(folder)
        assert fast.convert_tokens_to_ids(names) == ids
        assert fast.decode(ids, skip_special_tokens=True) == "" == new.decode(ids)
        assert fast.encode("<|law|>", add_special_tokens=False, split_special_tokens=True) == new.encode("<|law|>")
    zero, base = (ModelFolder.open(folder).checkpoint for folder in (tmp_path / "zero", base_dir))
    rows = zero.tensors[EMBEDDING].read(len(old) + 20, len(old) + 22)
    assert not rows[0].equal(rows[1]) and rows.abs().sum() > 0
    assert zero.tensors[EMBEDDING].read(0, len(old)).equal(base.tensors[EMBEDDING].read(0, len(old)))


def test_special_tokens_that_text_may_hold_are_refused(base_dir, tmp_path, capsys):
    args = flags(base_dir, tmp_path / "out")
    assert "--special_tokens 'law' could occur in a text" in refused(capsys, [*args, "--special_tokens", "law"])
    assert "'<|user|>' is in the vocabulary already" in refused(capsys, [*args, "--special_tokens", "<|user|>"])


def test_all_words_of_a_list_are_taken_by_default(base_dir, tmp_path):
    (tmp_path / "words.txt").write_text("ありがとう\nこんにちは\nhello\n", encoding="utf-8")
    report = build_tokenizer.main(
        flags(base_dir, tmp_path / "out", corpus=None, num_new_pieces=None, pieces=tmp_path / "words.txt")
    )
    new = GLMTokenizer.load(tmp_path / "out")
    pieces = {new.piece(i) for i in new.new_ids}
    assert {"ありがとう", "こんにちは"} <= pieces
    assert report["steps_added"] == len(pieces) - 2
    assert report["rejected_examples"] == ["hello"]


def test_excluded_texts_are_no_pieces_and_the_next_ones_take_their_places(base_dir, tmp_path):
    args = flags(base_dir, tmp_path / "out", num_new_pieces=100, overwrite="true")
    build_tokenizer.main(args)
    new = GLMTokenizer.load(tmp_path / "out")
    excluded = [new.piece(i) for i in new.new_ids][60:80]
    (tmp_path / "exclude.txt").write_text("\n".join(excluded), encoding="utf-8")
    build_tokenizer.main([*args, "--exclude", str(tmp_path / "exclude.txt")])
    new = GLMTokenizer.load(tmp_path / "out")
    assert len(new.new_ids) == 100
    assert not set(excluded) & {new.piece(i) for i in new.new_ids}


def test_auto_takes_pieces_as_long_as_they_save_tokens(base_dir, tmp_path):
    report = build_tokenizer.main(flags(base_dir, tmp_path / "out", num_new_pieces="auto", min_gain=0.3))
    rows = report["learning"]["rows"]
    assert report["pieces_after"] - report["pieces_before"] == rows[-1]["pieces"] == 1024
    assert rows[0]["gain_of_next"] >= 0.3


def test_renyi_efficiency_is_one_for_equal_use_of_all_ids_and_zero_for_one_id():
    assert efficiency(np.array([3, 3, 3, 3])) == pytest.approx(1)
    assert efficiency(np.array([7, 0, 0, 0])) == efficiency(np.zeros(4, int)) == 0
    assert efficiency(np.array([2, 2, 0, 0])) == pytest.approx(0.5)
    entropy = -np.log(0.75**2.5 + 0.25**2.5) / 1.5
    assert efficiency(np.array([3, 1, 0])) == pytest.approx(entropy / np.log(3))

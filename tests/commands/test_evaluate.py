import hashlib
import html
import json
import re
import shlex
import shutil
from datetime import datetime

import pytest
from torch.utils.tensorboard import SummaryWriter

from glmja.errors import ExitCode
from glmja.evaluate import evaluate, main
from glmja.evaluation.answers import Answer, TokenizedSample
from glmja.evaluation.questions import QUESTIONS
from glmja.evaluation.report import render
from glmja.evaluation.scores import as_json
from glmja.twin.build import text_file
from tests.support.families import as_chatglm2, without_evidence
from tests.support.file_reads import counted_opens, reads_of

QUICK = ["--max_new_tokens", "8", "--max_characters", "2000", "--row_len", "128", "--max_references", "4",
         "--min_documents", "2"]  # fmt: skip
TEXT = ["--text", *(f"{lang}={text_file(lang)}" for lang in ("ja", "zh", "en"))]


@pytest.fixture(scope="module")
def adgen(tmp_path_factory):
    """Advertisements whose answers are unlikely to come."""
    path = tmp_path_factory.mktemp("adgen") / "dev.jsonl"
    records = [{"content": f"类型#裤*颜色#{c}", "summary": f"这条{c}色的裤子很好看。"} for c in "红黑白蓝灰"]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def zero_test(tmp_path_factory, base_dir, zero_dir, adgen):
    """The Zero model compared with its base, by the command line."""
    output = tmp_path_factory.mktemp("evaluate") / "out"
    # with random weights, 600 new rows beside 2,509 old ones take up to ln(1 + 600/2509) = 0.21 nats
    limits = ["--max_kl", "0.22"]
    scores = main(["--model", str(zero_dir), "--baseline", str(base_dir), *TEXT, "--generate", f"zh={adgen}",
                   "--output", str(output), *limits, *QUICK])  # fmt: skip
    return output, scores


def test_zero_answers_chinese_as_its_base_does_and_needs_fewer_tokens_for_japanese(zero_test):
    _, scores = zero_test
    assert scores.questions["zh"].identical == scores.questions["zh"].questions == 2
    assert scores.questions["ja"].questions == 6
    ja, zh = scores.text["ja"], scores.text["zh"]
    assert ja.model.tokens_per_char < ja.baseline.tokens_per_char / 1.5
    assert zh.model.tokens_per_char == zh.baseline.tokens_per_char
    assert zh.model.bits_per_char > zh.baseline.bits_per_char  # new rows take some of the probability


def test_zero_retains_chinese_and_english(zero_test):
    _, scores = zero_test
    assert scores.retention.verdict == "kept" and set(scores.retention.languages) == {"zh", "en"}
    for found in scores.retention.languages.values():
        assert 0 < found.drift_low <= found.drift <= found.drift_high <= 0.02
        assert found.greedy_unchanged == 1 and found.greedy_continuations > 0
        assert found.mean_kl_nats > 0 and found.kl_tokens > 100


def test_the_use_of_new_pieces_is_measured(zero_test, base_dir, zero_dir, tokenizer, tmp_path):
    output, scores = zero_test
    found = scores.new_pieces
    assert found.pieces == len(tokenizer.new_ids) == 600
    assert found.text["ja"].targets > 0 == found.text["zh"].targets and found.text["ja"].median_rank > 1
    assert found.text["zh"].on_top == 0 < found.text["zh"].smallest_lead and 0 < found.text["zh"].mass < 0.24
    assert found.greedy.keys() == {"ja", "zh", "en"} and found.greedy["zh"] == 0
    # half of each new head row is the same mean
    assert found.rows["head"].new.effective_rank < found.rows["head"].old.effective_rank
    assert json.loads((output / "scores.json").read_text())["new_pieces"]["text"]["zh"]["median_rank"] is None
    base = evaluate(str(base_dir), str(tmp_path / "base"), questions=False, text=[TEXT[1]], max_characters=100)
    assert base.new_pieces is None and "new_pieces" not in json.loads((tmp_path / "base" / "scores.json").read_text())


def test_scores_and_answers_are_written_as_json(zero_test):
    output, scores = zero_test
    assert {path.name for path in output.iterdir()} == {"scores.json", "report.html", "answers.jsonl"}
    assert json.loads((output / "scores.json").read_text()) == as_json(scores)
    answers = [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]
    assert [answer["prompt"] for answer in answers[:8]] == list(QUESTIONS)
    assert [answer["reference"] for answer in answers[:8]] == [None] * 8
    assert [answer["reference"] for answer in answers[8:]] == [f"这条{c}色的裤子很好看。" for c in "红黑白蓝"]
    assert scores.generation["zh"].references == 4


def test_the_keys_of_the_files_are_stable(zero_test):
    def keys(value):
        return {key: keys(held) for key, held in value.items()} if isinstance(value, dict) else None

    output, _ = zero_test
    quality = dict.fromkeys(
        ["empty", "blank", "looping", "repetition", "script_purity", "latin", "simplified_only", "stopped"]
    )
    replies = dict.fromkeys(["bleu4", "rouge1", "rouge2", "rougeL", "exact_match", "sacrebleu", "chrf"]) | quality
    signatures = dict.fromkeys(["answers", "bleu4", "rouge", "exact_match", "sacrebleu", "chrf"])
    compared_replies = {"references": None, "left_out": {}, "shortened": None, "signatures": signatures}
    text = dict.fromkeys(["bits_per_char", "tokens_per_char"])
    compared = {"documents": None, "characters": None, "model": text, "baseline": text}
    retained = dict.fromkeys(
        ["drift", "drift_low", "drift_high", "drift_trimmed", "documents", "mean_kl_nats", "kl_tokens",
         "greedy_unchanged", "greedy_continuations", "verdict", "reasons"]
    )  # fmt: skip
    limits = dict.fromkeys(["max_drift", "max_kl", "min_unchanged", "min_documents"])
    asked = {"questions": None, "model": quality, "baseline": quality, "identical": None}
    info = dict.fromkeys(["folder", "tokenizer_sha256", "weights_fingerprint"])
    made = {"date": None, "commands": None, "device": None, "dtype": None, "samples": None}
    made["versions"] = dict.fromkeys(["glmja", "python", "torch", "transformers", "tokenizers", "sentencepiece"])
    use = dict.fromkeys(["positions", "targets", "on_top", "smallest_lead", "mass", "median_rank"])
    rows = dict.fromkeys(["new", "old"], dict.fromkeys(["mean_norm", "effective_rank"]))
    new_pieces = {"pieces": None, "rows": {"input": rows, "head": rows}, "greedy": dict.fromkeys(["ja", "zh", "en"])}
    new_pieces["text"] = dict.fromkeys(["ja", "zh", "en"], use)
    assert keys(json.loads((output / "scores.json").read_text())) == {
        "glmja": None,
        "text": {"ja": compared, "zh": compared, "en": compared},
        "retention": {"languages": {"zh": retained, "en": retained}, "limits": limits, "verdict": None},
        "generation": {"zh": compared_replies | {"model": replies, "baseline": replies}},
        "questions": {"zh": asked, "ja": asked},
        "model": info,
        "baseline": info,
        "segmentation": None,
        "text_signature": None,
        "provenance": made,
        "new_pieces": new_pieces,
    }  # fmt: skip
    for line in (output / "answers.jsonl").read_text().splitlines():
        answer = json.loads(line)
        assert list(answer) == ["lang", "prompt", "reference", "model", "baseline", "identical", "prompt_tokens"]
        assert list(answer["prompt_tokens"]) == ["model", "baseline"]


def test_the_page_is_self_contained_and_shows_all_results(zero_test):
    page = (zero_test[0] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert len(sources) == 3 and all(source.startswith("data:image/svg") for source in sources)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    for shown in ("retention: kept", "Eight questions", "BLEU-4", *QUESTIONS):
        assert shown in page
    assert page.count("<figure>") == 3


def test_scores_name_their_command_files_and_samples(zero_test, base_dir, zero_dir, adgen):
    output, scores = zero_test
    made = scores.provenance
    start, *_ = made.commands
    assert shlex.split(start)[3:7] == ["--model", str(zero_dir), "--output", str(output)]
    assert f"--baseline {base_dir}" in start and "--max_new_tokens 8" in start and "--stride" not in start
    assert [(sample.lang, sample.use) for sample in made.samples] == [
        ("ja", "text"), ("zh", "text"), ("en", "text"), ("zh", "conversations")
    ]  # fmt: skip
    (file,) = made.samples[-1].files
    assert (file.name, file.size) == (str(adgen), adgen.stat().st_size)
    assert file.sha256 == hashlib.sha256(adgen.read_bytes()).hexdigest()
    assert made.samples[0].records == scores.text["ja"].documents
    assert datetime.fromisoformat(made.date).tzinfo is not None
    assert scores.model.weights_fingerprint != scores.baseline.weights_fingerprint


def test_text_of_a_model_is_not_markup(zero_test):
    _, scores = zero_test
    evil = "<script>alert(1)</script>\x1b[31m{{ 7*7 }}"
    answer = Answer(
        lang="ja",
        prompt="あ",
        reference=None,
        model=evil,
        baseline=evil,
        identical=False,
        prompt_tokens={"model": 1, "baseline": 1},
    )
    page = render(scores, [answer], [TokenizedSample("ja", evil, {"model": [evil]})], {})
    assert "<script" not in page and "\x1b" not in page and "{{ 7*7 }}" in page
    assert html.escape("<script>alert(1)</script>") in page


def test_answers_and_scores_do_not_depend_on_the_batch_size(tmp_path, zero_dir, adgen):
    found = []
    for size in ("1", "8"):
        options = ["--batch_size", size, "--dtype", "float32", "--output", str(tmp_path / size)]
        scores = main(["--model", str(zero_dir), *TEXT, "--generate", f"zh={adgen}", *QUICK, *options])
        found.append((scores, (tmp_path / size / "answers.jsonl").read_text()))
    (alone, alone_answers), (together, together_answers) = found
    assert alone_answers == together_answers
    assert alone.generation == together.generation and alone.questions == together.questions
    for lang in ("ja", "zh", "en"):
        bits = [scores.text[lang].model.bits_per_char for scores in (alone, together)]
        assert bits[0] == pytest.approx(bits[1], rel=1e-5)
    assert alone.retention is None and alone.baseline is None


def test_failed_retention_has_its_own_exit_code(tmp_path, base_dir, zero_dir, capsys):
    options = ["--text", f"zh={text_file('zh')}", "--questions", "false", "--max_drift", "0", *QUICK]
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(zero_dir), "--baseline", str(base_dir), *options, "--output", str(tmp_path / "out")])
    assert stop.value.code == ExitCode.NOT_RETAINED == 7
    assert "retention: lost (zh lost)\nzh lost: bits per character changed by +" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["retention"]["verdict"] == "lost"
    assert "retention: lost" in (tmp_path / "out" / "report.html").read_text()


def test_too_few_documents_give_no_verdict_and_have_their_own_exit_code(tmp_path, base_dir, zero_dir, capsys):
    options = ["--text", f"zh={text_file('zh')}", "--questions", "false", *QUICK, "--min_documents", "20"]
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(zero_dir), "--baseline", str(base_dir), *options, "--output", str(tmp_path / "out")])
    assert stop.value.code == ExitCode.INCONCLUSIVE == 8
    shown = capsys.readouterr().out
    assert "zh inconclusive: too few documents to judge from: " in shown
    assert "retention of en was not measured: there is no --text of it" in shown


def test_a_baseline_with_more_ids_than_the_model_is_rejected(tmp_path, base_dir, zero_dir):
    with pytest.raises(ValueError, match=r"has 3109 token ids, but `model` \S+ has only 2509; the baseline must be"):
        evaluate(str(base_dir), str(tmp_path / "out"), baseline=str(zero_dir))


def test_an_input_is_not_replaced(tmp_path, zero_dir):
    text = shutil.copy(text_file("ja"), tmp_path / "ja.jsonl")
    with pytest.raises(ValueError, match=r"contains the input \S+ja\.jsonl and would replace it"):
        evaluate(str(zero_dir), str(tmp_path), text=[f"ja={text}"], overwrite=True)
    assert (tmp_path / "ja.jsonl").exists()


def test_config_and_tokenizer_of_each_model_are_read_once(tmp_path, base_dir, zero_dir):
    with counted_opens() as opens:
        evaluate(str(zero_dir), str(tmp_path / "out"), baseline=str(base_dir), max_new_tokens=2)
    assert reads_of(opens, base_dir) == reads_of(opens, zero_dir) == (1, 1)


def test_a_note_says_why_retention_was_not_measured(tmp_path, base_dir, zero_dir, capsys):
    folders = ["--model", str(zero_dir), "--baseline", str(base_dir), "--output", str(tmp_path / "out")]
    main([*folders, "--max_new_tokens", "2"])
    assert "WARN: retention of zh or en was not measured: there is no --text of it" in capsys.readouterr().out


def test_a_flag_that_is_given_twice_adds_to_itself(tmp_path, zero_dir):
    flags = [part for lang in ("ja", "zh") for part in ("--text", f"{lang}={text_file(lang)}")]
    scores = main(["--model", str(zero_dir), *flags, "--questions", "false", "--output", str(tmp_path / "out"), *QUICK])
    assert set(scores.text) == {"ja", "zh"}


def test_training_curves_are_shown(tmp_path, zero_dir):
    with SummaryWriter(str(tmp_path / "run" / "tensorboard")) as writer:
        for step in range(12):
            writer.add_scalar("train/loss", 5 - step / 4, step)
            writer.add_scalar("val/ja/bits_per_char", 8 - step / 4, step)
    evaluate(str(zero_dir), str(tmp_path / "out"), runs=[str(tmp_path / "run")], max_new_tokens=2)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "run: training loss" in page and "run: held-out text" in page
    assert f"python -m glmja.fit --config {tmp_path}/run/config.yaml" in page


def test_help_explains_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--baseline", "--max_drift", "--generate", "--segmentation"):
        assert flag in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "jp=FILE"], r"--text 'jp=\S+': unknown language 'jp'; known are ja, zh, en, code"),
        (["--text", "FILE"], r"--text '\S+' must be LANG=FILE"),
        (["--text", "ja=nowhere.jsonl"], r"no such file: nowhere\.jsonl"),
        (["--generate", "ja=EMPTY"], r"no conversation in \S+"),
        (
            ["--generate", "ja=FILE"],
            r"--generate ja: none of \d+ records can be used: .*\.jsonl:1: missing key: a conversation needs",
        ),
        (["--text", "ja=EMPTY"], r"no text in"),
        (["--questions", "false"], r"nothing to evaluate; give --text or --generate, or set --questions to true"),
        (["--max_drift", "-1"], r"--max_drift \(-1\.0\) must be at least 0"),
        (["--batch_size", "0"], r"--batch_size \(0\) must be at least 1"),
        (["--max_new_tokens", "0"], r"--max_new_tokens \(0\) must be at least 1"),
        (["--row_len", "4"], r"--row_len \(4\) must be at least 8"),
        (["--stride", "0"], r"--stride \(0\) must be from 1 to --row_len \(1024\)"),
        (["--stride", "1025"], r"--stride \(1025\) must be from 1 to --row_len \(1024\)"),
        (["--row_len", "999999"], r"--row_len \(999999\) exceeds the \d+ positions of"),
        (
            ["--max_new_tokens", "999999", "--questions", "false", "--generate", "ja=CHATS"],
            r"--generate ja: conversation 1 has \d+ tokens; with",
        ),
        (["--max_new_tokens", "999999"], r"question 1 has \d+ tokens; with --max_new_tokens \(999999\) that exceeds"),
        (["--device", "cuda:7"], r"--device cuda:7: not on this machine"),
        (["--max_kl", "-1"], r"--max_kl \(-1\.0\) must be at least 0"),
        (["--min_unchanged", "2"], r"--min_unchanged \(2\.0\) must be a share from 0 to 1"),
        (["--min_documents", "1"], r"--min_documents \(1\) must be at least 2"),
        (["--retain", "zh", "--text", "ja=FILE"], r"--retain zh: there is no --text of it to measure retention with"),
        (["--baseline", "nowhere"], r"no such folder: nowhere"),
        (["--retain", "cn"], r"--retain cn: unknown language; known are ja, zh, en, code"),
        (["--runs", "nowhere"], r"no such folder: nowhere"),
        (["--segmentation", "syllables"], r"segmentation"),
    ],
)
def test_bad_input_is_one_line_before_weights_are_loaded(tmp_path, zero_dir, capsys, options, message, monkeypatch):
    monkeypatch.setattr("glmja.evaluation.evaluator.Evaluator", None)
    (tmp_path / "empty.jsonl").touch()
    names = {"FILE": text_file("ja"), "EMPTY": tmp_path / "empty.jsonl", "CHATS": text_file("conversations")}
    for name, path in names.items():
        options = [option.replace(name, str(path)) for option in options]
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(zero_dir), "--output", str(tmp_path / "out"), *options])
    assert stop.value.code in (2, 3, 4, 5)  # which one: tests/system/test_exit_codes.py
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_chatglm2_is_measured_and_answers_in_its_own_format(tmp_path, base_dir):
    folder = tmp_path / "chatglm2"
    shutil.copytree(base_dir, folder)
    as_chatglm2(folder)
    options = {"text": [f"zh={text_file('zh')}"], "max_characters": 500, "row_len": 64}
    without_evidence(folder)
    (folder / "tokenization_chatglm.py").unlink()
    scores = evaluate(str(folder), str(tmp_path / "out"), max_new_tokens=4, family="chatglm2", **options)
    assert scores.text["zh"].model.bits_per_char > 0
    assert scores.questions["zh"].questions == 2


def test_a_chatglm_6b_is_measured_and_answers_in_its_own_format(tmp_path, chatglm1_dir, adgen):
    options = {"text": [f"zh={text_file('zh')}"], "max_characters": 500, "row_len": 64, "max_new_tokens": 4}
    scores = evaluate(
        str(chatglm1_dir), str(tmp_path / "out"), baseline=str(chatglm1_dir), generate=[f"zh={adgen}"], **options
    )
    assert scores.text["zh"].model.bits_per_char == scores.text["zh"].baseline.bits_per_char > 0
    assert scores.questions["zh"].identical == scores.questions["zh"].questions == 2
    assert scores.generation["zh"].references == 5

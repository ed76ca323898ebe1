import html
import json
import re
import shutil

import pytest
from torch.utils.tensorboard import SummaryWriter

from glmja import evaluate as verb
from glmja.evaluate import evaluate, main
from glmja.evaluation.questions import QUESTIONS
from glmja.evaluation.report import render
from glmja.twin.build import text_file

QUICK = ["--max_new_tokens", "8", "--max_characters", "2000", "--row_len", "128", "--max_references", "4"]
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
    """The Zero model beside its base, by the command line."""
    output = tmp_path_factory.mktemp("evaluate") / "out"
    scores = main(["--model", str(zero_dir), "--baseline", str(base_dir), *TEXT, "--generate", f"zh={adgen}",
                   "--output", str(output), *QUICK])  # fmt: skip
    return output, scores


def test_zero_speaks_chinese_as_its_base_does_and_reads_japanese_with_fewer_tokens(zero_test):
    _, scores = zero_test
    assert scores["questions"]["zh"]["identical"] == scores["questions"]["zh"]["questions"] == 2
    assert scores["questions"]["ja"]["questions"] == 6
    ja, zh = scores["text"]["ja"], scores["text"]["zh"]
    assert ja["model"]["tokens_per_char"] < ja["baseline"]["tokens_per_char"] / 1.5
    assert zh["model"]["tokens_per_char"] == zh["baseline"]["tokens_per_char"]
    assert zh["model"]["bits_per_char"] > zh["baseline"]["bits_per_char"]  # new rows take some of the probability


def test_zero_retains_what_its_base_could(zero_test):
    _, scores = zero_test
    retention = scores["retention"]
    assert retention["passed"] and set(retention["languages"]) == {"zh", "en"}
    for found in retention["languages"].values():
        assert 0 < found["drift"] <= 0.02
        assert found["greedy_unchanged"] == 1 and found["greedy_continuations"] > 0
        assert found["mean_kl_nats"] > 0 and found["kl_tokens"] > 100


def test_scores_and_answers_are_files(zero_test):
    output, scores = zero_test
    assert {path.name for path in output.iterdir()} == {"scores.json", "report.html", "answers.jsonl"}
    assert json.loads((output / "scores.json").read_text()) == scores
    answers = [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]
    assert [answer["prompt"] for answer in answers[:8]] == list(QUESTIONS)
    assert [answer["reference"] for answer in answers[:8]] == [None] * 8
    assert [answer["reference"] for answer in answers[8:]] == [f"这条{c}色的裤子很好看。" for c in "红黑白蓝"]
    assert scores["generation"]["zh"]["references"] == 4
    assert {"bleu4", "rouge1", "rouge2", "rougeL", "repetition", "script_purity", "stopped"} == set(
        scores["generation"]["zh"]["model"]
    )


def test_the_page_needs_nothing_else_and_shows_everything(zero_test):
    page = (zero_test[0] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert len(sources) == 3 and all(source.startswith("data:image/svg") for source in sources)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    for shown in ("retention passed", "Eight questions", "BLEU-4", *QUESTIONS):
        assert shown in page
    assert page.count("<figure>") == 3


def test_what_a_model_says_is_no_markup(zero_test):
    _, scores = zero_test
    evil = "<script>alert(1)</script>\x1b[31m{{ 7*7 }}"
    answer = {"lang": "ja", "prompt": "あ", "reference": None, "model": evil, "baseline": evil, "identical": False,
              "prompt_tokens": {"model": 1, "baseline": 1}}  # fmt: skip
    page = render(scores, [answer], [{"lang": "ja", "text": evil, "pieces": {"model": [evil]}}], {})
    assert "<script" not in page and "\x1b" not in page and "{{ 7*7 }}" in page
    assert html.escape("<script>alert(1)</script>") in page


def test_answers_and_figures_do_not_depend_on_the_batch(tmp_path, zero_dir, adgen):
    found = []
    for size in ("1", "8"):
        options = ["--batch_size", size, "--dtype", "float32", "--output", str(tmp_path / size)]
        scores = main(["--model", str(zero_dir), *TEXT, "--generate", f"zh={adgen}", *QUICK, *options])
        found.append((scores, (tmp_path / size / "answers.jsonl").read_text()))
    (alone, alone_said), (together, together_said) = found
    assert alone_said == together_said
    assert alone["generation"] == together["generation"] and alone["questions"] == together["questions"]
    for lang in ("ja", "zh", "en"):
        bits = [scores["text"][lang]["model"]["bits_per_char"] for scores in (alone, together)]
        assert bits[0] == pytest.approx(bits[1], rel=1e-5)
    assert alone["retention"] is None and alone["baseline"] is None


def test_a_model_that_forgot_fails_with_its_own_exit_code(tmp_path, base_dir, zero_dir, capsys):
    options = ["--text", f"zh={text_file('zh')}", "--questions", "false", "--max_drift", "0", *QUICK]
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(zero_dir), "--baseline", str(base_dir), *options, "--output", str(tmp_path / "out")])
    assert stop.value.code == verb.RETENTION_FAILED == 7
    assert "retention FAILED: bits per character of zh changed by +" in capsys.readouterr().out
    assert not json.loads((tmp_path / "out" / "scores.json").read_text())["retention"]["passed"]
    assert "retention FAILED" in (tmp_path / "out" / "report.html").read_text()


def test_a_baseline_that_is_no_baseline_is_refused(tmp_path, base_dir, zero_dir):
    with pytest.raises(ValueError, match=r"has 3109 ids and --model \S+ 2509; the baseline is the model"):
        evaluate(str(base_dir), str(tmp_path / "out"), baseline=str(zero_dir))


def test_what_is_read_is_not_replaced(tmp_path, zero_dir):
    text = shutil.copy(text_file("ja"), tmp_path / "ja.jsonl")
    with pytest.raises(ValueError, match=r"holds the input \S+ja\.jsonl and would replace it"):
        evaluate(str(zero_dir), str(tmp_path), text=[f"ja={text}"], overwrite=True)
    assert (tmp_path / "ja.jsonl").exists()


def test_retention_that_was_not_measured_is_told(tmp_path, base_dir, zero_dir, capsys):
    evaluate(str(zero_dir), str(tmp_path / "out"), baseline=str(base_dir), max_new_tokens=2)
    assert "retention was not measured: there is no --text of zh or en" in capsys.readouterr().out


def test_a_flag_that_is_given_twice_adds_to_itself(tmp_path, zero_dir):
    flags = [part for lang in ("ja", "zh") for part in ("--text", f"{lang}={text_file(lang)}")]
    scores = main(["--model", str(zero_dir), *flags, "--questions", "false", "--output", str(tmp_path / "out"), *QUICK])
    assert set(scores["text"]) == {"ja", "zh"}


def test_curves_of_runs_are_shown(tmp_path, zero_dir):
    with SummaryWriter(str(tmp_path / "run" / "tensorboard")) as writer:
        for step in range(12):
            writer.add_scalar("train/loss", 5 - step / 4, step)
            writer.add_scalar("val/ja/bits_per_char", 8 - step / 4, step)
    evaluate(str(zero_dir), str(tmp_path / "out"), runs=[str(tmp_path / "run")], max_new_tokens=2)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "run: training loss" in page and "run: held-out text" in page


def test_the_command_is_explained(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for flag in ("--baseline", "--max_drift", "--generate", "--segmentation"):
        assert flag in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "jp=FILE"], r"--text 'jp=\S+': unknown language 'jp'; known are ja, zh, en, code"),
        (["--text", "FILE"], r"--text '\S+' must be LANG=FILE"),
        (["--text", "ja=nowhere.jsonl"], r"no such file: nowhere\.jsonl"),
        (["--generate", "ja=EMPTY"], r"no conversation in \S+"),
        (["--generate", "ja=FILE"], r"\.jsonl:1: a conversation has one of the keys"),
        (["--text", "ja=EMPTY"], r"no text in"),
        (["--questions", "false"], r"nothing to measure; give --text, --generate or --questions true"),
        (["--max_drift", "-1"], r"--max_drift -1\.0 must be at least 0"),
        (["--batch_size", "0"], r"--batch_size 0 must be at least 1"),
        (["--max_new_tokens", "0"], r"--max_new_tokens 0 must be at least 1"),
        (["--row_len", "4"], r"--row_len 4 must be at least 8"),
        (["--row_len", "999999"], r"--row_len 999999 is more than the \d+ positions of"),
        (
            ["--max_new_tokens", "999999", "--questions", "false", "--generate", "ja=CHATS"],
            r"--generate ja: conversation 1 has \d+ tokens; with",
        ),
        (["--max_new_tokens", "999999"], r"question 1 has \d+ tokens; with --max_new_tokens 999999 that is more"),
        (["--device", "cuda:7"], r"--device cuda:7: not on this machine"),
        (["--baseline", "nowhere"], r"no config\.json in nowhere"),
        (["--retain", "cn"], r"--retain cn: unknown language; known are ja, zh, en, code"),
        (["--runs", "nowhere"], r"nowhere has no curves"),
        (["--segmentation", "syllables"], r"segmentation"),
    ],
)
def test_bad_input_is_told_in_one_line_before_anything_is_loaded(
    tmp_path, zero_dir, capsys, options, message, monkeypatch
):
    monkeypatch.setattr("glmja.evaluation.evaluator.Evaluator", None)
    (tmp_path / "empty.jsonl").touch()
    names = {"FILE": text_file("ja"), "EMPTY": tmp_path / "empty.jsonl", "CHATS": text_file("conversations")}
    for name, path in names.items():
        options = [option.replace(name, str(path)) for option in options]
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(zero_dir), "--output", str(tmp_path / "out"), *options])
    assert stop.value.code in (2, 3, 4, 5)  # which one: tests/system/test_exit_codes.py
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_without_chat_format_can_be_measured_but_not_asked(tmp_path, base_dir):
    folder = tmp_path / "chatglm2"
    shutil.copytree(base_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "THUDM/chatglm2-6b"}))
    options = {"text": [f"zh={text_file('zh')}"], "max_characters": 500, "row_len": 64}
    with pytest.raises(ValueError, match=r"chatglm2 has no chat format .* give --questions false"):
        evaluate(str(folder), str(tmp_path / "out"), **options)
    scores = evaluate(str(folder), str(tmp_path / "out"), questions=False, **options)
    assert scores["text"]["zh"]["model"]["bits_per_char"] > 0

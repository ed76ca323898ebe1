"""The task files of configs/lm_eval in lm-evaluation-harness, and their functions without it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glmja.evaluate import evaluate
from glmja.families.recognition import load_tokenizer
from glmja.modeling.loading import load_model

TASKS = Path(__file__).parents[2] / "configs" / "lm_eval"
LANGUAGES = ("ja", "zh")
INSTALLED = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture(scope="module")
def functions():
    spec = importlib.util.spec_from_file_location("glmja_tasks", TASKS / "glmja_tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("value", [None, True, "True", ""])
def test_tasks_refuse_a_tokenizer_that_puts_the_prefix_before_theirs(functions, value):
    for read in (functions.documents, functions.questions):
        with pytest.raises(
            ValueError, match=r"write \[gMASK\]<sop> themselves: add add_bos_token=False to --model_args"
        ):
            read("ja", add_bos_token=value, pretrained="model", version=1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_documents_and_questions_with_one_right_answer_of_four(functions, language, texts):
    found = functions.documents(language, add_bos_token=False)["test"]
    assert [functions.text_of(document) for document in found] == texts[language]
    questions = functions.questions(language, add_bos_token="False")["test"]
    assert all(len(set(one["choices"])) == 4 and one["choices"][one["answer"]] for one in questions)
    assert sorted(one["answer"] for one in questions) == sorted(list(range(4)) * (len(questions) // 4))
    assert all(functions.prompt_of(one) == "[gMASK]<sop>" + one["question"] for one in questions)


def test_other_texts_can_be_given(functions, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"text": "一"}\n\n{"text": "二"}\n', encoding="utf-8")
    found = functions.documents("zh", add_bos_token=False, texts={"zh": str(tmp_path / "mine.jsonl")})["test"]
    assert found["text"] == ["一", "二"]


def test_bits_per_character_are_over_all_documents(functions):
    items = [functions.bits({"text": text}, [(nats, False)]) for text, nats in (("abc", -6.0), ("d", -2.0))]
    assert functions.bits_per_char([item["bits_per_char"] for item in items]) == pytest.approx(2 / 0.6931471805599453)


@pytest.fixture(scope="module")
def without_padding(tmp_path_factory, zero_dir):
    """The Zero model without the padding rows of its head, which the harness counts and glmja leaves out."""
    folder = tmp_path_factory.mktemp("lm_eval") / "model"
    shutil.copytree(zero_dir, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    model = load_model(zero_dir, torch.float32)
    model.resize_token_embeddings(len(load_tokenizer(zero_dir)))
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def share_right(model, tokenizer, questions):
    """The share of questions whose right answer is the most likely one."""
    right = 0
    for question in questions:
        prompt, likelihoods = tokenizer.encode(question["question"]), []
        for choice in question["choices"]:
            ids = [*tokenizer.prefix_ids, *tokenizer.encode(question["question"] + choice)]
            log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
            places = range(len(tokenizer.prefix_ids) + len(prompt), len(ids))
            likelihoods.append(sum(log_probs[i - 1, ids[i]].item() for i in places))
        right += likelihoods.index(max(likelihoods)) == question["answer"]
    return right / len(questions)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="lm_eval is not installed: pip install -e '.[benchmarks]'")
def test_the_harness_computes_the_figures_of_glmja(without_padding, functions, texts, tmp_path):
    files = {language: tmp_path / f"{language}.jsonl" for language in LANGUAGES}
    for language, path in files.items():
        path.write_text("".join(json.dumps({"text": text[:200]}) + "\n" for text in texts[language][:10]))
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--include_path", str(TASKS),
        "--model_args", f"pretrained={without_padding},dtype=float32,add_bos_token=False", "--batch_size", "4",
        "--tasks", ",".join(f"glmja_{kind}_{language}" for kind in ("bits", "choice") for language in LANGUAGES),
        "--metadata", json.dumps({"texts": {language: str(path) for language, path in files.items()}}),
        "--output_path", str(tmp_path / "harness"),
    ]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=tmp_path)
    (written,) = (tmp_path / "harness").rglob("results*.json")
    results = json.loads(written.read_text())["results"]
    given = [f"{language}={path}" for language, path in files.items()]
    scores = evaluate(str(without_padding), str(tmp_path / "glmja"), text=given, questions=False, dtype="float32")
    model, tokenizer = load_model(without_padding, torch.float32).eval(), load_tokenizer(without_padding)
    for language in LANGUAGES:
        bits = results[f"glmja_bits_{language}"]["bits_per_char,none"]
        assert bits == pytest.approx(scores.text[language].model.bits_per_char, rel=1e-5)
        questions = functions.questions(language, add_bos_token=False)["test"]
        assert results[f"glmja_choice_{language}"]["acc,none"] == share_right(model, tokenizer, questions)

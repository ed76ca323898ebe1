"""`python -m glmja.evaluate`: what a model has learnt, and what it has kept.

Figures of two models can be compared if they were made by the same command. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from glmja.cli.arguments import LANGUAGES, check_device, files_by_language
from glmja.cli.command import run_command
from glmja.conversation.messages import Message
from glmja.conversation.rendering import has_roles, render_prompt
from glmja.evaluation.questions import QUESTIONS
from glmja.evaluation.references import read_references
from glmja.evaluation.tables import tables
from glmja.files.documents import read_documents
from glmja.files.json_files import write_json
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.runs.run_folder import curves
from glmja.text.overlap import Segmentation, segmenter
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.weights.options import DtypeName

if TYPE_CHECKING:
    from glmja.evaluation.evaluator import EvalTasks, ModelOutputs

SCORES, PAGE, ANSWERS = "scores.json", "report.html", "answers.jsonl"
RETENTION_FAILED = 7  # exit code
_RETAINED = ("zh", "en")


def evaluate(
    model: str,
    output: str,
    baseline: str | None = None,
    text: list[str] = [],  # noqa: B006
    text_key: str = "text",
    generate: list[str] = [],  # noqa: B006
    questions: bool = True,
    runs: list[str] = [],  # noqa: B006
    retain: list[str] = [],  # noqa: B006
    max_drift: float = 0.02,
    segmentation: Segmentation = "characters",
    max_characters: int = 1_000_000,
    max_references: int = 200,
    max_new_tokens: int = 128,
    row_len: int = 1024,
    batch_size: int = 8,
    device: str = "auto",
    dtype: DtypeName | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measures a model, beside a baseline if there is one: scores.json, report.html and answers.jsonl.

    Args:
        model: Folder of the model, in either layout.
        output: New folder for scores, report page and answers.
        baseline: Folder of the model that it grew from; retention is measured against it.
        text: Texts that no model was trained on, LANG=FILE each (.jsonl, .jsonl.gz, .parquet, .txt), for bits and
            tokens per character. LANG is ja, zh, en or code.
        text_key: Key or column of the text in .jsonl and .parquet files.
        generate: Conversations with reference answers, LANG=FILE each (.jsonl, .jsonl.gz; messages, sharegpt, alpaca
            or adgen), for BLEU-4 and ROUGE.
        questions: Ask the eight questions, in Chinese and Japanese.
        runs: Folders of runs whose curves are shown in the page.
        retain: Languages of the texts in which nothing may be lost; zh and en by default.
        max_drift: How much the bits per character of a language to retain may rise; 0.02 is 2 % of the baseline's.
        segmentation: What n-grams of Chinese and Japanese are made of; `words` needs jieba and
            sacrebleu[ja].
        max_characters: Of each language's text; whole documents are read until there are so many.
        max_references: Conversations of each language that are answered.
        max_new_tokens: An answer ends after so many tokens.
        row_len: Longest row of text, in tokens.
        batch_size: Rows of a forward pass, and prompts that are answered at a time.
        device: cuda, cuda:1, cpu, …; auto takes the first GPU, if there is one.
        dtype: Of the weights; as stored by default.
        overwrite: Replace what `output` holds.

    Returns:
        The scores as written to `scores.json`; exit code 7 if retention failed.

    Raises:
        ValueError: If an argument is out of its range, a file or folder is not what it should be, or a model without
            chat format is to answer.
        OSError: If a file does not exist, or the disk has no room.
    """
    import torch

    from glmja.evaluation import report as report_page
    from glmja.evaluation import scores
    from glmja.evaluation.evaluator import EvalTasks, Evaluator

    inputs = [folder for folder in (baseline, model) if folder]
    files_of = [item.partition("=")[2] for item in [*text, *generate]]
    check_free(output, overwrite, [*inputs, *runs, *(path for path in files_of if path)])
    _check_numbers(max_drift, max_characters, max_references, max_new_tokens, row_len, batch_size)
    place = check_device(device)
    texts = {
        lang: _first_documents(files, text_key, max_characters)
        for lang, files in files_by_language("--text", text, LANGUAGES).items()
    }
    files = files_by_language("--generate", generate, LANGUAGES)
    answered = {lang: read_references(paths, max_references) for lang, paths in files.items()}
    prompts = {lang: [one.prompt for one in found] for lang, found in answered.items()}
    references = {lang: [one.answer for one in found] for lang, found in answered.items()}
    asked = QUESTIONS if questions else ()
    if not (texts or prompts or asked):
        raise ValueError("nothing to measure; give --text, --generate or --questions true")
    if unknown := sorted(set(retain) - set(LANGUAGES)):
        raise ValueError(f"--retain {unknown[0]}: unknown language; known are {', '.join(LANGUAGES)}")
    kept = retain or _RETAINED
    retained = [lang for lang in kept if lang in texts] if baseline else []
    exam = EvalTasks(texts, retained, asked, prompts, references, row_len, batch_size, max_new_tokens)
    sizes = [len(_check_fits(folder, exam)) for folder in inputs]
    if sizes[0] > sizes[-1]:
        raise ValueError(
            f"--baseline {baseline} has {sizes[0]} ids and --model {model} {sizes[-1]}; the baseline is the model "
            "that the other grew from"
        )
    segmenters = {lang: segmenter(lang, segmentation) for lang in references}
    shown = {str(Path(folder)): curves(Path(folder)) for folder in runs}

    wanted = getattr(torch, dtype) if dtype else None
    found = [Evaluator(folder, exam, place, wanted).examine() for folder in inputs]
    ours, theirs = found[-1], found[0] if baseline else None
    result = scores.scores(exam, ours, theirs, segmenters, max_drift, place)
    result["model"], result["baseline"] = _told(model, ours), _told(baseline, theirs) if baseline and theirs else None
    result["segmentation"] = segmentation
    answers = scores.answers(exam, ours, theirs)
    page = report_page.render(result, answers, scores.segmentations(exam, ours, theirs), shown)
    with atomic_output_folder(output, overwrite) as partial:
        write_json(partial / SCORES, result)
        lines = (json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        (partial / ANSWERS).write_text("".join(lines), encoding="utf-8")
        (partial / PAGE).write_text(page, encoding="utf-8")
    console = Console()
    console.print(*tables(result, answers), sep="\n")
    if baseline and not retained:
        console.print(f"retention was not measured: there is no --text of {' or '.join(kept)}", style="bold yellow")
    console.print(f"The report is {Path(output) / PAGE}", markup=False)
    return result


def _check_numbers(max_drift: float, *counts: int) -> None:
    """All at once, by name."""
    names = ("max_characters", "max_references", "max_new_tokens", "row_len", "batch_size")
    if not 0 <= max_drift < float("inf"):
        raise ValueError(f"--max_drift {max_drift} must be at least 0; 0.02 allows 2 % more bits per character")
    for name, count in zip(names, counts, strict=True):
        smallest = 8 if name == "row_len" else 1
        if count < smallest:
            raise ValueError(f"--{name} {count} must be at least {smallest}")


def _first_documents(files: Sequence[Path], text_key: str, max_characters: int) -> list[str]:
    documents: list[str] = []
    num_characters = 0
    for document in read_documents(files, text_key):
        documents.append(document)
        num_characters += len(document)
        if num_characters >= max_characters:
            break
    return documents


def _check_fits(folder: str, exam: EvalTasks) -> GLMTokenizer:
    """Checks, before weights are loaded, that all that is asked fits the model; returns its tokenizer."""
    from glmja.modeling.model_folder import check_folder, glm_config

    tokenizer, positions = check_folder(folder), int(glm_config(folder)["max_position_embeddings"])
    if exam.row_len > positions:
        raise ValueError(f"--row_len {exam.row_len} is more than the {positions} positions of {folder}")
    if not (exam.questions or exam.prompts):
        return tokenizer
    if not has_roles(tokenizer):
        raise ValueError(
            f"{folder} has no chat format (no <|user|> and <|assistant|> tokens) and cannot answer; leave out "
            "--generate and give --questions false"
        )
    asked: dict[str, list[list[Message]]] = {
        "question": [[{"role": "user", "content": question}] for question in exam.questions],
        **{f"--generate {lang}: conversation": prompts for lang, prompts in exam.prompts.items()},
    }
    for name, prompts in asked.items():
        for number, prompt in enumerate(prompts, start=1):
            num_tokens = len(render_prompt(prompt, tokenizer))
            if num_tokens + exam.max_new_tokens > positions:
                raise ValueError(
                    f"{name} {number} has {num_tokens} tokens; with --max_new_tokens {exam.max_new_tokens} that is "
                    f"more than the {positions} positions of {folder}"
                )
    return tokenizer


def _told(folder: str, found: ModelOutputs) -> dict[str, Any]:
    return {"folder": Path(folder).resolve().name, "tokenizer_sha256": found.tokenizer.fingerprint}


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Runs the command line."""
    result = run_command(evaluate, args, many=("text", "generate", "runs", "retain"))
    if result["retention"] and not result["retention"]["passed"]:
        raise SystemExit(RETENTION_FAILED)
    return result


if __name__ == "__main__":
    main()

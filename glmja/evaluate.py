"""`python -m glmja.evaluate`: measures a model, and compares it with a baseline.

Scores of two models are comparable if they were measured with the same options. Nothing is downloaded.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from glmja.cli.arguments import check_device, files_by_language
from glmja.cli.command import command_line, run_command
from glmja.cli.ending import Ending, Values
from glmja.errors import ExitCode
from glmja.evaluation.scores import Scores, as_json
from glmja.families.names import FamilyName
from glmja.files.documents import check_document_files
from glmja.files.input_files import CONVERSATION_KINDS, DataFile, InputFile
from glmja.files.json_files import write_json
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.files.records import check_record_files
from glmja.text.overlap import Segmentation, segmenter
from glmja.text.scripts import LANGUAGES
from glmja.text.terminal import show
from glmja.weights.options import DtypeName

if TYPE_CHECKING:
    import torch

    from glmja.evaluation.answers import Answer
    from glmja.evaluation.evaluator import ModelOutputs
    from glmja.evaluation.tasks import EvalTasks
    from glmja.modeling.model_folder import ModelFolder

SCORES, PAGE, ANSWERS = "scores.json", "report.html", "answers.jsonl"
_RETAINED = ("zh", "en")


def evaluate(
    model: str,
    output: str,
    baseline: str | None = None,
    text: list[str] = [],  # noqa: B006
    text_key: str = "text",
    documents: Literal["line", "file"] = "line",
    generate: list[str] = [],  # noqa: B006
    max_bad_share: float = 0.01,
    questions: bool = True,
    runs: list[str] = [],  # noqa: B006
    retain: list[str] = [],  # noqa: B006
    max_drift: float = 0.02,
    max_kl: float = 0.15,
    min_unchanged: float = 0.1,
    min_documents: int = 20,
    segmentation: Segmentation = "characters",
    max_characters: int = 1_000_000,
    max_references: int = 200,
    max_new_tokens: int = 128,
    row_len: int = 1024,
    stride: int | None = None,
    batch_size: int = 8,
    device: str = "auto",
    dtype: DtypeName | None = None,
    family: FamilyName | None = None,
    overwrite: bool = False,
) -> Scores:
    """Measures a model, compares it with a baseline, and writes scores, answers and an HTML report.

    Args:
        model: Folder of the model, in ChatGLM's layout or transformers'.
        output: New folder for scores.json, answers.jsonl and report.html.
        baseline: Folder of the model that `model` was extended from. Retention is measured against it.
        text: Held-out texts for bits and tokens per character, LANG=FILE each. LANG is ja, zh, en or code; FILE is a
            file, folder or pattern of .txt (a document a line), .jsonl, .json, .csv, .parquet or .arrow, also with .gz,
            .zst, .bz2 or .xz. FILE:KEY names the key of the text in it. hub:NAME is a dataset of the Hugging Face
            Hub, as in ja=hub:NAME,split=test; its options are config, split, data_files, revision and key.
        text_key: Key or column of the text; a.b is the key b of the object a.
        documents: What is a document of a .txt file: a `line`, or the whole `file`, as a book.
        generate: Conversations with reference answers for BLEU-4, ROUGE and exact match, LANG=FILE each, as for
            `text` but not .txt. The formats messages, sharegpt, alpaca, adgen, prompt with completion, question with
            answers (and context) and input with output are detected; `references` lists further accepted answers.
        max_bad_share: Share of a language's conversations that may be left out because they have no answer or do not
            fit; one always may, unless this is 0.
        questions: Ask eight questions in Chinese and Japanese.
        runs: Folders of training runs whose curves the report shows.
        retain: Languages of the texts in which the model must be as its baseline; zh and en by default.
        max_drift: Largest relative increase of bits per character allowed in a retained language; 0.02 is 2 %. The
            whole 95 % confidence interval must be below it.
        max_kl: Largest mean KL divergence from the baseline allowed in a retained language, in nats per token.
        min_unchanged: Smallest share of greedy continuations that must be the baseline's.
        min_documents: Number of documents of a retained language below which there is no verdict.
        segmentation: Segmentation of Chinese and Japanese for BLEU-4 and ROUGE; `words` requires jieba and
            sacrebleu[ja]. Other languages are split into words and marks. scores.json holds a signature of each
            score: segmentation, smoothing, library and version. With sacrebleu[ja], BLEU and chrF are also computed
            as sacrebleu does (zh, 13a, ja-mecab), to compare with the figures of others.
        max_characters: Maximum number of characters per language (whole documents).
        max_references: Maximum number of conversations per language.
        max_new_tokens: Maximum tokens per answer.
        row_len: Maximum length of a row of text, in tokens. Longer documents are split; with a baseline, at the same
            characters for both models.
        stride: Number of tokens that each row of a long document but its first predicts, up to row_len; the rest of
            the row repeats the text before them as context. Rows have no context by default.
        batch_size: Number of rows per forward pass, and of prompts answered at a time.
        device: Device to run on, such as cuda, cuda:1 or cpu; auto selects the first GPU if there is one.
        dtype: Dtype of the weights; by default as stored, but float32 on a CPU.
        family: Family of model and baseline, `chatglm3`, `chatglm2` (CodeGeeX2 is one) or `chatglm`; recognized by
            their files by default.
        overwrite: Replace an earlier result of a command in `output`; a folder of other files is never replaced.

    Returns:
        The scores as written to scores.json. The command exits with code 7 if a language is lost or changed, and with
        code 8 if the texts do not suffice for a verdict.

    Raises:
        ValueError: If an argument is out of range, or an input is malformed.
        OSError: If a file does not exist, or the disk is full.
    """
    commands = _commands(locals(), runs)
    from glmja.evaluation.retention import RetentionLimits
    from glmja.evaluation.tasks import EvalLimits, read_tasks

    limits = EvalLimits(max_characters, max_references, max_new_tokens, row_len, batch_size, stride)
    allowed = RetentionLimits(max_drift, max_kl, min_unchanged, min_documents)
    _check_share(max_bad_share)
    texts, chats = _find_files(text, text_key, documents, generate)
    folders = [folder for folder in (baseline, model) if folder]
    found = [file for files in (*texts.values(), *chats.values()) for file in files]
    check_free(output, overwrite, [*folders, *runs, *(file.path for file in found if isinstance(file, InputFile))])
    place = check_device(device)
    retained = _check_languages(retain, texts) or _RETAINED
    tasks = read_tasks(texts, text_key, chats, questions, retained if baseline else (), limits)
    _fit_references(tasks, (), max_bad_share)  # what is wrong already, before the models are opened
    opened = _open(folders, tasks, family)
    tasks = _fit_references(tasks, opened, max_bad_share)
    segment = {lang: segmenter(lang, segmentation) for lang in tasks.references}
    run_curves = _read_curves(runs)

    from glmja.evaluation.provenance import provenance
    from glmja.evaluation.scoring import score
    from glmja.modeling.loading import choose_dtype

    wanted = choose_dtype(dtype, place)
    made = provenance(commands, tasks, texts, chats, place, wanted)
    outputs = _run(opened, tasks, place, wanted)
    both = outputs[-1], outputs[0] if baseline else None
    scores = score(tasks, *both, limits=allowed, segmentation=segmentation, segmenters=segment, made=made, device=place)
    answers = _write(output, overwrite, scores, tasks, both, run_curves)
    _show(scores, answers, tasks)
    return scores


def _commands(values: Mapping[str, object], runs: Sequence[str]) -> list[str]:
    trained = [f"python -m glmja.fit --config {shlex.quote(run)}/config.yaml" for run in runs]
    return [command_line(evaluate, values), *trained]


def _find_files(
    text: list[str], text_key: str, documents: Literal["line", "file"], generate: list[str]
) -> tuple[dict[str, list[DataFile]], dict[str, list[DataFile]]]:
    """Returns the texts and the conversations of each language."""
    find_documents = partial(check_document_files, text_key=text_key, whole_texts=documents == "file")
    find_chats = partial(check_record_files, kinds=CONVERSATION_KINDS)
    texts = files_by_language("--text", text, find_documents, LANGUAGES)
    chats = files_by_language("--generate", generate, find_chats, LANGUAGES)
    in_order = [{lang: found[lang] for lang in LANGUAGES if lang in found} for found in (texts, chats)]
    return in_order[0], in_order[1]


def _check_share(max_bad_share: float) -> None:
    if not 0 <= max_bad_share <= 1:
        raise ValueError(f"`max_bad_share` ({max_bad_share}) must be a share from 0 to 1")


def _check_languages(languages: list[str], texts: Collection[str]) -> list[str]:
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise ValueError(f"`retain` {unknown[0]}: unknown language; known are {', '.join(LANGUAGES)}")
    if missing := [lang for lang in languages if lang not in texts]:
        raise ValueError(f"`retain` {missing[0]}: there is no `text` of it to measure retention with")
    return sorted(languages, key=LANGUAGES.index)


def _open(folders: Sequence[str], tasks: EvalTasks, family: FamilyName | None) -> list[ModelFolder]:
    """Opens the folders, the baseline first, and checks what can be checked without weights."""
    from glmja.evaluation.tasks import check_fits
    from glmja.modeling.model_folder import ModelFolder

    opened = [ModelFolder.open(folder, family) for folder in folders]
    for folder in opened:
        check_fits(tasks, folder)
        _ = folder.checkpoint  # reads headers; what is wrong with the second model must not wait for the first
    first, last = opened[0], opened[-1]
    if len(first.tokenizer) > len(last.tokenizer):
        raise ValueError(
            f"`baseline` {first.path} has {len(first.tokenizer)} token ids, but `model` {last.path} has only "
            f"{len(last.tokenizer)}; the baseline must be the model that the other was extended from"
        )
    return opened


def _fit_references(tasks: EvalTasks, opened: Sequence[ModelFolder], max_bad_share: float) -> EvalTasks:
    """Shortens conversations to fit, and checks how many cannot be used."""
    from glmja.evaluation.references import shorten_to_fit

    references = {
        lang: shorten_to_fit(found, lang, opened, tasks.limits.max_new_tokens)
        for lang, found in tasks.references.items()
    }
    for lang, found in references.items():
        found.check(lang, max_bad_share)
    return replace(tasks, references=references)


def _run(opened: Sequence[ModelFolder], tasks: EvalTasks, device: str, dtype: torch.dtype | None) -> list[ModelOutputs]:
    from glmja.evaluation.evaluator import Evaluator

    outputs = []
    for folder in opened:
        beside = [other.tokenizer for other in opened if other is not folder]
        outputs.append(Evaluator(folder, tasks, device, dtype, beside).run())
    return outputs


def _read_curves(runs: Sequence[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    from glmja.runs.run_folder import RunFolder

    return {str(Path(run)): RunFolder(run).curves() for run in runs}


def _write(
    output: str,
    overwrite: bool,
    scores: Scores,
    tasks: EvalTasks,
    outputs: tuple[ModelOutputs, ModelOutputs | None],
    curves: Mapping[str, Mapping[str, list[tuple[int, float]]]],
) -> list[Answer]:
    """Writes scores, answers and the page; returns the answers."""
    from glmja.evaluation.answers import list_answers, tokenize_samples
    from glmja.evaluation.report import render

    answers = list_answers(tasks, *outputs)
    page = render(scores, answers, tokenize_samples(tasks, *outputs), curves)
    with atomic_output_folder(output, overwrite) as partial:
        write_json(partial / SCORES, as_json(scores))
        lines = (json.dumps(as_json(answer), ensure_ascii=False) + "\n" for answer in answers)
        (partial / ANSWERS).write_text("".join(lines), encoding="utf-8")
        (partial / PAGE).write_text(page, encoding="utf-8")
    return answers


def _show(scores: Scores, answers: Sequence[Answer], tasks: EvalTasks) -> None:
    from glmja.evaluation.tables import tables

    show(*tables(scores, answers))
    for lang, found in tasks.references.items():
        show(*(f"--generate {lang}: {note}" for note in found.notes()), style="bold yellow")


def _ending(values: Values, scores: Scores) -> Ending:
    warnings = []
    missing = [lang for lang in values["retain"] or _RETAINED if lang not in scores.text]
    if scores.baseline and missing:
        warnings.append(f"retention of {' or '.join(missing)} was not measured: there is no --text of it")
    if code := _exit_code(scores):
        assert scores.retention is not None
        warnings.append(f"retention is {scores.retention.verdict}: exit code {code}")
    done = f"report in {Path(values['output']) / PAGE}"
    return Ending(done, "chat", {"model": values["model"]}, warnings)


def _exit_code(scores: Scores) -> int:
    if not scores.retention or scores.retention.verdict == "kept":
        return 0
    return ExitCode.INCONCLUSIVE if scores.retention.verdict == "inconclusive" else ExitCode.NOT_RETAINED


def measure(args: list[str] | None = None) -> Scores:
    """Runs the command line, whatever the verdict on retention."""
    return run_command(evaluate, args, _ending)


def main(args: list[str] | None = None) -> Scores:
    """Runs the command line; ends the program if the languages to retain are not kept."""
    scores = measure(args)
    if code := _exit_code(scores):
        raise SystemExit(code)
    return scores


if __name__ == "__main__":
    main()

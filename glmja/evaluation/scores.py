"""Figures of an examined model, beside those of a baseline."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from glmja import __version__
from glmja.conversation.replies import Reply
from glmja.evaluation.evaluator import EvalTasks, ModelOutputs
from glmja.evaluation.likelihood import mean_kl
from glmja.text.overlap import overlap
from glmja.text.quality import repetition_rate, script_purity
from glmja.text.scripts import language_of
from glmja.tokenization.tokenizer import GLMTokenizer

_SAMPLE_LEN = 120  # characters of a document whose segmentation is shown
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

Segmenter = Callable[[str], list[str]]


class _Asked(NamedTuple):
    lang: str
    prompt: str
    reference: str | None


def scores(
    exam: EvalTasks,
    ours: ModelOutputs,
    theirs: ModelOutputs | None,
    segmenters: Mapping[str, Segmenter],
    max_drift: float,
    device: str = "cpu",
) -> dict[str, Any]:
    """All figures, as JSON.

    Args:
        exam: What was asked.
        ours: What the model did.
        theirs: What the baseline did, if there is one.
        segmenters: Of the references' languages.
        max_drift: How much bits per character may rise in a language to retain, as a share.
        device: To compute divergences on.
    """
    both = {"model": ours} | ({"baseline": theirs} if theirs else {})
    return {
        "glmja": __version__,
        "text": {lang: _of_text(lang, both) for lang in exam.texts},
        "retention": _retention(exam, ours, theirs, max_drift, device) if theirs and exam.retained else None,
        "generation": {lang: _of_replies(lang, exam, both, segmenters[lang]) for lang in exam.references},
        "questions": _of_questions(exam, ours, theirs) if exam.questions else None,
    }


def answers(exam: EvalTasks, ours: ModelOutputs, theirs: ModelOutputs | None) -> list[dict[str, Any]]:
    """What was asked and said, one by one: the questions first, then the references."""
    tokenizers = [one.tokenizer for one in (ours, theirs) if one]
    asked = [_Asked(language_of(question), question, None) for question in exam.questions]
    said = [one.answers for one in (ours, theirs) if one]
    for lang, prompts in exam.prompts.items():
        texts = ["\n".join(message["content"] for message in prompt) for prompt in prompts]
        asked += [_Asked(lang, *pair) for pair in zip(texts, exam.references[lang], strict=True)]
        said = [[*replies, *one.replies[lang]] for replies, one in zip(said, (ours, theirs), strict=False) if one]
    return [_answer(one, replies, tokenizers) for one, replies in zip(asked, zip(*said, strict=True), strict=True)]


def segmentations(exam: EvalTasks, ours: ModelOutputs, theirs: ModelOutputs | None) -> list[dict[str, Any]]:
    """The tokens of some text, as both tokenizers cut it: the beginning of each language's first document."""
    samples = {lang: documents[0][:_SAMPLE_LEN] for lang, documents in exam.texts.items()}
    if not samples:
        samples = {language_of(question): question for question in exam.questions}
    both = ([("baseline", theirs.tokenizer)] if theirs else []) + [("model", ours.tokenizer)]
    return [
        {"lang": lang, "text": text, "pieces": {name: _pieces(text, tokenizer) for name, tokenizer in both}}
        for lang, text in samples.items()
    ]


def _of_text(lang: str, both: Mapping[str, ModelOutputs]) -> dict[str, Any]:
    likelihoods = {name: found.likelihoods[lang] for name, found in both.items()}
    ours = likelihoods["model"]
    figures = {
        name: {"bits_per_char": found.bits_per_char, "tokens_per_char": found.tokens_per_char}
        for name, found in likelihoods.items()
    }
    return {"documents": ours.documents, "characters": ours.characters, **figures}


def _retention(
    exam: EvalTasks, ours: ModelOutputs, theirs: ModelOutputs, max_drift: float, device: str
) -> dict[str, Any]:
    """Drift is the relative change of bits per character; more is worse."""
    languages: dict[str, Any] = {}
    for lang in exam.retained:
        before, after = (found.likelihoods[lang].bits_per_char for found in (theirs, ours))
        pairs = list(zip(theirs.continuations[lang], ours.continuations[lang], strict=True))
        kl, kl_tokens = mean_kl(theirs.distributions[lang], ours.distributions[lang], device)
        languages[lang] = {
            "drift": after / before - 1 if before else 0.0,
            "mean_kl_nats": kl,
            "kl_tokens": kl_tokens,
            "greedy_unchanged": sum(old == new for old, new in pairs) / len(pairs),
            "greedy_continuations": len(pairs),
        }
    worst = max(languages, key=lambda lang: languages[lang]["drift"])
    passed = languages[worst]["drift"] <= max_drift
    return {"languages": languages, "max_drift": max_drift, "worst": worst, "passed": passed}


def _of_replies(lang: str, exam: EvalTasks, both: Mapping[str, ModelOutputs], segment: Segmenter) -> dict[str, Any]:
    expected = exam.references[lang]
    found: dict[str, Any] = {"references": len(expected)}
    for name, findings in both.items():
        replies = findings.replies[lang]
        said = overlap([reply.whole for reply in replies], expected, segment)
        found[name] = said | _quality(lang, replies, both["model"].tokenizer)
    return found


def _of_questions(exam: EvalTasks, ours: ModelOutputs, theirs: ModelOutputs | None) -> dict[str, Any]:
    """By language, and how many answers are those of the baseline, id by id."""
    langs = [language_of(question) for question in exam.questions]
    result: dict[str, Any] = {}
    for lang in dict.fromkeys(langs):
        numbers = [i for i, other in enumerate(langs) if other == lang]
        result[lang] = {
            "questions": len(numbers),
            "model": _quality(lang, [ours.answers[i] for i in numbers], ours.tokenizer),
        }
        if theirs:
            result[lang]["baseline"] = _quality(lang, [theirs.answers[i] for i in numbers], ours.tokenizer)
            result[lang]["identical"] = sum(ours.answers[i].ids == theirs.answers[i].ids for i in numbers)
    return result


def _quality(lang: str, replies: Sequence[Reply], tokenizer: GLMTokenizer) -> dict[str, float]:
    """Means over the replies: repeated 4-grams of tokens, letters of the language, turns that ended by themselves.

    The tokens are those of one tokenizer, whichever model spoke: shorter ones repeat more.
    """
    values = {
        "repetition": [repetition_rate(tokenizer.encode(reply.whole)) for reply in replies],
        "script_purity": [script_purity(reply.whole, lang) for reply in replies],
        "stopped": [float(reply.stopped) for reply in replies],
    }
    return {name: sum(found) / len(found) for name, found in values.items()}


def _answer(asked: _Asked, replies: Sequence[Reply], tokenizers: Sequence[GLMTokenizer]) -> dict[str, Any]:
    """What the model said, and the baseline, if it was asked."""
    names = ("model", "baseline")
    found = asked._asdict() | {name: reply.whole for name, reply in zip(names, replies, strict=False)}
    if len(replies) == len(names):
        found["identical"] = replies[0].ids == replies[1].ids
    lengths = [len(tokenizer.encode(asked.prompt)) for tokenizer in tokenizers]
    return found | {"prompt_tokens": dict(zip(names, lengths, strict=False))}


def _pieces(text: str, tokenizer: GLMTokenizer) -> list[str]:
    pieces = [tokenizer.piece(token_id) for token_id in tokenizer.encode(text)]
    return [_BYTE.sub(r"·\1", piece).replace("\u2581", " ") for piece in pieces]

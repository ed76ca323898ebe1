"""Computes scores from the outputs of a model and, if given, a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from glmja import __version__
from glmja.conversation.replies import Reply
from glmja.evaluation.evaluator import ModelOutputs
from glmja.evaluation.likelihood import mean_kl
from glmja.evaluation.new_piece_scores import NewPieces
from glmja.evaluation.provenance import Provenance
from glmja.evaluation.references import Reference
from glmja.evaluation.retention import (
    LanguageRetention,
    RetentionLimits,
    RetentionScores,
    judge,
    measure_drift,
    retention,
)
from glmja.evaluation.scores import (
    ModelInfo,
    Quality,
    QuestionComparison,
    ReplyComparison,
    ReplyScores,
    Scores,
    TextComparison,
    TextScores,
)
from glmja.evaluation.tasks import EvalLimits, EvalTasks
from glmja.text.overlap import Segmentation, overlap, signatures
from glmja.text.quality import failure_of, repetition_rate, script_shares
from glmja.text.sacrebleu_scores import sacrebleu_scores
from glmja.text.scripts import LANGUAGES, language_of
from glmja.tokenization.tokenizer import GLMTokenizer

Segmenter = Callable[[str], list[str]]


def score(
    tasks: EvalTasks,
    model: ModelOutputs,
    baseline: ModelOutputs | None,
    *,
    limits: RetentionLimits,
    segmentation: Segmentation,
    segmenters: Mapping[str, Segmenter],
    made: Provenance,
    device: str = "cpu",
) -> Scores:
    """Computes all scores.

    Args:
        tasks: Inputs of the evaluation.
        model: Outputs of the model.
        baseline: Outputs of the baseline, if there is one.
        limits: What the model may change of its baseline in a retained language.
        segmentation: Name of the segmentation of Chinese and Japanese.
        segmenters: Segmenter of each language with references.
        made: Where the figures come from.
        device: Device to compute KL divergences on.
    """
    return Scores(
        glmja=__version__,
        text={lang: _text(lang, model, baseline) for lang in tasks.texts},
        retention=_retention(tasks.retained, model, baseline, limits, device),
        generation={
            lang: _generation(lang, tasks, model, baseline, segmenters[lang], segmentation) for lang in tasks.references
        },
        questions=_questions(tasks.questions, model, baseline) if tasks.questions else None,
        model=_info(model),
        baseline=_info(baseline) if baseline else None,
        segmentation=segmentation,
        text_signature=_text_signature(tasks.limits, baseline is not None),
        provenance=made,
        new_pieces=_new_pieces(tasks, model),
    )


def _text_signature(limits: EvalLimits, compared: bool) -> str:
    borders = "common" if compared else "own"
    return f"row_len:{limits.row_len}|stride:{limits.stride or 'none'}|borders:{borders}|prefix:[gMASK]<sop>|eos:no"


def _text(lang: str, model: ModelOutputs, baseline: ModelOutputs | None) -> TextComparison:
    found, before = model.likelihoods[lang], baseline.likelihoods[lang] if baseline else None
    return TextComparison(
        documents=found.documents,
        characters=found.characters,
        model=TextScores(found.bits_per_char, found.tokens_per_char),
        baseline=TextScores(before.bits_per_char, before.tokens_per_char) if before else None,
    )


def _new_pieces(tasks: EvalTasks, model: ModelOutputs) -> NewPieces | None:
    new_ids = model.tokenizer.new_ids
    if not new_ids:
        return None
    generated: dict[str, list[list[int]]] = {lang: [*rows] for lang, rows in model.continuations.items()}
    for question, reply in zip(tasks.questions, model.answers, strict=True):
        generated.setdefault(language_of(question), []).append(reply.ids)
    for lang, replies in model.replies.items():
        generated.setdefault(lang, []).extend(reply.ids for reply in replies)
    ids_of = {lang: [token_id for row in rows for token_id in row] for lang, rows in generated.items()}
    greedy = {lang: sum(token_id in new_ids for token_id in ids) / len(ids) for lang, ids in ids_of.items() if ids}
    return NewPieces(len(new_ids), model.new_rows, model.uses_of_new, greedy)


def _retention(
    languages: Sequence[str],
    model: ModelOutputs,
    baseline: ModelOutputs | None,
    limits: RetentionLimits,
    device: str,
) -> RetentionScores | None:
    if not baseline or not languages:
        return None
    return retention({lang: _retained(lang, model, baseline, limits, device) for lang in languages}, limits)


def _retained(
    lang: str, model: ModelOutputs, baseline: ModelOutputs, limits: RetentionLimits, device: str
) -> LanguageRetention:
    before, after = (outputs.likelihoods[lang].document_nats for outputs in (baseline, model))
    pairs = list(zip(baseline.continuations[lang], model.continuations[lang], strict=True))
    kl, kl_tokens = mean_kl(baseline.distributions[lang], model.distributions[lang], device)
    drift, unchanged = measure_drift(before, after), sum(old == new for old, new in pairs) / len(pairs)
    verdict, reasons = judge(drift, kl, unchanged, len(before), limits)
    return LanguageRetention(
        **vars(drift),
        documents=len(before),
        mean_kl_nats=kl,
        kl_tokens=kl_tokens,
        greedy_unchanged=unchanged,
        greedy_continuations=len(pairs),
        verdict=verdict,
        reasons=reasons,
    )


def _generation(
    lang: str,
    tasks: EvalTasks,
    model: ModelOutputs,
    baseline: ModelOutputs | None,
    segment: Segmenter,
    segmentation: Segmentation,
) -> ReplyComparison:
    found = tasks.references[lang]
    methods = {"answers": f"greedy|max_new_tokens:{tasks.limits.max_new_tokens}"} | signatures(lang, segmentation)

    def reply_scores(replies: Sequence[Reply]) -> ReplyScores:
        texts = [_compared(*pair) for pair in zip(replies, found.kept, strict=True)]
        answers = [reference.answers for reference in found.kept]
        comparable = sacrebleu_scores(lang, texts, answers)
        if comparable:
            methods.update(comparable.signatures)
        return ReplyScores(
            **vars(overlap(texts, answers, segment)),
            **vars(_quality(lang, replies, model.tokenizer)),
            sacrebleu=comparable.bleu if comparable else None,
            chrf=comparable.chrf if comparable else None,
            right_tool=_right_tool(replies, found.kept),
        )

    return ReplyComparison(
        references=len(found.kept),
        left_out={reason: len(places) for reason, places in found.left_out.items()},
        shortened=found.shortened,
        model=reply_scores(model.replies[lang]),
        baseline=reply_scores(baseline.replies[lang]) if baseline else None,
        signatures=methods,
    )


def _compared(reply: Reply, reference: Reference) -> str:
    """Returns the text of a reply, or an empty one if it does not call the tool that it has to."""
    return reply.whole if _calls_tool_of(reply, reference) else ""


def _right_tool(replies: Sequence[Reply], references: Sequence[Reference]) -> float | None:
    called = [
        float(_calls_tool_of(reply, reference))
        for reply, reference in zip(replies, references, strict=True)
        if reference.tool
    ]
    return _mean(called) if called else None


def _calls_tool_of(reply: Reply, reference: Reference) -> bool:
    return not reference.tool or reply.metadata.strip() == reference.tool.strip()


def _questions(
    questions: Sequence[str], model: ModelOutputs, baseline: ModelOutputs | None
) -> dict[str, QuestionComparison]:
    langs = [language_of(question) for question in questions]
    return {
        lang: _language_questions(lang, [i for i, other in enumerate(langs) if other == lang], model, baseline)
        for lang in sorted(set(langs), key=(*LANGUAGES, "other").index)
    }


def _language_questions(
    lang: str, numbers: Sequence[int], model: ModelOutputs, baseline: ModelOutputs | None
) -> QuestionComparison:
    def quality(outputs: ModelOutputs) -> Quality:
        return _quality(lang, [outputs.answers[i] for i in numbers], model.tokenizer)

    return QuestionComparison(
        questions=len(numbers),
        model=quality(model),
        baseline=quality(baseline) if baseline else None,
        identical=sum(model.answers[i].ids == baseline.answers[i].ids for i in numbers) if baseline else None,
    )


def _quality(lang: str, replies: Sequence[Reply], tokenizer: GLMTokenizer) -> Quality:
    """Returns counts and means. One tokenizer counts for both models: shorter tokens repeat more often."""
    texts = [reply.whole for reply in replies]
    failures = Counter(map(failure_of, texts))
    shares = [script_shares(text, lang) for text in texts]
    return Quality(
        empty=failures["empty"],
        blank=failures["blank"],
        looping=failures["looping"],
        repetition=_mean([repetition_rate(tokenizer.encode(text)) for text in texts]),
        script_purity=_mean_of_known([share.purity for share in shares]),
        latin=_mean_of_known([share.latin for share in shares]),
        simplified_only=_mean_of_known([share.simplified_only for share in shares]),
        stopped=_mean([float(reply.stopped) for reply in replies]),
    )


def _info(outputs: ModelOutputs) -> ModelInfo:
    return ModelInfo(outputs.name, outputs.tokenizer.fingerprint, outputs.weights_fingerprint)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None

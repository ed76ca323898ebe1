"""The scores of an evaluation, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from glmja.evaluation.new_piece_scores import NewPieces
from glmja.evaluation.provenance import Provenance
from glmja.evaluation.retention import RetentionScores
from glmja.text.overlap import Overlap, Segmentation


@dataclass(frozen=True)
class TextScores:
    """Likelihood of a text under one model.

    Attributes:
        bits_per_char: Bits per character; comparable between tokenizers.
        tokens_per_char: Tokens per character.
    """

    bits_per_char: float
    tokens_per_char: float


@dataclass(frozen=True)
class TextComparison:
    """Likelihood of one language's text under the model and, if given, the baseline."""

    documents: int
    characters: int
    model: TextScores
    baseline: TextScores | None = None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Reference-free quality of replies.

    Attributes:
        empty: Number of replies without a character.
        blank: Number of replies with nothing but white space and invisible characters.
        looping: Number of replies that end in a loop.
        repetition: Mean share of 4-grams of tokens that repeat an earlier one.
        script_purity: Mean share of letters in scripts of the language, over replies with letters; None if there are
            none.
        latin: Mean share of letters that are Latin, over replies with letters.
        simplified_only: Mean share of Han characters that only simplified Chinese has, over replies with these.
        stopped: Share of replies that ended with a stop token.
    """

    empty: int
    blank: int
    looping: int
    repetition: float
    script_purity: float | None
    latin: float | None
    simplified_only: float | None
    stopped: float


@dataclass(frozen=True, kw_only=True)
class ReplyScores(Quality, Overlap):
    """Overlap of replies with references, and their quality.

    Attributes:
        sacrebleu: BLEU as sacrebleu computes it; None if it, or MeCab for Japanese, is not installed.
        chrf: chrF2 of sacrebleu; None if it is not installed.
        right_tool: Share of the references that call a tool whose replies call the same tool; None if none does.
    """

    sacrebleu: float | None = None
    chrf: float | None = None
    right_tool: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReplyComparison:
    """Replies to one language's conversations with references.

    Attributes:
        references: Number of conversations.
        left_out: Number of records that could not be used, by reason.
        shortened: Number of conversations that lost their oldest turns to fit into the model.
        signatures: What each score depends on.
        model: Scores of the model.
        baseline: Scores of the baseline.
    """

    references: int
    left_out: dict[str, int]
    shortened: int
    signatures: dict[str, str]
    model: ReplyScores
    baseline: ReplyScores | None = None


@dataclass(frozen=True)
class QuestionComparison:
    """Answers to the questions in one language.

    Attributes:
        questions: Number of questions.
        model: Quality of the model's answers.
        baseline: Quality of the baseline's answers.
        identical: Number of answers that equal the baseline's, id by id.
    """

    questions: int
    model: Quality
    baseline: Quality | None = None
    identical: int | None = None


@dataclass(frozen=True)
class Failures:
    """Counts of empty, blank and looping answers of a model in a language.

    Attributes:
        lang: The language.
        asked: `questions` or `conversations`.
        name: `model` or `baseline`.
        answers: Number of answers.
        empty: Number of those without a character.
        blank: Number of those with nothing but white space and invisible characters.
        looping: Number of those that end in a loop.
    """

    lang: str
    asked: str
    name: str
    answers: int
    empty: int
    blank: int
    looping: int

    @property
    def total(self) -> int:
        """Number of answers that are empty, blank or looping."""
        return self.empty + self.blank + self.looping


@dataclass(frozen=True)
class ModelInfo:
    """Identification of an evaluated model.

    Attributes:
        folder: Name of its folder.
        tokenizer_sha256: Fingerprint of its tokenizer.
        weights_fingerprint: Hash of a sample of its weights; see `Checkpoint.fingerprint`.
    """

    folder: str
    tokenizer_sha256: str
    weights_fingerprint: str


@dataclass(frozen=True)
class Scores:
    """All scores of an evaluation: the content of `scores.json`.

    Attributes:
        glmja: Version of this package.
        text: Likelihood of texts, by language.
        retention: Comparison with the baseline; None if it was not measured.
        generation: Replies compared with references, by language.
        questions: Answers to the questions by language; None if none were asked.
        model: The evaluated model.
        baseline: The model that it is compared with, if any.
        segmentation: Segmentation of Chinese and Japanese for BLEU and ROUGE.
        text_signature: What bits per character depend on.
        provenance: Where the figures come from.
        new_pieces: How the model uses the pieces that its tokenizer gained; None if it gained none.
    """

    glmja: str
    text: dict[str, TextComparison]
    retention: RetentionScores | None
    generation: dict[str, ReplyComparison]
    questions: dict[str, QuestionComparison] | None
    model: ModelInfo
    baseline: ModelInfo | None
    segmentation: Segmentation
    text_signature: str
    provenance: Provenance
    new_pieces: NewPieces | None = None

    @property
    def compared(self) -> list[str]:
        """The names `baseline`, if there is one, and `model`."""
        return ["baseline", "model"] if self.baseline else ["model"]

    def failures(self) -> list[Failures]:
        """Returns how many answers are empty, blank or looping: to the questions first, then to the conversations."""
        found = []
        for name in self.compared:
            for lang, asked in (self.questions or {}).items():
                found.append(_failures(lang, "questions", name, asked.questions, getattr(asked, name)))
            for lang, compared in self.generation.items():
                found.append(_failures(lang, "conversations", name, compared.references, getattr(compared, name)))
        return found


def _failures(lang: str, asked: str, name: str, answers: int, quality: Quality) -> Failures:
    return Failures(lang, asked, name, answers, quality.empty, quality.blank, quality.looping)


def as_json(value: Any) -> Any:
    """Converts dataclasses to JSON objects; fields that are None by default are left out if they are None."""
    if is_dataclass(value):
        pairs = [(field, getattr(value, field.name)) for field in fields(value)]
        return {field.name: as_json(held) for field, held in pairs if held is not None or field.default is not None}
    if isinstance(value, dict):
        return {key: as_json(held) for key, held in value.items()}
    return [as_json(held) for held in value] if isinstance(value, list | tuple) else value

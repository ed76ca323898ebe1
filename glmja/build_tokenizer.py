"""`python -m glmja.build_tokenizer`: adds Japanese pieces to a ChatGLM tokenizer and verifies the result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from glmja.cli.arguments import files_by_language
from glmja.cli.command import run_command
from glmja.cli.ending import Ending, Values
from glmja.families.names import FamilyName
from glmja.families.recognition import family_of, load_tokenizer
from glmja.files.documents import check_document_files, read_documents
from glmja.files.input_files import DataFile, InputFile
from glmja.files.json_files import write_json
from glmja.files.output_folder import atomic_output_folder, check_free
from glmja.text.corpus_survey import CorpusSurvey
from glmja.text.terminal import make_table, show
from glmja.tokenization import huggingface
from glmja.tokenization.learning_curve import FEW_USES
from glmja.tokenization.piece_files import read_words
from glmja.tokenization.piece_learning import MIN_GAIN, SelectedPieces, TooFewPiecesError, learn_pieces
from glmja.tokenization.ready_pieces import ready_pieces
from glmja.tokenization.special_tokens import check_names, with_special_tokens
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.tokenization.training_corpus import TrainingCorpus, read_corpus
from glmja.tokenization.vocabulary import WORD_BOUNDARY, append_pieces, check_premises, unreachable_pieces
from glmja.verification.corpus_table import corpus_table, corpus_warnings, curve_table
from glmja.verification.tokenizer import REPORT_FILE, TokenizerReport, compare_on_texts, table_of, use_table

_MANY_PIECES = 1000  # of fewer pieces, rare ones cost little
_NUM_LEARNED = 13756  # with ChatGLM3's, 78,554 ids, as many as the published vocabulary has

_log = logging.getLogger(__name__)

_FLAGS = {name: f"--{name}" for name in ("strip_aozora", "normalize")}


def build_tokenizer(
    base: str,
    output: str,
    corpus: list[str] = [],  # noqa: B006  (jsonargparse shows the default)
    num_new_pieces: int | Literal["auto"] | None = None,
    min_gain: float = MIN_GAIN,
    policy: Literal["japanese", "shinjitai", "kana", "none"] = "japanese",
    join_punctuation: bool = True,
    pieces: str | None = None,
    exclude: str | None = None,
    special_tokens: list[str] = [],  # noqa: B006
    check: list[str] = [],  # noqa: B006
    text_key: str = "text",
    documents: Literal["line", "file"] = "line",
    normalize: Literal["none", "nfc"] = "none",
    strip_aozora: bool = False,
    max_training_tokens: int = 30_000_000,
    seed: int = 0,
    family: FamilyName | None = None,
    overwrite: bool = False,
) -> dict[str, object]:
    """Adds Japanese pieces to a ChatGLM tokenizer and verifies that the tokenization of other text is unchanged.

    Args:
        base: Folder of the tokenizer to extend: ChatGLM2, ChatGLM3, or a tokenizer written by glmja.
        output: New folder for the tokenizer, loadable with `AutoTokenizer` and `GLMTokenizer`.
        corpus: Japanese text to learn pieces from: files, folders or patterns of .txt (one document per line), .jsonl,
            .json, .csv, .parquet or .arrow, also with .gz, .zst, .bz2 or .xz. FILE:KEY names the key of the text.
            hub:NAME is a dataset of the Hugging Face Hub, as in hub:wikimedia/wikipedia,config=20231101.ja; its options
            are config, split, data_files, revision and key. A line that occurs several times counts once.
        num_new_pieces: Number of pieces to add; each takes one row in both embeddings. By default 13,756 learned ones,
            or all that `pieces` has. `auto` learns pieces until the next 1,024 save less than `min_gain`.
        min_gain: Share of the tokens that 1,024 more pieces have to save, for `auto`.
        policy: Which text is guaranteed to keep its token ids, because every new piece contains a character that this
            text never contains. `kana`: a kana; protects text without kana. `shinjitai`: a kana, or an ideograph
            outside GB 2312 and Big5; protects simplified and traditional Chinese. `japanese`: a kana, or an ideograph
            outside GB 2312; protects simplified Chinese. `none`: any character, for comparison; protects nothing.
        join_punctuation: Whether a learned piece may contain punctuation next to kana, as in です。 Saves about 7 % of
            the tokens of Japanese.
        pieces: File to take the pieces from instead of learning them: a SentencePiece model, a tokenizer.json, or a
            list of words, one a line (.txt), to which the pieces that lead to a word are added.
        exclude: List of texts that may not become pieces, one a line (.txt); the next ones take their places.
        special_tokens: Names of control tokens to add, such as <|law|>, with rows of their own. Text never yields them.
        check: Text files to verify the tokenizer on, as LANG=FILE, where FILE is as for `corpus`; several files of one
            language are read as one.
        text_key: Key or column of the text; a.b is the key b of the object a.
        documents: What is a document of a .txt file: a `line`, or the whole `file`, as a book.
        normalize: Normal form of the corpus: `nfc` composes what macOS decomposes (か and a mark become が), and
            replaces compatibility ideographs. The tokenizer itself normalizes no text, as its base does not.
        strip_aozora: Leave out the ruby and notes of Aozora Bunko's files, and what stands around the works.
        max_training_tokens: Learn from a random sample of the corpus above this number of tokens; takes 40 bytes of
            memory per token.
        seed: Seed of the sample.
        family: Family of the base, `chatglm3`, `chatglm2` (CodeGeeX2 is one) or `chatglm`; recognized by its files by
            default.
        overwrite: Replace an earlier result of a command in `output`; a folder of other files is never replaced.

    Returns:
        The report as written to `tokenizer_report.json`.

    Raises:
        ValueError: If an input is invalid, the corpus has too few pieces, or the verification fails.
        OSError: If a file does not exist or cannot be written.
    """
    if isinstance(num_new_pieces, int) and num_new_pieces < 1:
        raise ValueError(f"--num_new_pieces {num_new_pieces} must be at least 1")
    if bool(corpus) == bool(pieces):
        raise ValueError("give either --corpus FILE… to learn pieces from, or --pieces FILE to take them from")
    if pieces and num_new_pieces == "auto":
        raise ValueError("--num_new_pieces auto measures what pieces save on a --corpus; with --pieces, give a number")
    check_names(special_tokens)
    excluded = frozenset(read_words(exclude)) if exclude else frozenset()
    check_free(output, overwrite, [path for path in (base, pieces, exclude) if path])
    find = partial(check_document_files, text_key=text_key, whole_texts=documents == "file")
    texts, corpus_files = files_by_language("--check", check, find), find(corpus)
    read_files = [file for files in (corpus_files, *texts.values()) for file in files]
    check_free(output, overwrite, [file.path for file in read_files if isinstance(file, InputFile)])
    old = load_tokenizer(base, family)
    family_of(old).check_can_grow(base)

    def read(survey: CorpusSurvey) -> TrainingCorpus:
        text = survey.read(read_documents(corpus_files, text_key, "reading the corpus"))
        return read_corpus(old.proto, text, policy, join_punctuation, max_training_tokens, seed)

    def learn(corpus: TrainingCorpus) -> SelectedPieces:
        return learn_pieces(corpus, None if num == "auto" else num, min_gain, excluded)

    num = num_new_pieces if num_new_pieces is not None or pieces else _NUM_LEARNED
    if pieces and num != "auto":
        survey, selected = None, ready_pieces(old.proto, pieces, num, policy, excluded)
    else:
        survey, selected = _learn(partial(CorpusSurvey, strip_aozora, normalize == "nfc"), read, learn)
    with atomic_output_folder(output, overwrite) as folder:
        report = _write(folder, old, selected, special_tokens, policy, survey, texts, text_key)
    if selected.curve:
        show(curve_table(selected.curve))
    _print(report, output)
    return report.as_json()


def _write(
    folder: Path,
    old: GLMTokenizer,
    selected: SelectedPieces,
    special_tokens: list[str],
    policy: str,
    survey: CorpusSurvey | None,
    texts: dict[str, list[DataFile]],
    text_key: str,
) -> TokenizerReport:
    """Writes the extended tokenizer and the report of its verification.

    Raises:
        ValueError: If the verification fails.
    """
    extended = with_special_tokens(append_pieces(old.proto, selected.pieces), special_tokens)
    left_out = huggingface.save(GLMTokenizer(extended), folder)
    new = GLMTokenizer.load(folder)  # the verification is about the saved file
    _raise_if_any(check_premises(old.proto, new.proto, policy))
    fast = None if left_out else huggingface.load_backend(folder)
    compared = {
        language: compare_on_texts(read_documents(files, text_key, f"checking {language}"), old, new, policy, fast)
        for language, files in texts.items()
    }
    _raise_if_any([line for language, found in compared.items() for line in found.failures(language, policy)])
    report = TokenizerReport(
        policy=policy,
        corpus=survey.as_json() if survey else None,
        learning=selected.curve.as_json() if selected.curve else None,
        base_tokenizer_sha256=old.fingerprint,
        tokenizer_sha256=new.fingerprint,
        hugging_face_tokenizer=huggingface.describe_saved(left_out),
        pieces_before=len(old),
        pieces_after=len(new),
        pieces_with_space=sum(piece.startswith(WORD_BOUNDARY) for piece in selected.pieces),
        control_tokens=new.control_tokens,
        special_tokens=special_tokens,
        premises="hold" if policy != "none" else "hold, but the policy protects no text",
        unreachable_pieces=len(unreachable_pieces(new.proto, len(old))),
        pieces_already_there=selected.num_present,
        rejected_pieces=len(selected.rejected),
        rejected_examples=selected.rejected[:20],
        left_out_pieces=len(selected.unreachable),
        left_out_examples=selected.unreachable[:20],
        steps_added=selected.num_steps,
        texts=compared,
    )
    write_json(folder / REPORT_FILE, report.as_json())
    return report


def _learn(
    begin: Callable[..., CorpusSurvey],
    read: Callable[[CorpusSurvey], TrainingCorpus],
    learn: Callable[[TrainingCorpus], SelectedPieces],
) -> tuple[CorpusSurvey, SelectedPieces]:
    """Learns pieces from the lines of a corpus, each counted once, or as often as they occur if these are too few.

    Args:
        begin: Returns an empty survey; `once` says whether lines count once.
        read: Reads the corpus and counts it.
        learn: Learns pieces from it.
    """
    survey = begin(once=True)
    corpus = read(survey)
    show(corpus_table(survey, _FLAGS))
    try:
        return survey, learn(corpus)
    except TooFewPiecesError:
        if not survey.repeated_lines:
            raise
    _log.warning("without repetitions, the corpus has too few pieces: repeated lines count as often as they occur")
    survey = begin(once=False)
    return survey, learn(read(survey))


def _raise_if_any(failures: list[str]) -> None:
    if failures:
        raise ValueError(f"the verification fails, nothing is written: {'; '.join(failures[:5])}")


def _print(report: TokenizerReport, output: str) -> None:
    rows = [("pieces", f"{report.pieces_before:,} → {report.pieces_after:,}")]
    if report.pieces_already_there:
        rows.append(("already there, ids kept", f"{report.pieces_already_there:,}"))
    rows += [
        ("policy", report.policy),
        ("conditions of the proof", report.premises),
        ("Hugging Face files", report.hugging_face_tokenizer),
        ("begin with a space, and hold a kana", f"{report.pieces_with_space:,}"),
        ("unreachable pieces", str(report.unreachable_pieces)),
        ("rejected by the policy", f"{report.rejected_pieces:,} {' '.join(report.rejected_examples[:8])}"),
    ]
    if report.learning:
        rows.append((f"used fewer than {FEW_USES} times in training", f"{report.learning['pieces_used_rarely']:,}"))
    if report.left_out_pieces:
        examples = " ".join(report.left_out_examples[:8])
        rows.append(("left out, no merges lead to them", f"{report.left_out_pieces:,} {examples}"))
    if report.steps_added:
        rows.append(("added, as steps to words", f"{report.steps_added:,}"))
    if report.special_tokens:
        rows.append(("special tokens", " ".join(report.special_tokens)))
    show(make_table(["verification", ""], rows, title=f"Tokenizer in {output}"))
    if report.texts:
        show(table_of(report.texts, f"Sentences under the policy {report.policy}"), use_table(report.texts))


def _ending(values: Values, report: Values) -> Ending:
    flags = {"base": values["base"], "tokenizer": values["output"], "output": "FOLDER"}
    warnings = []
    if report["hugging_face_tokenizer"] != "written":
        warnings.append(f"no files for AutoTokenizer: {report['hugging_face_tokenizer']}")
    if report["unreachable_pieces"]:
        warnings.append(f"{report['unreachable_pieces']:,} new pieces occur in no segmentation of a text")
    if values["policy"] == "none":
        warnings.append("the policy none protects no text: Chinese and English may be tokenized differently")
    if report["corpus"]:
        warnings += corpus_warnings(report["corpus"], values["strip_aozora"], values["normalize"] == "nfc", _FLAGS)
    if report["learning"]:
        rare = report["learning"]["pieces_used_rarely"]
        new = report["pieces_after"] - report["pieces_before"] - len(report["special_tokens"])
        if rare > new / 2 and new >= _MANY_PIECES:
            fewer = "raise --min_gain" if values["num_new_pieces"] == "auto" else "lower --num_new_pieces"
            warnings.append(
                f"{rare:,} of {new:,} new pieces occur fewer than {FEW_USES} times in the text that they were learned "
                f"from; give more text, or {fewer}"
            )
    return Ending(f"tokenizer in {values['output']}", "resize_embeddings", flags, warnings)


def main(args: list[str] | None = None) -> dict[str, object]:
    """Runs the command line."""
    return run_command(build_tokenizer, args, _ending)


if __name__ == "__main__":
    main()

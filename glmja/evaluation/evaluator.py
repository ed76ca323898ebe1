"""Runs the tasks of an evaluation on one model: likelihoods of texts, answers, continuations.

Models are evaluated one after another, so that only one is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from glmja.conversation.messages import Message
from glmja.conversation.replies import Reply, generate
from glmja.evaluation.likelihood import Distributions, Likelihood, measure
from glmja.evaluation.new_piece_scores import NewPieceUse, NewRows
from glmja.evaluation.new_pieces import compare_rows, use_of_new_pieces
from glmja.evaluation.tasks import EvalTasks
from glmja.files.progress import progress
from glmja.modeling.generation import generate_ids
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer

_NUM_CONTINUED = 32  # documents of each language
_START_LEN = 64  # characters of a document that the model continues
_CONTINUATION_LEN = 32  # tokens
_KEPT_POSITIONS = 16384  # per language, for the KL divergence: 0.13 GB for a 6B model in 16 bits


@dataclass
class ModelOutputs:
    """Results of one model, by language where there are several.

    Attributes:
        name: Name of the model's folder.
        tokenizer: The model's tokenizer.
        weights_fingerprint: Hash of a sample of the weights.
        likelihoods: Likelihoods of the texts.
        distributions: Next-token distributions at the first positions of the retained languages' texts.
        continuations: Greedy ids after the beginnings of the retained languages' documents; of all languages if the
            tokenizer has new pieces.
        answers: Greedy answers to the questions.
        replies: Greedy replies to the conversations with references.
        uses_of_new: How new pieces are predicted in the texts; empty if the tokenizer has none.
        new_rows: The rows of the new pieces, of the `input` embedding and the `head`.
    """

    name: str
    tokenizer: GLMTokenizer
    weights_fingerprint: str
    likelihoods: dict[str, Likelihood] = field(default_factory=dict)
    distributions: dict[str, Distributions] = field(default_factory=dict)
    continuations: dict[str, list[list[int]]] = field(default_factory=dict)
    answers: list[Reply] = field(default_factory=list)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    uses_of_new: dict[str, NewPieceUse] = field(default_factory=dict)
    new_rows: dict[str, NewRows] = field(default_factory=dict)


class Evaluator:
    """Runs the tasks of an evaluation on one model."""

    def __init__(
        self,
        folder: ModelFolder,
        tasks: EvalTasks,
        device: str,
        dtype: torch.dtype | None = None,
        beside: Sequence[GLMTokenizer] = (),
    ) -> None:
        """Loads the model.

        Args:
            folder: The opened model folder.
            tasks: Inputs of the evaluation.
            device: Device to run on.
            dtype: Dtype of the weights; as stored if None.
            beside: Tokenizers of the models that this one is compared with; see `glmja.evaluation.rows`.

        Raises:
            ValueError: If the weights are damaged.
        """
        self.tasks, self.name, self.tokenizer = tasks, folder.path.resolve().name, folder.tokenizer
        self.beside, self.weights_fingerprint = beside, folder.fingerprint
        self.model = load_model(folder, dtype).to(device)

    def run(self) -> ModelOutputs:
        """Runs all tasks and shows the progress.

        Raises:
            ModelError: If a likelihood is not finite.
        """
        tasks, outputs = self.tasks, ModelOutputs(self.name, self.tokenizer, self.weights_fingerprint)
        if new_ids := self.tokenizer.new_ids:
            layers = {"input": self.model.get_input_embeddings(), "head": self.model.get_output_embeddings()}
            outputs.new_rows = {name: compare_rows(layer.weight, new_ids) for name, layer in layers.items()}
        for lang in tasks.texts:
            self._measure(lang, outputs)
        for lang in tasks.texts if new_ids else tasks.retained:
            self._continue(lang, outputs)
        if tasks.questions:
            # one by one: answers are compared id by id, and padding can flip a near tie in 16 bits
            outputs.answers = self._answer("answers to the questions", tasks.question_prompts(), 1)
        for lang, references in tasks.references.items():
            prompts = [reference.prompt for reference in references.kept]
            outputs.replies[lang] = self._answer(f"answers in {lang}", prompts, tasks.limits.batch_size)
        return outputs

    def _measure(self, lang: str, outputs: ModelOutputs) -> None:
        new_ids, retained = self.tokenizer.new_ids, lang in self.tasks.retained
        keep = _KEPT_POSITIONS if retained or new_ids else 0
        limits, texts = self.tasks.limits, self.tasks.texts[lang]
        with progress(f"{self.name}: likelihood of {lang}", sum(map(len, texts)), "characters") as advance:
            outputs.likelihoods[lang], found = measure(
                self.model,
                self.tokenizer,
                texts,
                limits.row_len,
                limits.batch_size,
                keep,
                stride=limits.stride,
                beside=self.beside,
                on_characters=advance,
            )
        if new_ids:
            outputs.uses_of_new[lang] = use_of_new_pieces(found, new_ids, self.model.device)
        if retained:
            outputs.distributions[lang] = found

    def _continue(self, lang: str, outputs: ModelOutputs) -> None:
        starts = [text[:_START_LEN] for text in self.tasks.texts[lang][:_NUM_CONTINUED]]
        rows = [[*self.tokenizer.prefix_ids, *self.tokenizer.encode(start)] for start in starts]
        sampling, batch_size = Sampling(_CONTINUATION_LEN), self.tasks.limits.batch_size
        found = []
        with progress(f"{self.name}: continuations of {lang}", len(rows), "texts") as advance:
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                found += generate_ids(self.model, self.tokenizer, batch, sampling, batch_size=batch_size)
                advance(len(batch))
        outputs.continuations[lang] = [continuation.ids for continuation in found]

    def _answer(self, what: str, prompts: Sequence[Sequence[Message]], batch_size: int) -> list[Reply]:
        """Answers greedily, in batches of prompts of similar length: a batch takes as long as its longest prompt."""
        order = sorted(range(len(prompts)), key=lambda i: sum(len(message["content"]) for message in prompts[i]))
        sampling = Sampling(self.tasks.limits.max_new_tokens)
        replies: dict[int, Reply] = {}
        with progress(f"{self.name}: {what}", len(order), "answers") as advance:
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                batch = [prompts[i] for i in numbers]
                found = generate(self.model, self.tokenizer, batch, sampling, batch_size=batch_size)
                replies.update(zip(numbers, found, strict=True))
                advance(len(batch))
        return [replies[i] for i in range(len(prompts))]

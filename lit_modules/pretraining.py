"""Continued pretraining, which may keep languages of the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from glmja.modeling.adapters import unwrap_peft
from glmja.modeling.attention import model_inputs
from glmja.modeling.batch import Batch, indices_in_documents, select_rows
from glmja.modeling.contracts import DistillationModule
from glmja.modeling.flops import forward_flops_per_token
from glmja.modeling.loss import TeacherStates, TokenLosses, token_losses
from glmja.modeling.retention import BaseRows, Retention, teacher_states
from glmja.runs.contracts import ValidationSource, training_data
from lit_modules.base import GLMModule
from lit_modules.embedding_pull import EmbeddingPull, check_pull
from lit_modules.step_losses import LossPart, StepLoss, StepLosses


class PackedPretraining(GLMModule, DistillationModule):
    """Trains on every token of packed rows, and validates in bits per character, which compare across tokenizers.

    With `retention`, rows of some languages are trained towards the base model instead of their text; see
    `glmja.modeling.retention`.
    """

    def __init__(
        self,
        model_dir: str,
        retention: Retention = Retention(),  # noqa: B008 (frozen)
        embedding_pull: float = 0.0,
        **settings: Any,
    ) -> None:
        """Checks that model and tokenizer match; loads no weights.

        Args:
            model_dir: Folder of weights and tokenizer, as `python -m glmja.resize_embeddings` writes it.
            retention: Languages that are trained towards the base model, so that they do not drift.
            embedding_pull: Strength, relative to the learning rate, with which each step pulls the embedding rows of
                the base's ids towards their start, such as 10; 0 disables it. Costs no time, and keeps less than
                `retention`.
            settings: Arguments of `GLMModule`.

        Raises:
            OSError: If the folder has no config or tokenizer.
            ValueError: If an argument is out of range, or tokenizer and model do not match.
        """
        super().__init__(model_dir, **settings)
        retention.check_tuning(self.tuning)
        check_pull(embedding_pull, self.embeddings)
        self.retention, self.embedding_pull = retention, embedding_pull
        kept = self.retained_languages
        objective: dict[str, Any] = {"retention": {"languages": kept, "weight": retention.weight}} if kept else {}
        self.objective = (objective | ({"embedding_pull": embedding_pull} if embedding_pull else {})) or None
        self.step_losses = StepLosses(["loss", *(f"{lang}/kl" for lang in kept)])
        self.validation_kl = {lang: MeanMetric() for lang in kept}
        self.validation_kl_metrics = nn.ModuleList(self.validation_kl.values())  # so that they move to the device

    @property
    def retained_languages(self) -> list[str]:
        """Languages whose rows have a teacher."""
        return sorted(set(self.retention.kept))

    def base_rows_of(self, model: PreTrainedModel) -> BaseRows | None:
        """Returns the embedding rows of the teacher, or towards which those that train are pulled, if any."""
        return BaseRows(model, self.embeddings, self.num_known) if self.objective else None

    @property
    def num_known(self) -> int:
        """Number of ids that the base model knows."""
        return self.tokenizer.new_ids.start

    def setup(self, stage: str) -> None:
        """Checks the settings as `GLMModule`, and that there is text in the languages to keep.

        Raises:
            ValueError: If a setting cannot work, or no source has one of the languages.
        """
        super().setup(stage)
        if not self.retained_languages:
            return
        sources = training_data(self.trainer).row_sources
        if sources is None:
            raise ValueError("`retention` needs rows of one source each; use data_modules.PackedPretrainingData")
        self._langs = [source.lang for source in sources]
        for lang in self.retained_languages:
            if lang not in self._langs:
                raise ValueError(
                    f"retention: no source has the language {lang}, the sources have "
                    f"{', '.join(sorted(set(self._langs)))}; correct the languages of `retention`, or add a source"
                )

    def step_loss(self, batch: Batch) -> StepLoss:
        """Returns the loss of a micro-batch: cross entropy, and the divergence from the base in languages to keep."""
        langs = self._distilled_languages(batch)
        if not any(langs):
            return super().step_loss(batch)
        distilled_B = torch.tensor([lang is not None for lang in langs], device=batch["labels"].device)
        teacher = self._teacher_states(select_rows(batch, distilled_B))
        head, hidden, labels = (
            unwrap_peft(self.model).get_output_embeddings().weight,
            self.hidden_states(batch),
            batch["labels"],
        )
        kl = token_losses(hidden[distilled_B], head, labels[distilled_B], self.loss_chunk_len, teacher)
        total, targets_N, parts = self.retention.weight * kl.total, kl.targets_N, self._parts_of(kl, langs)
        if not all(langs):
            entropy = token_losses(hidden[~distilled_B], head, labels[~distilled_B], self.loss_chunk_len)
            total, targets_N = total + entropy.total, torch.cat([entropy.targets_N, targets_N])
            parts.append(LossPart("loss", entropy.total.detach(), entropy.targets_N.numel()))
        return StepLoss(total, targets_N, parts)

    def _distilled_languages(self, batch: Batch) -> list[str | None]:
        """Returns the language of each row that has a teacher, and None for the others."""
        kept = self.retained_languages
        if not kept:
            return [None] * len(batch["labels"])
        langs = [self._langs[source] for source in batch["sources"].tolist()]
        return [lang if lang in kept else None for lang in langs]

    def _teacher_states(self, batch: Batch) -> TeacherStates:
        assert self.base_rows is not None
        glm = unwrap_peft(self.model)
        return teacher_states(glm, self.base_rows, model_inputs(batch, self.attn_implementation))

    @staticmethod
    def _parts_of(kl: TokenLosses, langs: Sequence[str | None]) -> list[LossPart]:
        """Returns the divergences of each language, summed."""
        distilled = [lang for lang in langs if lang is not None]
        nats_B, counts_B = kl.of_rows(len(distilled)), torch.bincount(kl.rows_N, minlength=len(distilled)).tolist()
        return [LossPart(f"{x}/kl", nats, n) for x, nats, n in zip(distilled, nats_B, counts_B, strict=True)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns optimizer and schedule as `GLMModule`; the optimizer also pulls the rows of the embeddings."""
        configured = super().configure_optimizers()
        if self.embedding_pull:
            assert self.base_rows is not None and isinstance(configured, dict)
            glm, (input_VD, head_OD) = unwrap_peft(self.model), self.base_rows.of(unwrap_peft(self.model))
            pairs = [
                (glm.get_input_embeddings().weight, input_VD[: self.num_known]),
                (glm.get_output_embeddings().weight, head_OD),
            ]
            configured["optimizer"].register_step_post_hook(EmbeddingPull(self.embedding_pull, pairs))
        return configured

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Adds a batch to the metrics as `GLMModule`, and the divergence from the base in languages to keep."""
        lang = self.validation.sources[dataloader_idx].lang
        if lang not in self.retained_languages:
            return super().validation_step(batch, batch_idx, dataloader_idx)
        teacher, hidden = self._teacher_states(batch), self.hidden_states(batch)
        head, labels = unwrap_peft(self.model).get_output_embeddings().weight, batch["labels"]
        kl = token_losses(hidden, head, labels, self.loss_chunk_len, teacher)
        if num_tokens := kl.targets_N.numel():
            self.validation_kl[lang].update(kl.total / num_tokens, weight=num_tokens)
        return self.validate(hidden, batch, dataloader_idx)

    def logged_names(self, sources: Sequence[ValidationSource]) -> set[str]:
        """Returns the names of all metrics that a run can log; see `GLMModule`."""
        langs = {source.lang for source in sources} & set(self.retained_languages)
        return super().logged_names(sources) | {f"val/{lang}/kl" for lang in langs}

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of `GLMModule`, and `val/LANG/kl` in nats per token."""
        super().on_validation_epoch_end()
        validated = {source.lang for source in self.validation.sources}
        for lang, metric in self.validation_kl.items():
            if lang in validated:
                self.log(f"val/{lang}/kl", metric.compute(), sync_dist=True)
                metric.reset()

    def teacher_flops(self, batch: Batch) -> int:
        """Returns the floating-point operations of the teacher's forward pass over a batch."""
        position_ids = batch["position_ids"]
        langs = self._distilled_languages(batch)
        if not any(langs):
            return 0
        distilled_B = torch.tensor([lang is not None for lang in langs], device=position_ids.device)
        index_BT = indices_in_documents(position_ids)[distilled_B]
        num_tokens, attended = index_BT.numel(), int((2 * index_BT + 1).sum())
        config = unwrap_peft(self.model).config
        return int(num_tokens * forward_flops_per_token(config, attended / num_tokens, self.num_known))

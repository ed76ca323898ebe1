"""Estimates memory, disk and time of a configured run on other machines, by arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import GlmConfig

from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.flops import forward_flops_per_token, training_flops_per_token
from glmja.modeling.gpus import Gpu
from glmja.modeling.loading import empty_model, outline
from glmja.modeling.model_folder import ModelFolder
from glmja.modeling.retention import BaseRows
from glmja.weights.dtypes import dtype_named
from lit_modules.memory import DeviceLayout, MemoryEstimate, activation_memory, has_16_bits, model_memory
from lit_modules.optimizers import try_optimizer
from lit_modules.preflight import state_bytes_per_parameter

UTILIZATION = 0.4  # share of a GPU's peak that a run is assumed to reach
# CUDA's own memory, the workspaces of its libraries, and fragments that the allocator cannot use
RESERVED = 1.5e9
# ChatGLM3-6B, grown by the default number of pieces and rounded up
_CHATGLM3 = GlmConfig(
    vocab_size=78_592, hidden_size=4096, intermediate_size=13_696, num_hidden_layers=28, num_attention_heads=32,
    num_key_value_heads=2, head_dim=128, attention_bias=True, pad_token_id=0,
)  # fmt: skip
_NEW_IDS = range(64_798, 64_798 + 13_756)

# what to set if a run does not fit, in the order in which it costs speed
REMEDIES: Sequence[tuple[str, dict[str, Any]]] = (
    ("`gradient_checkpointing` true", {"recompute": True}),
    ("`embeddings` new_rows", {"embeddings": "new_rows"}),
    ("configs/presets/zero2_offload.yaml", {"is_offloaded": True, "is_zero": True}),
)


@dataclass(frozen=True)
class RunShape:
    """The settings of a run that its memory and time depend on.

    Attributes:
        model_dir: Folder of the model. Without one, the shapes are those of ChatGLM3-6B with 13,756 more pieces.
        tuning: How the transformer trains.
        embeddings: How the embeddings train.
        lora: Settings of the adapters.
        keeps_rows: Whether the embedding rows of the start are kept beside those that train.
        distilled_share: Share of the tokens whose rows have a teacher.
        create_optimizer: Creates the optimizer.
        dtype: Name of the dtype of frozen weights; None for the stored one.
        recompute: Whether layers are computed again in the backward pass.
        chunk_len: Number of positions whose logits the loss holds at a time.
        row_len: Largest number of tokens in a row.
        batch_tokens: Tokens of a micro-batch on each device, padding included.
        num_tokens: Maximum number of tokens of the run; None if it is measured in epochs.
        num_batches: Maximum number of micro-batches of the run on each device; None if there is no limit.
        max_kept: Number of checkpoints that exist at the same time.
        is_zero: Whether the strategy is ZeRO-2.
        is_offloaded: Whether it keeps the optimizer on the host.
        is_16bit: Whether the precision has 16 bits.
        buckets: Elements in the buffers of ZeRO-2.
    """

    model_dir: str
    tuning: Any
    embeddings: Any
    lora: Lora
    keeps_rows: bool
    distilled_share: float
    create_optimizer: Callable[..., Optimizer]
    dtype: str | None
    recompute: bool
    chunk_len: int
    row_len: int
    batch_tokens: int
    num_tokens: int | None
    num_batches: int | None
    max_kept: int
    is_zero: bool
    is_offloaded: bool
    is_16bit: bool
    buckets: int

    @property
    def has_model(self) -> bool:
        """True if the folder of the model exists."""
        return Path(self.model_dir).is_dir()

    @classmethod
    def of(cls, config: Namespace) -> RunShape:
        """Reads the parsed configuration of a run.

        Raises:
            ValueError: If model or data are of classes that are not known here.
        """
        model, data, trainer = config.model.init_args, config.data.init_args, config.trainer
        if "model_dir" not in model or "row_len" not in data:
            raise ValueError("`estimate` knows PackedPretraining and PaddedSFT with their data only")
        strategy = (
            trainer.strategy if isinstance(trainer.strategy, Namespace) else Namespace(class_path=trainer.strategy)
        )
        options = strategy.get("init_args") or Namespace()
        optimizer = model.optimizer
        lora = {field.name: model.lora[field.name] for field in fields(Lora)}
        share = _distilled_share(model, data)
        return cls(
            model_dir=model.model_dir,
            tuning=model.tuning,
            embeddings=model.embeddings,
            lora=Lora(**lora),
            keeps_rows=share > 0 or bool(model.get("embedding_pull")),
            distilled_share=share,
            create_optimizer=_factory(optimizer),
            dtype=model.dtype,
            recompute=model.gradient_checkpointing,
            chunk_len=model.loss_chunk_len,
            row_len=data.row_len,
            batch_tokens=data.get("tokens_per_batch") or data.batch_size * data.row_len,
            num_tokens=data.get("tokens"),
            num_batches=trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps > 0 else None,
            max_kept=max(1, config.checkpoint.save_top_k + 2) if config.checkpoint.save_top_k >= 0 else 10,
            is_zero=str(strategy.class_path).endswith("ZeRO2"),
            is_offloaded=bool(options.get("offload_optimizer")),
            is_16bit=has_16_bits(trainer.precision or "32"),
            buckets=(options.get("reduce_bucket_size") or 0) + (options.get("allgather_bucket_size") or 0),
        )


@dataclass(frozen=True)
class Estimate:
    """Requirements of a run on a machine.

    Attributes:
        count: Number of GPUs.
        gpu: The GPU.
        memory: Weights, gradients and optimizer state.
        activations: Activations and loss on each GPU, in bytes.
        buffers: Buffers of ZeRO-2 and what CUDA takes, in bytes.
        remedies: Parameters to set, or presets to add, so that it fits.
        disk: Bytes of checkpoints, and of tokenized text if the number of tokens is known.
        hours_per_billion: Hours for 10⁹ tokens; None if the speed of the GPU is unknown.
        hours: Hours of the run; None if its number of tokens or the speed is unknown.
    """

    count: int
    gpu: Gpu
    memory: MemoryEstimate
    activations: int
    buffers: float
    remedies: Sequence[str]
    disk: float
    hours_per_billion: float | None
    hours: float | None

    @property
    def total(self) -> float:
        """Bytes that the run needs on each GPU."""
        return self.memory.device + self.activations + self.buffers

    @property
    def fits(self) -> bool:
        """True if the run fits into the memory of each GPU."""
        return self.total <= self.gpu.memory


def estimate(shape: RunShape, machines: Sequence[tuple[int, Gpu]]) -> list[Estimate]:
    """Estimates a run on machines; where it does not fit, with as many of `REMEDIES` as it takes, or all."""
    models: dict[Any, Any] = {}
    results = []
    for count, gpu in machines:
        tried, remedies = shape, list[str]()
        result = _estimate(tried, count, gpu, remedies, models)
        for remedy, change in REMEDIES:
            if result.fits:
                break
            if all(getattr(tried, name) == value for name, value in change.items()):
                continue
            if change.get("embeddings") and tried.embeddings != "full":
                continue
            tried, remedies = replace(tried, **change), [*remedies, remedy]
            result = _estimate(tried, count, gpu, remedies, models)
        results.append(result)
    return results


def as_rows(found: Sequence[Estimate]) -> list[tuple[str, ...]]:
    """Returns a table of estimates: a row for each quantity, in 10⁹ bytes, and a column for each machine."""
    columns = [
        {
            "weights": _gb(one.memory.weights),
            "gradients": _gb(one.memory.gradients),
            "optimizer": _gb(one.memory.optimizer),
            "activations": _gb(one.activations),
            "buffers": _gb(one.buffers),
            "total": _gb(one.total),
            "of": _gb(one.gpu.memory),
            "fits": "yes" if one.fits else "no",
            "flags to add": "\n".join(one.remedies) or "–",
            "host memory, GB": _gb(one.memory.host),
            "disk, GB": _gb(one.disk),
            "hours for 1 B tokens": "–" if one.hours_per_billion is None else f"{one.hours_per_billion:,.1f}",
            "hours of the run": "–" if one.hours is None else f"{one.hours:,.1f}",
        }
        for one in found
    ]
    return [(name, *(column[name] for column in columns)) for name in columns[0]]


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"


def _estimate(shape: RunShape, count: int, gpu: Gpu, remedies: Sequence[str], models: dict[Any, Any]) -> Estimate:
    key = shape.embeddings
    if key not in models:
        models[key] = _model(shape)
    model, rows = models[key]
    layout = DeviceLayout(count, count, shape.is_zero, shape.is_offloaded, shape.is_16bit)
    state = state_bytes_per_parameter(try_optimizer(shape.create_optimizer, matrices_only=shape.tuning != "full"))
    memory = model_memory(nn.ModuleList([model, rows] if shape.keeps_rows else [model]), state, layout)
    num_bytes = 2 if shape.is_16bit else 4
    trains_head = any(p.requires_grad for n, p in model.named_parameters() if "lm_head" in n)
    activations = activation_memory(
        model.config, shape.batch_tokens, shape.recompute, shape.chunk_len, trains_head, num_bytes
    )
    hours = None
    if gpu.tflops is not None:
        flops = training_flops_per_token(model, shape.row_len)
        if shape.recompute:
            flops *= 4 / 3  # another forward pass, a third of forward and backward
        flops += shape.distilled_share * forward_flops_per_token(model.config, shape.row_len, rows.num_known)
        hours = 1e9 * flops / (gpu.tflops * 1e12 * UTILIZATION * count) / 3600
    by_steps = None if shape.num_batches is None else shape.num_batches * count * shape.batch_tokens
    num_tokens = min((limit for limit in (shape.num_tokens, by_steps) if limit is not None), default=None)
    disk = shape.max_kept * memory.checkpoint + 4 * (shape.num_tokens or 0)
    return Estimate(
        count,
        gpu,
        memory,
        activations,
        RESERVED + 2 * shape.buckets * shape.is_zero,
        remedies,
        disk,
        hours,
        None if hours is None or num_tokens is None else hours * num_tokens / 1e9,
    )


def _model(shape: RunShape) -> tuple[Any, BaseRows]:
    """Returns the model without values, with its trainable parameters, and the embedding rows of its start."""
    dtype = dtype_named(shape.dtype) if shape.dtype else None
    with isolate_rng():
        if shape.has_model:
            folder = ModelFolder.open(shape.model_dir)
            model, new_ids = outline(folder, dtype), folder.tokenizer.new_ids
        else:
            model, new_ids = empty_model(_CHATGLM3).to(dtype or dtype_named("float16")), _NEW_IDS
        rows = BaseRows(model, shape.embeddings, new_ids.start)
        return apply_tuning(model, shape.tuning, shape.embeddings, shape.lora, new_ids), rows


def _distilled_share(model: Namespace, data: Namespace) -> float:
    """Returns the share of the tokens whose rows have a teacher; sources without weights count as equal."""
    retention = model.get("retention")
    if retention is None or not retention.weight:
        return 0.0
    weights = [(source.lang, source.weight or 1.0) for source in data.sources]
    return sum(weight for lang, weight in weights if lang in retention.languages) / sum(w for _, w in weights)


def _factory(optimizer: Any) -> Callable[..., Optimizer]:
    """Returns what creates a configured optimizer; AdamW, the default, if it is no class with arguments."""
    if not isinstance(optimizer, Namespace):
        return AdamW
    module, _, name = optimizer.class_path.rpartition(".")  # the parser has imported it
    created, arguments = getattr(import_module(module), name), dict(optimizer.get("init_args") or {})
    return lambda parameters: created(parameters, **arguments)

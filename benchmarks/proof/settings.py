"""Settings of the proof: the sizes of its models and texts, and its arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from glmja.weights.options import Init

LANGUAGES = ("ja", "zh", "en")
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)  # of the budget, at which an arm is measured
LR = 2e-3
ROW_LEN = 256

Tokenizer = Literal["old", "ours", "known"]


@dataclass(frozen=True)
class Scale:
    """Sizes of texts and models.

    Attributes:
        width: Hidden size.
        layers: Layers of the transformer.
        old_pieces: Pieces of the base's vocabulary.
        new_pieces: Pieces that are added.
        base_tokens: Tokens to train the base on.
        base_lr: Largest learning rate of the base.
        flops: Operations of an arm: training, teacher and calibration.
        batch_size: Rows of a step.
        calibration_tokens: Tokens that `calibrated` reads.
        windows: Held-out windows of each language.
        windows_between: Those of them that are measured within a run.
        characters: Characters of each language and part; see `benchmarks.proof.texts`.
        spans: Characters of a window that are given, and that are predicted.
    """

    width: int
    layers: int
    old_pieces: int
    new_pieces: int
    base_tokens: int
    base_lr: float
    flops: float
    batch_size: int
    calibration_tokens: int
    windows: int
    windows_between: int
    characters: Mapping[str, Mapping[str, int]]
    spans: Mapping[str, tuple[int, int]]


NARROW = Scale(
    width=128, layers=3, old_pieces=5500, new_pieces=2500, base_tokens=2_400_000, base_lr=3e-3,
    flops=2e12, batch_size=4, calibration_tokens=30_000, windows=100, windows_between=40,
    characters={
        "ja": {"held_out": 300_000, "base": 1_500_000, "train": 4_000_000},
        "zh": {"held_out": 200_000, "base": 4_000_000, "train": 1_200_000},
        "en": {"held_out": 400_000, "base": 5_000_000, "train": 1_500_000},
    },
    spans={"ja": (48, 192), "zh": (48, 192), "en": (150, 600)},
)  # fmt: skip

# the same texts and tokenizers: only the model and its training differ
WIDE = replace(NARROW, width=256, layers=4, base_tokens=4_800_000, base_lr=2e-3, flops=8e12)

SMOKE = Scale(
    width=32, layers=1, old_pieces=1500, new_pieces=60, base_tokens=8 * ROW_LEN, base_lr=3e-3,
    flops=4e9, batch_size=2, calibration_tokens=500, windows=6, windows_between=3,
    characters={
        "ja": {"held_out": 2_000, "base": 4_000, "train": 6_000},
        "zh": {"held_out": 1_000, "base": 1_500, "train": 2_000},
        "en": {"held_out": 3_000, "base": 8_000, "train": 6_000},
    },
    spans={"ja": (8, 24), "zh": (8, 24), "en": (20, 60)},
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """Settings of one way to train.

    Attributes:
        name: Name in tables.
        tokenizer: That of the base (`old`), of glmja (`ours`), or of the known recipe (`known`).
        init: Initialization of new rows; for the known recipe, its own.
        kept: Share of Chinese and English in the tokens, half each.
        retention: Weight of the divergence from the base in Chinese and English; 0 trains on their text.
        flags: Further arguments of `glmja.fit`.
        lr: Largest learning rate.
        budgets: Operations, as a multiple of an arm's budget.
        match: Whether the run ends at the budget, or with as many Japanese characters as the arm `calibrated`.
        seeds: Seeds of adapters, rows and order of the text.
    """

    name: str
    tokenizer: Tokenizer = "ours"
    init: Init = "calibrated"
    kept: float = 0.24
    retention: float = 0.0
    flags: Mapping[str, str] = field(default_factory=dict)
    lr: float = LR
    budgets: int = 1
    match: Literal["flops", "characters"] = "flops"
    seeds: tuple[int, ...] = (0,)

    @property
    def key(self) -> str:
        """Name of its files."""
        return self.name.replace(" %", "").replace(" ", "_").replace(",", "").replace("`", "")

    @property
    def zero(self) -> str:
        """Name of the model that it starts from."""
        return {"old": "base", "known": "known"}.get(self.tokenizer, self.init)

    @property
    def mix(self) -> dict[str, float]:
        """Share of each language in the tokens."""
        return {"ja": 1 - self.kept, "zh": self.kept / 2, "en": self.kept / 2}


RECOMMENDED = "calibrated, retention 10 at 12 %"
_KNOWN = {
    "data.init_args.isolate_documents": "false",
    "model.init_args.lr_scheduler": "lit_modules.WarmupCosine",
    "model.init_args.lr_scheduler.init_args.warmup": "0",
}
_BOTH = (0, 1)

# in the order in which they run: what decides comes first, then second seeds
ARMS = [
    Arm("known recipe", tokenizer="known", init="random", seeds=_BOTH, flags=_KNOWN),
    Arm("calibrated", seeds=_BOTH),
    Arm(RECOMMENDED, kept=0.12, retention=10, seeds=_BOTH),
    Arm("no growth", tokenizer="old", seeds=_BOTH),
    Arm("positional", init="positional", seeds=_BOTH),
    Arm("calibrated, retention 3 at 24 %", retention=3),
    Arm("calibrated, retention 20 at 6 %", kept=0.06, retention=20),
    Arm("`subtoken_mean`", init="subtoken_mean"),
    Arm("no growth, as many characters", tokenizer="old", match="characters"),
    Arm("positional, retention 10 at 12 %", init="positional", kept=0.12, retention=10),
    Arm("calibrated, `embedding_pull`", flags={"model.init_args.embedding_pull": "10"}),
    Arm("calibrated, `new_rows`", flags={"model.init_args.embeddings": "new_rows"}),
    Arm("calibrated at 12 %", kept=0.12),
    # whether what they show depends on the learning rate
    Arm("known recipe, half the rate", tokenizer="known", init="random", flags=_KNOWN, lr=LR / 2),
    Arm("calibrated, retention 10 at 12 %, half the rate", kept=0.12, retention=10, lr=LR / 2),
    Arm("no growth, half the rate", tokenizer="old", lr=LR / 2),
    Arm("calibrated, half the rate", lr=LR / 2),
    # and on the length of the run
    Arm("known recipe, four budgets", tokenizer="known", init="random", flags=_KNOWN, lr=LR / 2, budgets=4),
    Arm("calibrated, retention 10 at 12 %, four budgets", kept=0.12, retention=10, lr=LR / 2, budgets=4),
    Arm("no growth, four budgets", tokenizer="old", lr=LR / 2, budgets=4),
    Arm("calibrated, four budgets", lr=LR / 2, budgets=4),
]  # fmt: skip

# those that are trained again with the wider model: what the targets compare
_COMPARED = ("known recipe", "no growth", RECOMMENDED)
_WIDER = {
    *_COMPARED, *(f"{name}, half the rate" for name in _COMPARED), *(f"{name}, four budgets" for name in _COMPARED),
    "no growth, as many characters", "positional", "calibrated", "calibrated, half the rate", "calibrated at 12 %",
    "calibrated, retention 3 at 24 %",
}  # fmt: skip
WIDE_ARMS = [arm for arm in ARMS if arm.name in _WIDER]

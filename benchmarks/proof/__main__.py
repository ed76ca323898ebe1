"""Measures whether Japanese is learned for less, and nothing is lost: `python -m benchmarks.proof`.

A small GLM is trained here on real text, of which a fifth of the characters are Japanese, with a part of ChatGLM3's
own pieces. Then arms train it on Japanese with as many operations each: the known recipe, no new pieces, and this
project's tokenizer with each initialization, with and without retention. All use the commands of the README, and are
measured on held-out windows that every tokenizer cuts at the same characters. What is complete is not repeated, and an
interrupted run is resumed. `--width 256` takes a model of six million parameters and the same texts; `--smoke` takes
tiny sizes and the texts of the package, and ends in a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.arguments import ROOT, benchmark_parser
from benchmarks.harness.tables import publish
from benchmarks.proof import arm_results, findings, models, training
from benchmarks.proof.pictures import draw
from benchmarks.proof.settings import ARMS, NARROW, SMOKE, WIDE, WIDE_ARMS, Arm, Scale
from glmja.text.terminal import show

RESULTS = ROOT / "benchmarks" / "proof" / "results"


def measure(work: Path, data: Path | None, folder: Path, scale: Scale, runs: Sequence[tuple[Arm, int]]) -> None:
    """Runs what is not in the folder of results yet.

    Args:
        work: Folder of models and runs.
        data: Folder of texts and tokenizer; None for those of the package.
        folder: Folder of the results.
        scale: Sizes.
        runs: Arms and seeds, in the order in which they are to run.
    """
    missing = [(arm, seed, path) for arm, seed in runs if not (path := folder / f"{arm.key}-{seed}.json").exists()]
    base = folder / f"{arm_results.BASE}.json"
    if not missing and base.exists():
        return
    models.prepare(work, data, scale)
    if not base.exists():
        arm_results.save(training.base_result(work, scale), base)
    for number, (arm, seed, path) in enumerate(missing, start=1):
        show(f"{number} of {len(missing)}: {arm.name}, seed {seed}")
        arm_results.save(training.run_arm(work, arm, seed, scale), path)


def select(names: Sequence[str] | None, default: Sequence[Arm] = ARMS) -> list[tuple[Arm, int]]:
    """Returns arms and seeds: the first seed of all arms, then the others.

    Args:
        names: Names of files of arms; None takes the default.
        default: Arms to take without names.

    Raises:
        ValueError: If a name is none of an arm.
    """
    known = {arm.key: arm for arm in ARMS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"--arms {name} is not one of {', '.join(known)}")
    arms = default if names is None else [arm for arm in ARMS if arm.key in names]
    return sorted(((arm, seed) for arm in arms for seed in arm.seeds), key=lambda run: run[1])


def main(args: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, data=True)
    parser.add_argument("--width", type=int, choices=[128, 256], default=128, help="Hidden size. Default: 128.")
    parser.add_argument("--output", type=Path, help="Folder of models and runs. Default: /tmp/proof_WIDTH.")
    parser.add_argument("--results", type=Path, help=f"Folder of the figures. Default: {RESULTS}/width_WIDTH.")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="Arms to run. Default: ARMS; at 256, WIDE_ARMS.")
    parser.add_argument("--picture", type=Path, help="Where to write the picture. Default: OUTPUT/proof.png.")
    parser.add_argument("--smoke", action="store_true", help="Tiny sizes, texts of the package, no real figures.")
    options = parser.parse_args(args)
    scale = SMOKE if options.smoke else {128: NARROW, 256: WIDE}[options.width]
    work = options.output or Path(f"/tmp/proof_{'smoke' if options.smoke else options.width}")
    folder = options.results or (work / "results" if options.smoke else RESULTS / f"width_{options.width}")
    try:
        runs = select(options.arms, WIDE_ARMS if scale is WIDE else ARMS)
    except ValueError as error:
        parser.error(str(error))
    measure(work, None if options.smoke else options.data.resolve(), folder, scale, runs)
    found = arm_results.load_all(folder, scale)
    publish([table(found) for table in findings.TABLES], options.markdown)
    work.mkdir(parents=True, exist_ok=True)
    draw(found, options.picture or work / "proof.png")


if __name__ == "__main__":
    main()

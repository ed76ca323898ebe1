"""A damaged checkpoint of a real run is refused in one line that names the file, and is skipped by `last`.

The default run tries each file and each damage, but only some of the pairs.
"""

import os
import shutil

import pytest

from glmja import fit
from glmja.runs import manifest
from tests.support.daily import drawn, drawn_pairs
from tests.support.damages import empty, flip, truncate
from tests.support.demo_run import KINDS, RECIPE_OF_THE_DAY, args, check_same, forked, unbroken

FILES = {
    "one_rank": ["state.ckpt", "manifest.json"],
    "zero2_fp32": [
        "checkpoint/mp_rank_00_model_states.pt",
        "checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "checkpoint/zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "manifest.json",
    ],
}


def of_an_earlier_step(path):
    shutil.copy(str(path).replace("step=7", "step=6"), path)


DAMAGES = [truncate, empty, os.remove, flip, of_an_earlier_step]
CASES = [
    *drawn_pairs("one rank", DAMAGES, [("one_rank", name) for name in FILES["one_rank"]]),
    *drawn_pairs("zero2", DAMAGES, [("zero2_fp32", name) for name in FILES["zero2_fp32"]]),
    # its content does not depend on the step
    *drawn("latest", [(damage, "zero2_fp32", "latest") for damage in DAMAGES if damage is not of_an_earlier_step], 1),
]


@pytest.fixture
def checkpoints(request, zero_dir, tmp_path):
    """Returns a copy of a run's checkpoints."""
    kind = request.getfixturevalue("kind")
    copy = tmp_path / "run" / "checkpoints"
    shutil.copytree(unbroken(zero_dir, kind, RECIPE_OF_THE_DAY) / "run" / "checkpoints", copy)
    return copy


@pytest.mark.parametrize(("damage", "kind", "name"), CASES)
def test_every_damage_is_refused_in_a_line_that_names_the_file(
    zero_dir, tmp_path, checkpoints, capsys, kind, name, damage
):
    damaged = checkpoints / "step=7.ckpt"
    damage(damaged / name)
    with pytest.raises(SystemExit) as stop:
        fit.main([*args(zero_dir, tmp_path, RECIPE_OF_THE_DAY, **KINDS[kind]), f"--ckpt_path={damaged}"])
    assert stop.value.code == 4
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    # with the manifest of another step, the files do not match it
    assert f": {damaged}/{name} is " in line or (name == "manifest.json" and f": {damaged}/" in line)
    assert manifest.newest(checkpoints).name == "step=6.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "damage"), [(kind, names[0], flip) for kind, names in FILES.items()])
def test_a_run_resumes_from_the_previous_checkpoint(zero_dir, tmp_path, checkpoints, kind, name, damage):
    whole = unbroken(zero_dir, kind, RECIPE_OF_THE_DAY)
    shutil.copytree(whole / "run", tmp_path / "run", dirs_exist_ok=True)
    damage(checkpoints / "step=7.ckpt" / name)
    code, output = forked(zero_dir, tmp_path, kind, RECIPE_OF_THE_DAY, "--ckpt_path=last")
    assert code == 0, output
    assert f"step=7.ckpt/{name} is damaged" in output
    check_same(tmp_path, whole)

import pytest
import torch

from lit_modules import WarmupCosine


def rates(num_steps, **others):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, num_steps, **others)
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("warmup", [0.2, 20])
def test_the_rate_rises_to_its_maximum_and_falls_to_the_floor(warmup):
    seen = rates(100, warmup=warmup, floor=0.1)
    assert seen[:21] == sorted(seen[:21])
    assert seen[20] == max(seen) == 2.0
    assert seen[20:] == sorted(seen[20:], reverse=True)
    assert 0.2 <= seen[-1] < 0.205


def test_without_warmup_it_starts_at_the_full_rate():
    assert rates(10, warmup=0)[0] == 2.0


@pytest.mark.parametrize("others", [{"warmup": -1}, {"warmup": 11}, {"floor": 2.0}])
def test_a_schedule_that_does_not_fit_the_run_is_refused(others):
    with pytest.raises(ValueError, match="no longer than the run of 10 steps"):
        rates(10, **others)

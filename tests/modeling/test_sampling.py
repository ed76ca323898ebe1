import subprocess
import sys

import pytest

from glmja.modeling.sampling import Sampling


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, r"`max_new_tokens` \(0\) must be at least 1"),
        ({"temperature": 0.0}, r"`temperature` \(0.0\) must be above 0 and finite; set `do_sample` to false"),
        ({"temperature": float("nan")}, r"`temperature` \(nan\) must be above 0"),
        ({"temperature": float("inf")}, r"`temperature` \(inf\) must be above 0"),
        ({"top_p": 0}, r"`top_p` \(0\) must be above 0 and at most 1"),
        ({"top_p": 1.1}, r"`top_p` \(1.1\) must be above 0 and at most 1"),
    ],
)
def test_values_out_of_range_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**{"max_new_tokens": 3} | values)


def test_the_default_is_greedy_decoding():
    assert not Sampling(3).do_sample


def test_the_settings_are_importable_without_torch():
    code = "import sys, glmja.modeling.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

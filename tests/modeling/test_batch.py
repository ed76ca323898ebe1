import numpy as np
import pytest

from glmja.modeling.batch import pad_sequences


@pytest.mark.parametrize(
    ("side", "multiple", "expected"),
    [
        ("right", 1, [[1, 2, 3], [4, 0, 0]]),
        ("left", 1, [[1, 2, 3], [0, 0, 4]]),
        ("right", 4, [[1, 2, 3, 0], [4, 0, 0, 0]]),
    ],
)
def test_sequences_are_padded_to_the_longest_one(side, multiple, expected):
    for sequences in ([[1, 2, 3], [4]], [np.array([1, 2, 3]), np.array([4])]):
        assert pad_sequences(sequences, 0, side, multiple).tolist() == expected

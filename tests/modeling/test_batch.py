import numpy as np
import pytest
import torch

from data_modules.batches.rows import Fragment, collate, pack
from glmja.modeling.batch import pad_sequences, select_rows


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


def test_selected_rows_keep_the_boundaries_of_their_documents():
    rows = [pack([Fragment(np.arange(1, n + 1, dtype=np.uint32)) for n in lengths], source=i)
            for i, lengths in enumerate([(3, 4), (7,), (2, 2, 3)])]  # fmt: skip
    selected, alone = select_rows(collate(rows), torch.tensor([True, False, True])), collate([rows[0], rows[2]])
    assert selected["document_offsets"].tolist() == [0, 3, 7, 9, 11, 14]
    for name in alone.keys() - {"mean_target_tokens"}:
        assert torch.equal(selected[name], alone[name])

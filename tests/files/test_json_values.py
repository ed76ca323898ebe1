import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.files import text_lines
from glmja.files.json_values import json_values
from glmja.files.records import read_chunks

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    values=st.lists(VALUES, max_size=5), size=st.integers(1, 9), indent=st.sampled_from([None, 1]), array=st.booleans()
)
def test_an_array_or_a_sequence_gives_its_values_wherever_blocks_end(values, size, indent, array):
    text = json.dumps(values, indent=indent) if array else "\n".join(json.dumps(v, indent=indent) for v in values)
    if not array and text.startswith("["):
        text = f"[{text}]".replace("\n", "") if len(values) == 1 else ""
        values = values if text else []
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    assert [value for value, _ in json_values(blocks, "a")] == values


def test_memory_is_flat_for_an_array_on_one_line(tmp_path):
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[" + ",".join(json.dumps({"text": "x" * 1000}) for _ in range(30_000)) + "]")
    tracemalloc.start()
    assert sum(len(chunk.raw) for chunk in read_chunks([path])) == 30_000
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_value_without_an_end_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("glmja.files.json_values.MAX_LINE_BYTES", 100)
    with pytest.raises(ValueError, match=r"a:1: a value of more than 0 Mi characters; write one record per line"):
        list(json_values(['["'] + ["x" * 90] * 9, "a"))
    assert text_lines.MAX_LINE_BYTES == 1 << 28

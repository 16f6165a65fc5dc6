from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import CheckpointError
from dmpo.records import Example, LogRatio, Prompts
from dmpo.training.state_files import read_state, write_state

CPU = torch.device("cpu")

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(state=trees)
def test_state_of_plain_values_comes_back_as_it_was(
    state: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    write_state(path, state)
    assert read_state(path, CPU) == state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_tensors_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    write_state(tmp_path / "state", {0: (tensor.T, tensor > 50, torch.tensor(1.5))})
    transposed, mask, number = read_state(tmp_path / "state", CPU)[0]
    assert torch.equal(transposed, tensor.T)
    assert torch.equal(mask, tensor > 50)
    assert number.shape == ()


def test_records_come_back_as_records(tmp_path: Path) -> None:
    ratio = LogRatio(value=torch.ones(2, 3), standard_error=None)
    prompts = Prompts(
        examples=(Example(prompt="1+1", columns={"answer": (2, "two")}),),
        tokens=torch.ones(1, 3, dtype=torch.long),
        attention_mask=torch.ones(1, 3, dtype=torch.bool),
    )
    write_state(tmp_path / "state", [ratio, prompts])
    again, prompts_again = read_state(tmp_path / "state", CPU)
    assert torch.equal(again.value, ratio.value)
    assert again.standard_error is None
    assert prompts_again.examples[0].columns == {"answer": (2, "two")}


def test_value_of_a_foreign_type_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\.a\.1: a set cannot be saved"):
        write_state(tmp_path / "state", {"a": [1, {2}]})

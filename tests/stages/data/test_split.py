from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.split import assign, bucket
from stages.errors import InvalidInput

shares = st.sampled_from([(0.05, 0.1), (0.0, 0.1), (0.2, 0.0), (0.0, 0.0), (0.4, 0.4)])


def buckets(prompts: list[str], seed: int) -> np.ndarray:
    return np.array([bucket(seed, prompt) for prompt in prompts], dtype=np.uint64)


@settings(database=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 5), shares)
def test_no_prompt_is_in_two_splits_and_no_split_is_empty(
    drawn: list[int], seed: int, held_out: tuple[float, float]
) -> None:
    prompts = [f"prompt {number}" for number in drawn]
    wanted = {0} | {k for k, share in enumerate(held_out, 1) if share}
    if len(set(prompts)) < len(wanted):
        with pytest.raises(InvalidInput, match=f"{len(set(prompts))} distinct prompt"):
            assign(buckets(prompts, seed), *held_out)
        return
    splits = assign(buckets(prompts, seed), *held_out)
    assert set(splits.tolist()) == wanted
    for prompt in set(prompts):
        assert len({int(s) for s, p in zip(splits, prompts, strict=True) if p == prompt}) == 1


@settings(database=None)
@given(st.permutations([f"prompt {n % 40}" for n in range(60)]))
def test_the_split_does_not_depend_on_the_order(prompts: list[str]) -> None:
    ordered = sorted(prompts)
    by_prompt = dict(zip(ordered, assign(buckets(ordered, 0), 0.1, 0.2), strict=True))
    assert [by_prompt[p] for p in prompts] == assign(buckets(prompts, 0), 0.1, 0.2).tolist()


def test_shares_are_kept_and_more_data_moves_no_prompt() -> None:
    few, many = ([f"prompt {n}" for n in range(count)] for count in (5_000, 20_000))
    splits = assign(buckets(many, 0), 0.05, 0.10)
    assert np.bincount(splits) / len(many) == pytest.approx([0.85, 0.05, 0.10], abs=0.01)
    assert (assign(buckets(few, 0), 0.05, 0.10) == splits[:5_000]).all()
    assert (assign(buckets(few, 1), 0.05, 0.10) != splits[:5_000]).any()

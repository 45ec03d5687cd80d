"""What vLLM needs to take an adapter, and which one it cannot take."""

from __future__ import annotations

import pytest

from flows.unmerged import rank_for_vllm
from registry.errors import Incompatible
from tests.registry.compat_cases import adapter, base, factors


@pytest.mark.parametrize(
    ("rank", "needed"), [(1, None), (16, None), (17, 32), (64, 64), (257, 320), (512, 512)]
)
def test_the_engine_is_started_for_the_adapters_rank(rank: int, needed: int | None) -> None:
    assert rank_for_vllm(base(), adapter(headers=factors(rank), r=rank)) == needed


def test_what_vllm_cannot_apply_is_refused_before_it_is_measured() -> None:
    with pytest.raises(Incompatible, match=r"vLLM cannot serve this adapter(.*)rank: expected at most 512"):
        rank_for_vllm(base(), adapter(headers=factors(513), r=513))
    with pytest.raises(Incompatible, match="merge the adapter instead"):
        rank_for_vllm(base(), adapter(r=8, rank_pattern={"q_proj": 4}))

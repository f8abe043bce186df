"""Numbers that the message to the engine core cannot carry are the client's error."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError, VLLMValidationError

from memos_vllm.engine.bounds import check_integers
from memos_vllm.engine.plugin import MOST_CHOICES


@pytest.mark.parametrize(
    "given",
    [
        {"top_k": 2**70},
        {"top_k": 2**63},
        {"stop_token_ids": [5, 2**70]},
        {"stop_token_ids": [-(2**63) - 1]},
    ],
)
def test_an_integer_beyond_64_bits_is_refused_by_its_name(given: dict[str, Any]):
    with pytest.raises(VLLMClientError, match="beyond 64 bits") as refused:
        check_integers(SamplingParams(**given))
    assert next(iter(given)) in str(refused.value)


def test_an_integer_deep_in_an_argument_is_refused():
    for value in ([{"b": 2**64}], {2**64: 1}):
        params = SamplingParams()
        params.extra_args = {"a": value}
        with pytest.raises(VLLMClientError, match="beyond 64 bits"):
            check_integers(params)


def test_a_priority_beyond_64_bits_is_refused():
    with pytest.raises(VLLMClientError, match="priority"):
        check_integers(SamplingParams(), 2**70)


def test_integers_of_64_bits_pass():
    params = SamplingParams(
        top_k=2**31, seed=-(2**63), stop_token_ids=[2**63 - 1], logit_bias={5: 1.0}, stop=["x"]
    )
    check_integers(params, -(2**63))


def test_one_request_has_so_many_choices_at_most(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_MAX_N_SEQUENCES", MOST_CHOICES)  # as the plugin does
    SamplingParams(n=128)
    with pytest.raises(VLLMValidationError, match="n must be at most 128"):
        SamplingParams(n=129)

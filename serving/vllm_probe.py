"""Does an adapter that vLLM says it has loaded change what the model says? (vLLM 34186: it need not.)"""

from __future__ import annotations

import math

import httpx

from serving.errors import AdapterRefused, EngineFailed

PROBE = "Who are you, and what can you do for me today?"
LEAST_EFFECT = 1e-5
"""Change of the probe's log-probabilities, relative to their norm."""
ABOVE_NOISE = 4.0
"""The change has to be so many times what the base's own answer changes by: other requests in the batch
move the last bits, and in 16 bits those are not small."""
ATTEMPTS = 4

Logprobs = list[float]
"""Natural logarithms of the probabilities of the probe's tokens, from the second on, given those before."""


async def ask(client: httpx.AsyncClient, model: str) -> Logprobs:
    """What `model` gives the probe. It is computed anew: vLLM reads no cache for such a request.

    Raises `EngineFailed` when there is no usable answer.
    """
    body = {"model": model, "prompt": PROBE, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    try:
        answer = await client.post("/v1/completions", json=body, timeout=None)
        if answer.status_code != 200:
            raise EngineFailed(f"the probe of {model} got {answer.status_code}: {answer.text[:300]}")
        places = answer.json()["choices"][0]["prompt_logprobs"][1:]
        found = [next(iter(place.values()))["logprob"] for place in places]
    except (httpx.HTTPError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        raise EngineFailed(f"the probe of {model} got no answer: {error!r}") from None
    if not found or not all(map(math.isfinite, found)):
        raise EngineFailed(f"the probe of {model} got {found}, expected log-probabilities")
    return found


async def require_effect(client: httpx.AsyncClient, base: str, name: str, base_says: Logprobs) -> float:
    """The relative change, ‖with it − base‖ / ‖base‖. Raises `AdapterRefused` where it is none."""
    effect = noise = 0.0
    for _ in range(ATTEMPTS):
        effect = _change(await ask(client, name), base_says)
        noise = max(noise, _change(await ask(client, base), base_says))
        if effect > max(LEAST_EFFECT, ABOVE_NOISE * noise):
            return effect
        if noise == 0.0 and effect == 0.0:
            break
    raise AdapterRefused(
        f"{name}: the adapter changes the base's log-probabilities by {effect:.2g} of their norm, expected "
        f"more than {max(LEAST_EFFECT, ABOVE_NOISE * noise):.2g}: it has no effect here, so the base would "
        "answer in its name"
    )


def _change(found: Logprobs, reference: Logprobs) -> float:
    if len(found) != len(reference):
        return math.inf
    return math.dist(found, reference) / math.hypot(*reference)

"""Does an adapter that vLLM says it has loaded change what the model says? (vLLM 34186: it need not.)"""

from __future__ import annotations

import math
import secrets

import httpx

from serving.errors import AdapterRefused, EngineFailed

PROBE = "Who are you, and what can you do for me today?"
LEAST_EFFECT = 1e-5
"""Change of the log-probabilities of the tokens that the base finds likeliest, relative to their norm."""
ABOVE_NOISE = 4.0
"""The change has to be so many times what the base's own answer changes by: other requests in the batch
move the last bits, and in 16 bits those are not small."""
ATTEMPTS = 4
LIKELIEST = 20
"""As many as vLLM tells."""

Likeliest = dict[str, float]
"""Token → natural logarithm of its probability after the probe's last token."""


async def ask(client: httpx.AsyncClient, model: str) -> Likeliest:
    """What `model` would say after the probe, computed anew. Raises `EngineFailed` for no usable answer.

    (The probe's own tokens would tell more; with adapters, vLLM 0.32 ends when it is asked for those while
    it decodes for somebody else.)
    """
    body = {"model": model, "prompt": PROBE, "max_tokens": 1, "temperature": 0, "logprobs": LIKELIEST}
    body["cache_salt"] = secrets.token_hex(8)
    try:
        answer = await client.post("/v1/completions", json=body, timeout=None)
        if answer.status_code != 200:
            raise EngineFailed(f"the probe of {model} got {answer.status_code}: {answer.text[:300]}")
        likeliest: Likeliest = answer.json()["choices"][0]["logprobs"]["top_logprobs"][0]
        sound = len(likeliest) > 1 and all(map(math.isfinite, likeliest.values()))
    except (httpx.HTTPError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineFailed(f"the probe of {model} got no answer: {error!r}") from None
    if not sound:
        raise EngineFailed(f"the probe of {model} got {likeliest}, expected log-probabilities")
    return likeliest


async def require_effect(client: httpx.AsyncClient, base: str, name: str, base_says: Likeliest) -> float:
    """The relative change, ‖with it − base‖ / ‖base‖. Raises `AdapterRefused` where there is none."""
    effect = noise = 0.0
    for _ in range(ATTEMPTS):
        effect = change(await ask(client, name), base_says)
        noise = max(noise, change(await ask(client, base), base_says))
        if effect > max(LEAST_EFFECT, ABOVE_NOISE * noise):
            return effect
        if noise == effect == 0.0:
            break
    raise AdapterRefused(
        f"{name}: the adapter changes the base's log-probabilities by {effect:.2g} of their norm, expected "
        f"more than {max(LEAST_EFFECT, ABOVE_NOISE * noise):.2g}: it has no effect here, so the base would "
        "answer in its name"
    )


def change(given: Likeliest, reference: Likeliest) -> float:
    """At least how far `given` is from `reference`, relative to its norm, over the tokens of `reference`."""
    least = min(given.values())  # what is not reported is not likelier
    moved = [given.get(token, min(least, value)) for token, value in reference.items()]
    return math.dist(moved, list(reference.values())) / math.hypot(*reference.values())

"""Language models of both engines: they agree with lm-eval's own, and give true likelihoods."""

from __future__ import annotations

import math

import pytest
from lm_eval.models.huggingface import HFLM

from stages.backends.chat import load_tokenizer
from stages.backends.evaluate.llama_cpp_lm import LlamaCppLM
from stages.backends.evaluate.torch_lm import TorchLM
from stages.contract import Parent
from stages.errors import InvalidInput
from tests.stages.backends.evaluate.asking import instances, pairs, settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llama_lm(pico_base: Parent, pico_gguf: Parent) -> LlamaCppLM:
    tokenizer = load_tokenizer(pico_base.path)
    return LlamaCppLM(pico_gguf.path / "model.gguf", tokenizer, context_length=512, **settings(tokenizer))


@pytest.fixture(scope="module")
def hflm(torch_lm: TorchLM) -> HFLM:
    return HFLM(pretrained=torch_lm.model, tokenizer=torch_lm.tokenizer, batch_size=1, max_length=512)


def test_torch_scores_equal_those_of_lm_eval(torch_lm: TorchLM, hflm: HFLM) -> None:
    requests = pairs(torch_lm.tokenizer)
    ours = torch_lm.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True)
    theirs = hflm.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [s for s, _ in ours] == pytest.approx([s for s, _ in theirs], abs=2e-4)


def test_torch_answers_equal_those_of_lm_eval(torch_lm: TorchLM, hflm: HFLM) -> None:
    prompts = sorted({context for context, _ in pairs(torch_lm.tokenizer)})
    stop = torch_lm.generate_until(instances("generate_until", [(p, {"max_gen_toks": 12}) for p in prompts]))
    middle = stop[0][len(stop[0]) // 2 :][:3]
    wanted = {"until": [middle], "max_gen_toks": 12, "do_sample": False}
    requests = instances("generate_until", [(prompt, wanted) for prompt in prompts])
    ours = torch_lm.generate_until(requests)
    assert ours == hflm.generate_until(requests, disable_tqdm=True)
    assert middle not in ours[0]
    assert stop[0].startswith(ours[0])


def test_rolling_scores_equal_those_of_lm_eval(torch_lm: TorchLM, hflm: HFLM) -> None:
    texts = [("one two three " * 60,), ("A short text.",)]
    small = TorchLM(torch_lm.model, torch_lm.tokenizer, max_length=64, **settings(torch_lm.tokenizer))
    theirs = HFLM(pretrained=torch_lm.model, tokenizer=torch_lm.tokenizer, batch_size=1, max_length=64)
    ours = small.loglikelihood_rolling(instances("loglikelihood_rolling", texts))
    found = theirs.loglikelihood_rolling(instances("loglikelihood_rolling", texts), disable_tqdm=True)
    assert ours == pytest.approx(found, rel=1e-4)


def test_llama_cpp_gives_true_likelihoods(torch_lm: TorchLM, llama_lm: LlamaCppLM) -> None:
    requests = instances("loglikelihood", pairs(torch_lm.tokenizer))
    ours = [score for score, _ in torch_lm.loglikelihood(requests, disable_tqdm=True)]
    llama = [score for score, _ in llama_lm.loglikelihood(requests, disable_tqdm=True)]
    assert llama == pytest.approx(ours, abs=0.05)
    text = [("one two three " * 30,)]
    rolling = [
        lm.loglikelihood_rolling(instances("loglikelihood_rolling", text)) for lm in (torch_lm, llama_lm)
    ]
    assert rolling[1] == pytest.approx(rolling[0], rel=1e-3)


def test_llama_cpp_tokenizes_rendered_chats_like_the_base(torch_lm: TorchLM, llama_lm: LlamaCppLM) -> None:
    texts = {context + end for context, end in pairs(torch_lm.tokenizer)}
    assert all(torch_lm.tok_encode(text) == llama_lm.tok_encode(text) for text in texts)


def test_sharing_and_batching_change_no_score(torch_lm: TorchLM, llama_lm: LlamaCppLM) -> None:
    for lm, tolerance in ((torch_lm, 2e-4), (llama_lm, 2e-2)):
        requests = pairs(lm.tokenizer)[::3]
        together = lm.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True)
        alone = []
        for request in reversed(requests):
            lm._beginning = lm._beginning[:0] if lm is torch_lm else lm._beginning
            alone += lm.loglikelihood(instances("loglikelihood", [request]), disable_tqdm=True)
        assert [s for s, _ in together] == pytest.approx([s for s, _ in reversed(alone)], abs=tolerance)


def test_probabilities_of_all_next_tokens_add_up_to_one(llama_lm: LlamaCppLM) -> None:
    context = tuple(llama_lm.tok_encode(pairs(llama_lm.tokenizer)[0][0]))
    every = [(("", ""), list(context), [token]) for token in range(llama_lm._width)]
    scores = llama_lm._loglikelihood_tokens(every)
    assert math.fsum(math.exp(score) for score, _ in scores) == pytest.approx(1, abs=1e-4)
    assert sum(greedy for _, greedy in scores) == 1


def test_sampling_is_refused(torch_lm: TorchLM) -> None:
    wanted = {"do_sample": True, "temperature": 0.7}
    with pytest.raises(InvalidInput, match="only greedy answers"):
        torch_lm.generate_until(instances("generate_until", [("a", wanted)]))

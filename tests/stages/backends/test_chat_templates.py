"""Chat templates come from strangers: wherever one is rendered, it cannot reach Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.backends.chat import load_tokenizer, render
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.untrusted.tokenizer import try_template

MESSAGES = [{"role": "user", "content": "ping"}]
HOSTILE = {
    "run a command": "{{ cycler.__init__.__globals__.os.system('touch %s') }}",
    "reach every class": "{{ ''.__class__.__mro__[1].__subclasses__() | length }}%s",
    "change what is not its own": "{{ messages.append(1) }}%s",
}

FAULTY = {
    "divides by zero": "{{ 1 / 0 }}",
    "calls itself for ever": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "looks for what is not there": "{{ messages[0]['content'].index('pong') }}",
    "writes half a character": "{{ '\\ud800' }}",
    "formats with too little": "{{ '{} {}'.format(1) }}",
    "is nested beyond Python's parser": "{% for m in messages %}" * 30 + "{% endfor %}" * 30,
    "is nested beyond Jinja's parser": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}
"""What raises another error each; none of them is a defect of ours."""


@pytest.fixture(scope="module")
def tokenizer(pico_base: Parent) -> Any:
    return load_tokenizer(pico_base.path)


@pytest.mark.parametrize("attack", HOSTILE)
def test_ours_is_a_sandbox(attack: str, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = HOSTILE[attack] % (tmp_path / "made")
    with pytest.raises(InvalidInput, match="refuses"):
        render(tokenizer, MESSAGES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("attack", HOSTILE)
def test_the_engine_s_is_a_sandbox(attack: str, tmp_path: Path) -> None:
    import jinja2
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    formatter = Jinja2ChatFormatter(HOSTILE[attack] % (tmp_path / "made"), eos_token="", bos_token="")
    with pytest.raises(jinja2.TemplateError):
        formatter(messages=MESSAGES)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_template_is_refused_where_it_is_used(fault: str, tokenizer: Any) -> None:
    tokenizer.chat_template = FAULTY[fault]
    with pytest.raises(InvalidInput, match="refuses"):
        render(tokenizer, MESSAGES)
    try_template(FAULTY[fault])

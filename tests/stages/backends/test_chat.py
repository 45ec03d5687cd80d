from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.backends import chat
from stages.contract import Parent
from stages.errors import InvalidInput

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": "Is it on?"}
YES = {"role": "assistant", "content": "Yes.\n    é日本"}


@pytest.fixture
def tokenizer(pico_base: Parent) -> Any:
    return chat.load_tokenizer(pico_base.path)


def learned(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    ids, mask = chat.encode_with_mask(tokenizer, messages)
    assert len(ids) == len(mask)
    return str(tokenizer.decode([token for token, one in zip(ids, mask, strict=True) if one]))


def test_the_mask_covers_content_and_end_of_turn_but_no_header(tokenizer: Any) -> None:
    assert learned(tokenizer, [USER, YES]) == YES["content"] + "<|im_end|>"


@pytest.mark.parametrize(
    ("content", "expected"),
    [("  Yes.", "  Yes.<|im_end|>"), ("Yes.  ", "Yes.  <|im_end|>"), ("\n", "\n<|im_end|>")],
)
def test_no_token_is_shared_by_header_and_content(tokenizer: Any, content: str, expected: str) -> None:
    """The line end of the header would merge with white space after it, but an engine reads it alone."""
    assert learned(tokenizer, [USER, {"role": "assistant", "content": content}]) == expected


def test_every_assistant_turn_is_learned(tokenizer: Any) -> None:
    no = {"role": "assistant", "content": "No."}
    assert learned(tokenizer, [USER, YES, USER, no]) == f"{YES['content']}<|im_end|>No.<|im_end|>"


def test_the_ids_are_those_of_the_rendered_chat(tokenizer: Any) -> None:
    ids, _ = chat.encode_with_mask(tokenizer, [USER, YES])
    assert ids == tokenizer(chat.render(tokenizer, [USER, YES]), add_special_tokens=False)["input_ids"]
    assert ids == chat.encode(tokenizer, [USER, YES])


def test_a_prompt_ends_with_the_header_that_an_answer_follows(tokenizer: Any) -> None:
    prompt = chat.encode(tokenizer, [USER], add_generation_prompt=True)
    ids, mask = chat.encode_with_mask(tokenizer, [USER, {"role": "assistant", "content": "Yes."}])
    assert ids[: mask.index(1)] == prompt


texts = st.text(alphabet=st.sampled_from("ab \n\t.é日😀{}<"), min_size=1, max_size=12)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(contents=st.lists(st.tuples(texts, texts), min_size=3, max_size=7))
def test_following_a_long_chat_finds_what_rendering_every_prefix_finds(
    tokenizer: Any, contents: list[tuple[str, str]]
) -> None:
    messages = [
        {"role": role, "content": text}
        for pair in contents
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    text = chat.render(tokenizer, messages)
    spans = chat._framed_spans(tokenizer, messages, text)
    assert spans == chat._prefix_spans(tokenizer, messages, text)
    assert [text[a:b] for a, b in spans] == [f"{answer}<|im_end|>\n" for _, answer in contents]


def test_a_trimming_template_falls_back_to_prefixes(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("m.content", "m.content | trim")
    long = [USER, YES, USER, YES, USER, {"role": "assistant", "content": " No. "}]
    assert learned(tokenizer, long).endswith("<|im_end|>No.<|im_end|>")
    assert chat._framed_spans(tokenizer, long, chat.render(tokenizer, long)) is None


def test_template_markers_decide_where_there_are_any(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
        "{%- generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    assert learned(tokenizer, [USER, {"role": "assistant", "content": "Fine."}]) == "Fine.<|im_end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused_with_what_to_do(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("m.content", "(m.content if loop.last else m.content | upper)")
    assert learned(tokenizer, [{"role": "user", "content": "IS IT?"}, YES]).endswith("<|im_end|>")
    with pytest.raises(InvalidInput, match=r"message 2 differently.*generation.*base.chat_template"):
        chat.encode_with_mask(tokenizer, [{"role": "user", "content": "A"}, YES, USER, YES])


def test_without_a_template_the_message_says_how_to_give_one(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(InvalidInput, match=r"no chat template.*base.chat_template"):
        chat.render(tokenizer, [USER])


def test_a_template_that_never_ends_a_turn_is_refused(tokenizer: Any) -> None:
    chat.require_trainable_template(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(InvalidInput, match=r"never stops.*eos_token"):
        chat.require_trainable_template(tokenizer)


def test_two_bos_tokens_at_the_beginning_are_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ bos_token }}{{ bos_token }}" + CHATML.removeprefix("<|im_start|>")
    with pytest.raises(InvalidInput, match="twice"):
        chat.encode_with_mask(tokenizer, [USER, YES])


def test_roles_that_the_template_refuses_are_named(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidInput, match=r"\['user', 'user'\]: roles must alternate"):
        chat.render(tokenizer, [USER, USER])


def test_a_directory_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"{tmp_path}: no tokenizer could be read"):
        chat.load_tokenizer(tmp_path)

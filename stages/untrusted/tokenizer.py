"""Untrusted tokenizers and chat templates: bounded, without code, compared id by id."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import InvalidInput
from stages.formats.model_files import sha256_of_text, tokenizer_digest
from stages.outline import added_tokens, tokenizer_length
from stages.untrusted.description import TokenizerDescription
from stages.untrusted.json import MEGABYTE, read_object, refuse_code

LARGEST = 64 * MEGABYTE
"""Bytes of a tokenizer.json; the largest in use (262,144 tokens) has about 34 MB."""
LONGEST_TEMPLATE = 200_000
TEMPLATE_SECONDS = 3
LONGEST_CHAT = 1_000_000
"""Characters that a template may make of one short message."""


def describe(folder: Path) -> TokenizerDescription | None:
    """Digest, length and chat template of the tokenizer in `folder`; None where there is none.

    Raises `InvalidInput` for files that are too large or too deep, ask for code, or hold a template that does
    what a template must not.
    """
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return None
    values = read_object(settings, 8 * MEGABYTE)
    refuse_code(values, settings.name)
    file, length = folder / "tokenizer.json", None
    if file.is_file():
        length = tokenizer_length(read_object(file, LARGEST))
    template = template_of(folder, values)
    if template is not None:
        try_template(template)
    return {
        "digest": tokenizer_digest(folder),
        "length": length,
        "chat_template": {
            "present": template is not None,
            "sha256": None if template is None else sha256_of_text(template),
        },
    }


def template_of(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the settings (where several are named, the default one)."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        if file.stat().st_size > LONGEST_TEMPLATE:
            raise InvalidInput(f"{file.name} has {file.stat().st_size} bytes; expected a chat template")
        try:
            return file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{file.name} is not UTF-8 text ({error})") from None
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def try_template(template: str) -> None:
    """Render one message in a sandbox. Raises `InvalidInput` for a template that reaches out of it.

    A template that merely refuses this chat is none of our business here: the stages say so when they use it.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    if len(template) > LONGEST_TEMPLATE:
        raise InvalidInput(f"the chat template has {len(template)} characters; no chat needs that many")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: ""}
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    chat = [{"role": "user", "content": "ping"}]
    try:
        with _at_most(TEMPLATE_SECONDS):
            _render(environment.from_string(plain), chat)
    except SecurityError as error:
        raise InvalidInput(
            f"the chat template does what is not allowed in one ({error}); it is never run outside a "
            "sandbox: "
            "use one from a source you trust"
        ) from None
    except (InvalidInput, MemoryError):
        raise
    except Exception:  # a template is a program: it may divide by zero, call itself for ever, …
        return


def _render(template: Any, chat: list[dict[str, str]]) -> None:
    written = 0
    for piece in template.generate(
        messages=chat, add_generation_prompt=True, bos_token="", eos_token="", tools=None
    ):
        written += len(piece)
        if written > LONGEST_CHAT:
            raise InvalidInput("the chat template makes megabytes of one short message; it is hostile")


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `InvalidInput` once the code inside has computed for that long."""

    def stop(number: int, frame: Any) -> None:
        raise InvalidInput(f"the chat template runs for more than {seconds:g} s; it is hostile")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def vocabulary(folder: Path) -> dict[int, str] | None:
    """id → token of a tokenizer.json; None where it has no vocabulary of a known form."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    tokenizer = read_object(file, LARGEST)
    vocab = model.get("vocab") if isinstance(model := tokenizer.get("model"), dict) else None
    if isinstance(vocab, dict):
        ids = {number: token for token, number in vocab.items() if isinstance(number, int)}
    elif isinstance(vocab, list):
        ids = {
            number: str(entry[0]) for number, entry in enumerate(vocab) if isinstance(entry, list) and entry
        }
    else:
        return None
    return ids | {entry["id"]: entry["content"] for entry in added_tokens(tokenizer)}


def compare(expected: Mapping[int, str], other: Mapping[int, str] | Sequence[str]) -> dict[str, int]:
    """How many ids of `expected` stand for the same token, another one or none, and how many are added."""
    tokens = other if isinstance(other, Mapping) else dict(enumerate(other))
    same = sum(_alike(tokens.get(number), token) for number, token in expected.items())
    missing = sum(number not in tokens for number in expected)
    return {
        "same": same,
        "missing": missing,
        "other": len(expected) - same - missing,
        "added": sum(number not in expected for number in tokens),
    }


def _alike(text: str | None, token: str) -> bool:
    # llama.cpp's converter writes SentencePiece's mark of a space as a space in added tokens
    return text == token or (text is not None and text == token.replace("\u2581", " "))

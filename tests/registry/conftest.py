from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from registry import Artifact, Registry
from registry.artifacts import BaseReference, QuantSpec, memo_key

EXECUTION = {"seconds": 1.5, "peak_bytes": 1000, "started": "2026-01-02T03:04:05+00:00"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with Registry.open(home) as opened:
        yield opened


@pytest.fixture
def key() -> Callable[[str], str]:
    return lambda text: memo_key("prepare", 1, {"text": text}, {}, {})


@pytest.fixture
def base() -> BaseReference:
    return BaseReference(
        source="hub:acme/tiny",
        revision="a" * 40,
        weights_digest=hashlib.sha256(b"weights").hexdigest(),
        tokenizer_digest=hashlib.sha256(b"tokenizer").hexdigest(),
        tokenizer_length=100,
        embedding_rows=128,
        chat_template_digest=hashlib.sha256(b"template").hexdigest(),
        architecture="LlamaForCausalLM",
    )


@pytest.fixture
def facts() -> Callable[..., dict[str, Any]]:
    """Keyword arguments of a commit."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "stage": "prepare",
            "stage_version": 1,
            "config": {},
            "toolchain": {},
            "facts_kind": "dataset",
            "relations": (),
            "base": None,
            "quant": None,
            "metrics": {},
            "execution": EXECUTION,
            **changes,
        }

    return make


@pytest.fixture
def publish(facts: Callable[..., dict[str, Any]], key: Callable[[str], str]) -> Callable[..., Artifact]:
    """Publish an artifact with these files under the memo key of `text`."""

    def make(
        registry: Registry, text: str, files: Mapping[str, bytes] | None = None, **changes: Any
    ) -> Artifact:
        with registry.draft(key(text), "prepare") as draft:
            for name, content in (files or {"text.txt": text.encode()}).items():
                path = draft.path / name
                if not path.parent.is_dir():
                    path.parent.mkdir(parents=True)
                path.write_bytes(content)
            return draft.commit(**facts(**changes))

    return make


@pytest.fixture
def plain() -> QuantSpec:
    return QuantSpec(method="none")

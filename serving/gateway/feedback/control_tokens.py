"""The tokens that structure a chat of a model: in a row to train on, each would be read as the real thing."""

from __future__ import annotations

import contextlib
import json

from registry import Registry

TOKENIZER = "tokenizer.json"


class ControlTokens:
    """Asks the registry once for each artifact, however often its answers get feedback."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, frozenset[str]] = {}

    def of(self, artifact_id: str) -> frozenset[str]:
        """Texts of the special tokens in the tokenizer of the base that the artifact was made from.

        None of an artifact without such a base, or with a tokenizer that cannot be read: preparing the rows
        refuses them then. Raises RegistryError.
        """
        if artifact_id not in self._known:
            self._known[artifact_id] = self._read(artifact_id)
        return self._known[artifact_id]

    def _read(self, artifact_id: str) -> frozenset[str]:
        ids = dict.fromkeys([artifact_id, *(edge.parent for edge in self._registry.lineage(artifact_id))])
        for base in filter(lambda artifact: artifact.manifest.kind == "base", map(self._registry.get, ids)):
            if TOKENIZER in base.manifest.files and not self._registry.collected([base.id]):
                file = self._registry.view(base.id) / TOKENIZER
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    added = json.loads(file.read_text("utf-8")).get("added_tokens", ())
                    return frozenset(token["content"] for token in added if token["special"])
        return frozenset()

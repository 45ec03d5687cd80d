"""What engines call the models that they hold."""

from __future__ import annotations


def model_alias(artifact_id: str) -> str:
    """A name that holds the digest, so no two models ever share it."""
    return f"tuneline-{artifact_id[:12]}"

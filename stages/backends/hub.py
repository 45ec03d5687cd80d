"""Bases on the Hugging Face hub: a branch or tag becomes its commit, and the commit is what is fetched."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stages.backends.model_files import MODEL_FILES, copy_model_files
from stages.errors import InvalidInput

COMMIT = re.compile(r"[0-9a-f]{40}")
UNREACHABLE = (httpx.HTTPError, OfflineModeIsEnabled, ConnectionError)


def download(place: str, out: Path) -> tuple[str, str]:
    """Put the model `ORG/NAME[@REVISION]` under `out`; returns its repository and its commit hash.

    Without a revision the repository's default branch is taken, and its commit recorded. Only
    configuration, tokenizer and safetensors files are fetched. Offline, the hub's local cache is used.
    Raises `InvalidInput` when there is no such model or it cannot be reached.
    """
    repo, _, revision = place.partition("@")
    wanted = revision or "main"
    try:
        commit = wanted if COMMIT.fullmatch(wanted) else _commit_of(repo, wanted)
        folder = _snapshot(repo, commit)
    except GatedRepoError as error:
        raise InvalidInput(
            f"hub:{place}: access must be granted first; accept the terms on its page and set HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InvalidInput(f"hub:{place}: no such model on the hub (or HF_TOKEN may not see it)") from error
    except RevisionNotFoundError as error:
        raise InvalidInput(f"hub:{place}: {repo} has no branch, tag or commit {wanted!r}") from error
    except (*UNREACHABLE, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise InvalidInput(
            f"hub:{place}: the hub cannot be reached and {repo}@{wanted} is not in its local cache; on a "
            f"machine with access run `hf download {repo} --revision {wanted}` and bring its cache here "
            "(HF_HOME), or use path:DIRECTORY"
        ) from error
    copy_model_files(folder, out)
    return repo, commit


def _commit_of(repo: str, revision: str) -> str:
    try:
        return str(HfApi().model_info(repo, revision=revision).sha)
    except UNREACHABLE as error:
        if isinstance(error, HfHubHTTPError):
            raise
        # the cache keeps which commit a branch pointed at when it was last seen
        return Path(_snapshot(repo, revision, cached=True)).name


def _snapshot(repo: str, revision: str, cached: bool = False) -> Path:
    return Path(
        snapshot_download(repo, revision=revision, allow_patterns=list(MODEL_FILES), local_files_only=cached)
    )

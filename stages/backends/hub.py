"""Bases on the Hugging Face hub: a branch or tag becomes its commit, and the commit is what is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stages.errors import InvalidInput
from stages.formats.model_files import INDEX, SMALL_FILES, copy_model_files

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
        folder = _fetch(repo, wanted)
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
    # the hub's cache keeps each snapshot in a folder named by its commit
    return repo, folder.name


def _fetch(repo: str, revision: str) -> Path:
    """The small files first: they say which weights belong to the model, and settle the commit."""
    folder = _snapshot(repo, revision, SMALL_FILES)
    index = folder / INDEX
    if index.is_file():
        weights = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        weights = ["model.safetensors"]
    return _snapshot(repo, folder.name, weights)


def _snapshot(repo: str, revision: str, names: Iterable[str]) -> Path:
    return Path(snapshot_download(repo, revision=revision, allow_patterns=list(names)))

"""Store URLs: what names a store, and what does not."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry.errors import InvalidSetting
from registry.store.remote_errors import package_missing

S3 = frozenset({"s3", "s3a"})
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def checked(url: str) -> str:
    """The URL without a slash at its end; raises InvalidSetting for one that cannot name a store."""
    parts = urlsplit(url)
    shown = _hidden(url)
    if not parts.scheme or "://" not in url or not (parts.netloc or parts.path.strip("/")):
        raise InvalidSetting(
            f"store URL {shown!r}: expected s3://BUCKET/PREFIX, file:///PATH or another fsspec URL"
        )
    if parts.password or (parts.scheme in S3 and "@" in parts.netloc):
        raise InvalidSetting(
            f"store URL {shown}: it holds a secret; pass it in the environment (AWS_*) instead"
        )
    if parts.query or parts.fragment:
        raise InvalidSetting(
            f"store URL {shown}: expected no ? and no #; options come from the environment (AWS_*)"
        )
    if parts.scheme in S3 and not _BUCKET.fullmatch(parts.netloc):
        raise InvalidSetting(f"store URL {shown}: {parts.netloc!r} is not a valid bucket name")
    import fsspec

    if parts.scheme not in fsspec.available_protocols():
        raise InvalidSetting(f"store URL {shown}: fsspec knows no protocol {parts.scheme!r}")
    if parts.scheme in S3 and find_spec("s3fs") is None:
        raise package_missing(url)
    return url.rstrip("/")


def directory_of(url: str) -> Path | None:
    """The directory that a file:// URL names, or None for another URL.

    Raises InvalidSetting when it is not there: an unmounted disk must not be filled with a second store.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_dir():
        raise InvalidSetting(
            f"store URL {url}: expected file:///PATH of a directory that exists; mount or make it"
        )
    return path


def _hidden(url: str) -> str:
    return re.sub(r"://[^/]*@", "://…@", url)

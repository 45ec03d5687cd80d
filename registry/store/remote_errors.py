"""What an object store answers, in the registry's words: what failed, why, what to do; never a credential."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from registry.errors import InvalidSetting, RegistryError, StoreFailed, StoreFull

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs"}
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_OF_BOTOCORE = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "HTTPClientError")
_OF_CONNECTIONS = ("ConnectionClosedError", "ClientConnectionError", "ProxyConnectionError", "SSLError")
_OF_ANSWERS = ("ClientPayloadError", "IncompleteReadError", "ResponseParserError", "FSTimeoutError")
_UNANSWERED = frozenset((*_OF_BOTOCORE, *_OF_CONNECTIONS, *_OF_ANSWERS))
"""Names of exceptions of botocore, aiohttp and fsspec that say that no answer came."""


def translate_error(error: BaseException, what: str, url: str) -> RegistryError:
    """The registry's error for whatever an object store's library raised while doing `what`."""
    if isinstance(error, RegistryError):
        return error
    chain = list(_chain(error))
    code, status = _answer(chain)
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    nothing = "nothing was recorded"
    if any(isinstance(cause, ImportError) for cause in chain):
        return package_missing(url)
    if _is_full(chain, code, status):
        return StoreFull(
            f"{what}: {url} has no room or no quota left ({code or 'no space'}); {nothing}: free some space "
            "or raise the quota, and run the same command again"
        )
    if names & {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}:
        return StoreFailed(
            f"{what}: there are no credentials for {url}; {nothing}: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if "PermissionError" in names or status in {401, 403}:
        return StoreFailed(
            f"{what}: {url} refused it ({code or 'permission denied'}); {nothing}: check the credentials "
            "(AWS_*), and that they may list the bucket and read, write and delete objects below the prefix"
        )
    if code == "NoSuchBucket":
        return no_bucket(what, url)
    if names & (_UNANSWERED | {"TimeoutError", "ConnectionError"}):
        name = next((n for n in (type(cause).__name__ for cause in chain) if n in _UNANSWERED), "Timeout")
        return StoreFailed(
            f"{what}: {endpoint(url)} does not answer ({name}, tried several times); "
            f"{nothing}: check the network and AWS_ENDPOINT_URL, and run the same command again"
        )
    message = _redacted(str(error))[:300]
    return StoreFailed(
        f"{what}: {url} answered {code or type(error).__name__}: {message}; {nothing}: "
        "run the same command again, and look into the store's log if it fails again"
    )


def _is_full(chain: list[BaseException], code: str, status: int) -> bool:
    full = {errno.ENOSPC, errno.EDQUOT}
    return (
        status == 507
        or re.search("quota|storagefull|insufficientstorage", code, re.IGNORECASE) is not None
        or any(getattr(error, "errno", None) in full for error in chain)
    )


def no_bucket(what: str, url: str) -> StoreFailed:
    """The error for a bucket that is not there."""
    bucket = url.partition("://")[2].partition("/")[0]
    return StoreFailed(
        f"{what}: {endpoint(url)} has no bucket {bucket!r}; nothing was recorded: create it, or correct "
        "TUNELINE_STORE_URL"
    )


def package_missing(url: str) -> InvalidSetting:
    """The error for a URL whose fsspec package is not installed."""
    protocol = url.partition("://")[0]
    install = f"`pip install {_PACKAGES[protocol]}`" if protocol in _PACKAGES else "what fsspec needs for it"
    return InvalidSetting(f"store URL {url}: no package for {protocol}:// is installed; install {install}")


def endpoint(url: str) -> str:
    """Whom requests for this URL go to, as far as the environment says."""
    if url.startswith(("s3://", "s3a://")):
        given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if given:
            return _redacted(given)
    return url


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _answer(chain: list[BaseException]) -> tuple[str, int]:
    """The store's own error code and HTTP status, where the library passes them on; else "" and 0."""
    for cause in chain:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
    return "", 0


def _redacted(text: str) -> str:
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, f"({name})")
    return re.sub(r"(\w+://)[^/@\s]+@", r"\1(credentials)@", text)

"""S3 as the store speaks it. Imported only when it is used: s3fs is slow to load and may not be installed."""

from __future__ import annotations

import asyncio
from typing import Any

from s3fs import S3FileSystem

ATTEMPTS, ROUNDS = 3, 2
"""Tries of one request within botocore, with growing pauses; and how often s3fs begins them anew."""
CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
REQUEST_SECONDS = 180.0
"""The longest that one request may take in all: a part, a question, or a page of a listing."""


class S3(S3FileSystem):
    """S3 with credentials and endpoint from the AWS_* environment, in which no request can hang for good."""

    retries = ROUNDS

    @classmethod
    def connect_anew(cls, connections: int) -> S3:
        """An instance of its own, with room for so many requests at once."""
        config = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
            "max_pool_connections": connections,
        }
        return cls(config_kwargs=config, skip_instance_cache=True, use_listings_cache=False)

    async def _call_s3(self, *arguments: Any, **options: Any) -> Any:
        # aiohttp's time limit for reading begins once a request is written: a server that takes no more of an
        # upload would be waited for without end.
        return await asyncio.wait_for(super()._call_s3(*arguments, **options), REQUEST_SECONDS)

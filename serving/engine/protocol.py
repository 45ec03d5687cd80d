"""One base model in memory and an adapter per tenant beside it: what every engine for that can do.

`serving.engine.process_engine` has what engines share; `tests/serving/engine/test_conformance.py` holds all
of them to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

Health = dict[str, str | int]
"""What an engine says of itself: its base, its state, and counts."""


class Engine(Protocol):
    """An engine process of our own, which ends with this one and is started again when it dies.

    It answers `/v1/chat/completions`, `/v1/completions` and `/v1/models` of OpenAI's protocol on `socket`,
    and `/v1/embeddings` if it is one of `serving.engine.capabilities.EMBEDDING_ENGINES`. A request names the
    served model; an unknown name is a 404. All methods belong to one event loop.
    """

    @property
    def socket(self) -> Path:
        """The Unix socket of the engine that runs now; another one after each restart."""
        ...

    @property
    def base(self) -> str:
        """The name under which the base alone is served."""
        ...

    @property
    def loaded(self) -> dict[str, str]:
        """Artifact digest → served name, of the adapters in this life of the engine; none after a restart."""
        ...

    @property
    def slots(self) -> int:
        """How many adapters may be loaded at once."""
        ...

    @property
    def up(self) -> bool:
        """Whether it runs and is ready; false between two lives of it."""
        ...

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""
        ...

    async def start(self) -> None:
        """Return when the engine is ready and a probe has found the base behind it.

        Raises `EngineMissing`, `NotServable` or `EngineFailed`; nothing runs then.
        """
        ...

    async def load_adapter(self, digest: str, path: Path) -> str:
        """The served name, which holds the digest. Loads once, however often it is called at once.

        `path`: the artifact's directory. Raises `AdapterRefused` where the adapter changes nothing or the
        name stood for other bytes, `NotServable`, `Overloaded` when all slots are taken, `EngineFailed`.
        """
        ...

    async def unload_adapter(self, digest: str) -> None:
        """Take no new requests for it, wait for those under way, free it; nothing if it is not loaded."""
        ...

    async def health(self) -> Health:
        """What the engine says of itself. Raises `EngineFailed` when it does not answer, or is stuck."""
        ...

    async def stop(self) -> None:
        """End the process and all it started."""
        ...

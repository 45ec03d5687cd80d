"""Settings, from the environment only (prefix TUNELINE_)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from registry.errors import Held
    from registry.leases import Patience


class Settings(BaseSettings):
    """Where Tuneline keeps things. Recipes hold none of this, and no secret."""

    model_config = SettingsConfigDict(env_prefix="TUNELINE_", frozen=True)

    home: Path = Field(default=Path(".tuneline"), description="registry, content store, logs and reports")
    database_url: str | None = Field(
        default=None, description="postgresql://USER@HOST/DATABASE for teams; default: SQLite in the home"
    )
    store_url: str | None = Field(
        default=None,
        description="where files are kept: s3://BUCKET/PREFIX, file:///PATH; default: under the home",
    )

    cache: Path | None = Field(
        default=None,
        description="what can be made again, such as this machine's measured speed; default: "
        "$XDG_CACHE_HOME/tuneline or ~/.cache/tuneline",
    )
    wait_seconds: float = Field(
        default=86_400.0, ge=0,
        description="how long to wait for another process that makes the same result; 0: not at all",
    )  # fmt: skip
    signing_key: Path | None = Field(
        default=None,
        description="EC P-256 private key (PEM) for gate decisions and exports; default: the registry's own",
    )
    api_token: SecretStr | None = Field(
        default=None, description="what `tuneline api` asks for; needed to serve other machines"
    )

    @property
    def root(self) -> Path:
        return self.home.expanduser().resolve()

    @property
    def cache_folder(self) -> Path:
        standard = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tuneline"
        return (self.cache or standard).expanduser()

    def patience(self, told: Callable[[Held, float], None] | None = None) -> Patience:
        """How long to wait for another process; by default the log says for whom."""
        from registry.leases import Patience  # brings SQLAlchemy, which the settings do without

        return Patience(self.wait_seconds) if told is None else Patience(self.wait_seconds, told)


def quiet_libraries(root: Path) -> None:
    """Set the environment of Prefect and the Hugging Face libraries, unless the user did.

    Prefect reads its settings at import, so this comes before the first `import prefect`.
    """
    for name, value in {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)

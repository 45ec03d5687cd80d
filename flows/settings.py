"""Settings, from the environment only (prefix TUNELINE_)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.errors import Usage

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from registry.errors import Held
    from registry.leases import Patience


class Settings(BaseSettings):
    """Where Tuneline keeps things. Recipes hold none of this, and no secret."""

    model_config = SettingsConfigDict(env_prefix="TUNELINE_", frozen=True)

    home: Path = Field(
        default=Path(".tuneline"),
        description="registry, content store, logs and reports; default: the nearest .tuneline in this "
        "folder or above it, else a new one here",
    )
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
        default=86_400.0,
        ge=0,
        description="how long to wait for another process that makes the same result; 0: not at all",
    )
    signing_key: Path | None = Field(
        default=None,
        description="EC P-256 private key (PEM) for gate decisions and exports; default: the registry's own",
    )
    api_token: SecretStr | None = Field(
        default=None, description="what `tuneline api` asks for; needed to serve other machines"
    )
    oidc_issuer: str | None = Field(
        default=None, description="https://…: the OpenID provider through which `tuneline ui` lets people in"
    )
    oidc_client_id: str | None = Field(default=None, description="what the provider knows Tuneline as")
    oidc_client_secret: SecretStr | None = Field(default=None, description="the secret that goes with it")
    oidc_role_claim: str = Field(default="groups", description="the claim that says who may do what")
    oidc_roles: str | None = Field(
        default=None, description="VALUE=ROLE,…: which values of the claim stand for which role"
    )
    rates: Path | None = Field(
        default=None, description="YAML file of prices, from which `tuneline metrics` computes costs"
    )
    prefect: bool = Field(
        default=True, description="true or false: whether Prefect is told of runs that it did not start"
    )
    trackers: Literal["mlflow", "wandb", "mlflow,wandb", "wandb,mlflow"] | None = Field(
        default=None,
        description="`mlflow`, `wandb` or `mlflow,wandb`: what is told of each run that is over; W&B offline",
    )

    def __init__(self, **values: Any) -> None:
        """Raises `Usage` naming each variable that does not hold what it should."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise Usage("; ".join(map(_said, error.errors(include_url=False)))) from None

    @model_validator(mode="before")
    @classmethod
    def _empty_home_is_unset(cls, values: Mapping[str, object]) -> dict[str, object]:
        # of the others, an empty token above all, an empty value is a mistake to be told
        return {key: value for key, value in values.items() if (key, value) != ("home", "")}

    @property
    def root(self) -> Path:
        """The home, absolute. Raises `Usage` where there can be none."""
        try:
            if not self.named and (above := _nearest(Path.cwd(), self.home)) is not None:
                return above
            return self.home.expanduser().resolve()
        except (OSError, RuntimeError) as error:  # a loop of links, no such user, a folder that is gone
            raise Usage(f"TUNELINE_HOME={self.home} is not a usable folder: {error}") from None

    @property
    def named(self) -> bool:
        """Whether the user said which home."""
        return "home" in self.model_fields_set

    @property
    def found_above(self) -> bool:
        """Whether the home is that of a folder above this one."""
        return not self.named and self.root.parent != Path.cwd()

    @property
    def asked_trackers(self) -> tuple[str, ...]:
        """The trackers that are told of runs."""
        return tuple(self.trackers.split(",")) if self.trackers else ()

    @property
    def cache_folder(self) -> Path:
        standard = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tuneline"
        return (self.cache or standard).expanduser()

    def patience(self, on_wait: Callable[[Held, float], None] | None = None) -> Patience:
        """How long to wait for another process; by default the log says for whom."""
        from registry.leases import Patience  # brings SQLAlchemy, which the settings do without

        return Patience(self.wait_seconds) if on_wait is None else Patience(self.wait_seconds, on_wait)


_SECRET = ("database_url", "api_token", "oidc_client_secret")


def _said(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0]).removeprefix("TUNELINE_").removeprefix("tuneline_").lower()
    shown = "" if name in _SECRET else f", found {ascii(problem['input'])[:80]}"
    expected = problem["msg"].removeprefix("Input should be ")
    return f"TUNELINE_{name.upper()}: expected {expected.partition(', ')[0]}{shown} ({_about(name)})"


def _about(name: str) -> str:
    field = Settings.model_fields.get(name)
    return "" if field is None else field.description or ""


def _nearest(folder: Path, name: Path) -> Path | None:
    """The nearest home of this user, from `folder` upward; another user's is passed over, as git does."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            if (place / name).is_dir() and (place / name).stat().st_uid == os.getuid():
                return (place / name).resolve()
    return None


NO_TELEMETRY = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Nothing that Tuneline starts phones home, unless the environment already says otherwise."""


def quiet_libraries(root: Path) -> None:
    """Set the environment of Prefect and the Hugging Face libraries, unless the user did.

    Prefect reads its settings at import, so this comes before the first `import prefect`.
    """
    for name, value in {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        **NO_TELEMETRY,
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)

"""Errors of the registry.

RegistryError                 anything below; has an exit code for the command line
├── NotFound                  no artifact, channel or endpoint of that name
├── InvalidArtifact           a manifest or a file that breaks the rules (exit code 3)
├── InvalidSetting            a database or store URL that cannot be used (exit code 3)
├── InvalidTenant             a tenant's name, limits or key that breaks the rules (exit code 3)
├── InvalidUser               a user's name, role or identity that breaks the rules (exit code 3)
├── InvalidWebhook            a webhook's address or events that break the rules (exit code 3)
├── InvalidSchedule           a schedule's name, triggers or limits that break the rules (exit code 3)
├── InvalidFeed               a feed's name, a row or feedback that breaks the rules (exit code 3)
│   └── NoConsent             feedback of a tenant that has withdrawn its consent (exit code 3)
├── AlreadyExists             a name that is taken (exit code 3)
├── Incompatible              two artifacts that must not be combined (exit code 3)
├── Collected                 an artifact whose files were removed to free space (exit code 3)
├── Corrupt                   stored bytes differ from their digest
├── Conflict                  another process was faster, or took the lease over
│   ├── Moved                 a channel is no longer where it was seen (exit code 1)
│   ├── CanaryUnderWay        a channel tries out another candidate already (exit code 3)
│   ├── Held                  a live process works on the same key
│   └── Lost                  the lease is not this process's any more
├── GateRequired              a channel move without a passing gate decision or a waiver
├── StoreFull                 the disk has no room; nothing was written
└── StoreFailed               the disk or the database answered with an error; nothing was recorded
    └── StoreRefused          the system lets this user not read or write there (exit code 3)
"""

from __future__ import annotations


class RegistryError(Exception):
    """The message names the thing, what was expected, what was found and what to do."""

    exit_code = 4


class NotFound(RegistryError):
    exit_code = 3


class InvalidArtifact(RegistryError):
    exit_code = 3


class InvalidSetting(RegistryError):
    exit_code = 3


class InvalidTenant(RegistryError):
    exit_code = 3


class InvalidUser(RegistryError):
    exit_code = 3


class InvalidWebhook(RegistryError):
    exit_code = 3


class InvalidSchedule(RegistryError):
    exit_code = 3


class InvalidFeed(RegistryError):
    exit_code = 3


class NoConsent(InvalidFeed):
    """Feedback of a tenant that has withdrawn its consent."""


class AlreadyExists(RegistryError):
    exit_code = 3


class Incompatible(RegistryError):
    exit_code = 3


class Collected(RegistryError):
    exit_code = 3


class Corrupt(RegistryError):
    exit_code = 4


class Conflict(RegistryError):
    exit_code = 4


class Moved(Conflict):
    exit_code = 1


class CanaryUnderWay(Conflict):
    """`candidate`: the id of what is being tried out."""

    exit_code = 3

    def __init__(self, channel: str, candidate: str) -> None:
        self.candidate = candidate
        super().__init__(
            f"channel {channel} has a canary of {candidate[:12]} under way, which was not replaced: wait "
            f"until it is decided, or end it with: tuneline channels rollout {channel} --stop --reason WHY"
        )


class Held(Conflict):
    """A live process works on the key. `since` and `until` are ISO 8601 in UTC."""

    def __init__(self, *, stage: str, key: str, pid: int, host: str, since: str, until: str) -> None:
        self.stage, self.key, self.pid, self.host, self.since = stage, key, pid, host, since
        super().__init__(
            f"stage {stage} for key {key[:12]} is being worked on by {self.holder} (lease until {until}); "
            "wait for it or stop that process, then run the same command again"
        )

    @property
    def holder(self) -> str:
        """Who works on it and since when."""
        return f"pid {self.pid} on host {self.host} since {self.since[:19]}"

    def after(self, waited: float) -> Held:
        """The same, once a process has waited for so many seconds."""
        self.args = (
            f"stage {self.stage} for key {self.key[:12]} is still being worked on by {self.holder} after "
            f"{waited:.0f} s of waiting (TUNELINE_WAIT_SECONDS sets the limit); wait for it or stop that "
            "process, then run the same command again",
        )
        return self


class Lost(Conflict):
    """Another process has the lease by now, and what it was for."""


class GateRequired(RegistryError):
    exit_code = 1


class StoreFull(RegistryError):
    exit_code = 3


class StoreFailed(RegistryError):
    exit_code = 4


class StoreRefused(StoreFailed):
    exit_code = 3

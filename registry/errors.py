"""Errors of the registry.

RegistryError                 anything below; has an exit code for the command line
├── NotFound                  no artifact, channel or endpoint of that name
├── InvalidArtifact           a manifest or a file that breaks the rules (exit code 3)
├── InvalidSetting            a database or store URL that cannot be used (exit code 3)
├── InvalidTenant             a tenant's name, limits or key that breaks the rules (exit code 3)
├── AlreadyExists             a name that is taken (exit code 3)
├── Incompatible              two artifacts that must not be combined (exit code 3)
├── Collected                 an artifact whose files were removed to free space (exit code 3)
├── Corrupt                   stored bytes differ from their digest
├── Conflict                  somebody else moved the channel or holds the lease
├── GateRequired              a channel move without a passing gate decision or a waiver
├── StoreFull                 the disk has no room; nothing was written
└── StoreFailed               the disk or the database answered with an error; nothing became visible
    └── StoreRefused          the system lets this user not read or write there (exit code 3)
"""


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


class GateRequired(RegistryError):
    exit_code = 1


class StoreFull(RegistryError):
    exit_code = 3


class StoreFailed(RegistryError):
    exit_code = 4


class StoreRefused(StoreFailed):
    exit_code = 3

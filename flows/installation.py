"""The light installation: the wheel without its dependencies, for gates and the registry."""

from importlib.util import find_spec

from flows.errors import Usage


def is_light() -> bool:
    """Whether what trains and evaluates is not installed."""
    return find_spec("torch") is None


def needs_all(what: str) -> Usage:
    """The refusal of `what`, such as "run needs torch", in the light installation."""
    return Usage(
        f"{what}, and this is the light installation, for gates and the registry: install the wheel without "
        "--no-deps, or use the environment that make setup makes"
    )

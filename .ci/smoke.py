"""Is this interpreter's environment whole? Imports every module, then runs a recipe: python .ci/smoke.py

`make test-python` runs it, and some test modules after it, on each Python beside the one that CI uses.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("registry", "serving", "stages", "flows")


def modules() -> list[str]:
    """Every module of the product, by name."""
    found = []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        found += [package, *(one.name for one in pkgutil.walk_packages(path, f"{package}."))]
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as home:
        os.environ["TUNELINE_HOME"] = home
        names = modules()
        for name in names:
            importlib.import_module(name)
        print(f"{len(names)} modules import on Python {sys.version.split()[0]}", flush=True)
        command = Path(sys.executable).with_name("tuneline")
        code = subprocess.run([command, "run", "pico-smoke"], cwd=home).returncode
        listed = subprocess.run([command, "endpoints", "ls", "--json"], cwd=home, stdout=subprocess.PIPE)
        for endpoint in json.loads(listed.stdout):
            subprocess.run([command, "endpoints", "stop", endpoint["id"]], cwd=home)
        return code


if __name__ == "__main__":
    sys.exit(main())

"""What the stack's servers need first: a PostgreSQL cluster, a user of the object store, secrets."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

import yaml

from flows.errors import Usage
from flows.stack.programs import Places, Program, postgresql_programs, programs

SYSTEM_USERS = ("postgres", "nobody")
"""Who PostgreSQL runs as where root starts it, which it refuses to be."""


def database_user() -> str | None:
    """Who runs PostgreSQL; None: whoever starts the stack."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in SYSTEM_USERS if name in known)


def prepare(places: Places) -> dict[str, str]:
    """Make what is missing; returns the environment of what uses the registry. Raises Usage."""
    places.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not places.secrets.is_file():
        made = {name: secrets.token_hex(16) for name in ("database", "access", "secret")}
        write_private(places.secrets, json.dumps(made))
    keys = _keys(places)
    _cluster(places, keys["database"])
    _object_store(places, keys)
    for name in ("home", "prometheus", "alertmanager", "logs", "prefect"):
        (places.folder / name).mkdir(mode=0o700, exist_ok=True)
    _monitoring(places)
    return environment(places)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads; it appears whole or not at all."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.rename(path)


def _keys(places: Places) -> dict[str, str]:
    keys: dict[str, str] = json.loads(places.secrets.read_text("utf-8"))
    return keys


def _cluster(places: Places, password: str) -> None:
    folder, user = places.folder / "postgresql", database_user()
    if (folder / "data").is_dir():
        return
    closed = next((path for path in folder.parents if not path.stat().st_mode & stat.S_IXOTH), None)
    if user is not None and closed is not None:
        raise Usage(
            f"root starts the stack, so PostgreSQL runs as {user}, who cannot pass through {closed}; "
            "give the stack another folder (--folder), or start it as another user"
        )
    shutil.rmtree(folder, ignore_errors=True)  # one that was interrupted
    folder.mkdir(mode=0o700)
    given = folder / "password"
    given.write_text(password)
    for path in (folder, given):
        if user is not None:
            shutil.chown(path, user)
    command = [str(postgresql_programs() / "initdb"), "-D", str(folder / "draft"), "-U", "tuneline"]
    command += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={given}"]
    group = None if user is None else pwd.getpwnam(user).pw_gid
    groups: list[int] | None = None if user is None else []
    done = subprocess.run(
        command, user=user, group=group, extra_groups=groups, cwd=folder, capture_output=True, text=True
    )
    given.unlink()
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Usage(f"PostgreSQL's initdb failed in {folder}: {last}")
    (folder / "draft").rename(folder / "data")


def _object_store(places: Places, keys: dict[str, str]) -> None:
    folder = places.folder / "s3"
    folder.mkdir(mode=0o700, exist_ok=True)
    credentials = [{"accessKey": keys["access"], "secretKey": keys["secret"]}]
    users = {"identities": [{"name": "tuneline", "actions": ["Admin"], "credentials": credentials}]}
    (folder / "users.json").write_text(json.dumps(users), encoding="utf-8")


def _monitoring(places: Places) -> None:
    """Prometheus's and Alertmanager's files, with this stack's ports and the project's own rules."""
    here = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
    rules = sorted(str(path) for path in here.rglob("*.yml") if _has_rules(path))
    if not rules:
        raise Usage(f"there are no alerting rules in {here}: run the stack from a copy of the source")
    targets = {name: [f"127.0.0.1:{places.port(name)}"] for name in ("operations", "metrics", "alertmanager")}
    prometheus = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": rules,
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": targets["alertmanager"]}]}]},
        "scrape_configs": [
            {"job_name": "tuneline", "static_configs": [{"targets": targets["operations"]}]},
            {"job_name": "tuneline-registry", "static_configs": [{"targets": targets["metrics"]}]},
        ],
    }
    for name, tree in (("prometheus", prometheus), ("alertmanager", _alertmanager(places))):
        (places.folder / f"{name}.yml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def _alertmanager(places: Places) -> dict[str, object]:
    """Every alert goes to the pages: the fleet shows it, and webhooks of the event `alert` are told."""
    pages = {
        "url": f"http://127.0.0.1:{places.port('ui')}/alerts",
        "http_config": {"authorization": {"credentials_file": str(places.alertmanager_token)}},
    }
    times = {"group_wait": "5s", "group_interval": "30s", "repeat_interval": "4h"}
    return {
        "route": {"receiver": "pages", "group_by": ["alertname"], **times},
        "receivers": [{"name": "pages", "webhook_configs": [pages]}],
    }


def _has_rules(path: Path) -> bool:
    tree = yaml.safe_load(path.read_text("utf-8"))
    return isinstance(tree, dict) and "groups" in tree


def environment(places: Places) -> dict[str, str]:
    """The environment of what uses the registry, of a stack that was prepared."""
    keys = _keys(places)
    database = f"127.0.0.1:{places.port('postgresql')}/postgres"
    return {
        "TUNELINE_HOME": str(places.home),
        "TUNELINE_DATABASE_URL": f"postgresql://tuneline:{keys['database']}@{database}",
        "TUNELINE_STORE_URL": "s3://tuneline/store",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{places.port('weed-s3')}",
        "AWS_ACCESS_KEY_ID": keys["access"],
        "AWS_SECRET_ACCESS_KEY": keys["secret"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PREFECT_API_URL": f"http://127.0.0.1:{places.port('prefect')}/api",
        "PREFECT_HOME": str(places.folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def parts(places: Places) -> list[Program]:
    """All programs of a stack that was prepared, in the order in which they start."""
    return list(programs(places, environment(places), database_user()))

"""The reliability trials at a reduced size; each command in this folder runs them at full size."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from registry import Registry
from registry.db.tables import artifacts
from tests.reliability import choice, scale


def run(pytestconfig: pytest.Config, module: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.reliability.{module}", *arguments]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_kill_9_at_every_point_and_identical_publishes(pytestconfig: pytest.Config) -> None:
    report = run(pytestconfig, "publish", "--trials", "22", "--processes", "4", "--rounds", "3")
    killed = report["killed"]
    named = {
        name: count
        for name, count in killed.items()
        if name.startswith("killed at ") and "moment" not in name
    }
    assert set(named.values()) == {2}
    assert len(named) == 10
    assert killed["visible after the kill"] >= 2, "those killed after the commit are visible"
    assert report["together, a key each"]["published"] == 4
    assert report["together, one key"]["published"] >= 1
    assert report["killed among others"]["rounds"] == 3


def test_seeded_faults_are_found_on_their_rung(pytestconfig: pytest.Config) -> None:
    faults = ["a module not merged", "dropped EOS"]  # one in the merged model, one in a file made from it
    report = run(pytestconfig, "ladder", "--healthy", "0", "--faults", *faults)
    assert report["found"] == report["right_rung"] == len(faults)
    assert report["start"]["breaks_at"] is None
    assert all(said["right_cause"] for said in report["faults"].values()), report["faults"]


def test_the_chosen_merge_is_not_worse_than_the_other(pytestconfig: pytest.Config) -> None:
    report = run(pytestconfig, "arbitration", "--seeds", "1", "--architectures", "1")
    assert report["worse"] == 0
    (rows,) = report["architectures"].values()
    assert rows[0]["reason"].startswith("folded into")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_eight_processes_on_one_channel(pytestconfig: pytest.Config, database: str) -> None:
    report = run(pytestconfig, "channels", "--processes", "8", "--rounds", "15", "--database", database)
    assert (report["won"], report["lost"], report["events"]) == (15, 105, 15)


def test_identical_publishes_and_kills_on_a_server(pytestconfig: pytest.Config) -> None:
    report = run(
        pytestconfig,
        "publish",
        "--trials",
        "11",
        "--processes",
        "8",
        "--rounds",
        "1",
        "--database",
        "postgresql",
    )
    assert report["killed"]["visible after the kill"] >= 1
    assert report["together, a key each"]["published"] == 8
    assert report["together, one key"]["published"] >= 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_question_costs_the_same_however_much_there_is(database: str) -> None:
    # The database's own work is compared, not the time, which depends on what else the machine does.
    given = argparse.Namespace(database=database, store="local")
    with choice.chosen(given) as new_backend, new_backend().open() as registry:
        loaded = scale.Loader(registry)
        spent = []
        for size in (2000, 8000):
            loaded.fill(size)
            asked = scale.questions(registry, loaded, random.Random(0))
            spent.append(scale.work(registry, {**asked, "a scan": partial(scan, registry)}, 5))
        assert scale.too_much(*spent, times=4).keys() == {"a scan"}


def scan(registry: Registry) -> None:
    """A question that no index answers."""
    with registry.database.read() as connection:
        connection.execute(select(artifacts.c.id).where(artifacts.c.stage_version == 9)).all()


def test_publications_moves_collections_and_kills_at_once(pytestconfig: pytest.Config) -> None:
    report = run(pytestconfig, "gc", "--steps", "80", "--processes", "4")
    assert report["collected"] >= 1
    assert report["killed"] >= 1
    assert report["artifacts checked"] >= 5


def test_a_large_file_is_never_in_memory(pytestconfig: pytest.Config) -> None:
    report = run(pytestconfig, "large_file", "--megabytes", "150", "--store", "s3")
    assert report["wrong"] == []

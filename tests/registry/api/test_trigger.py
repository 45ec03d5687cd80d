"""A schedule's token runs that schedule, and does nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from registry import Registry
from registry.api.app import application
from registry.schedules.definition import Asked, Definition

RUN = "/v1/schedules/run"


@pytest.mark.parametrize("api_token", [None, "the API's token"])
def test_only_its_token_triggers_a_schedule(tmp_path: Path, api_token: str | None) -> None:
    with Registry.open(tmp_path) as registry:
        definition = Definition(
            recipe_name="x", recipe={}, channels=("a/b",), triggers=(Asked(on="webhook"),)
        )
        _, token = registry.schedules.put("nightly", definition, "ada", replace=False)
        _, other = registry.users.add("ada", "admin", "ada") if api_token else (None, "none")
        with TestClient(application(registry, api_token), "http://localhost") as client:

            def status(authorization: str) -> int:
                headers = {b"authorization": authorization.encode("latin-1")} if authorization else {}
                return client.post(RUN, headers=headers, content=b"x" * 100_000).status_code

            for wrong in ("", f"Bearer {token}x", "Bearer ", f"Basic {token}", f"Bearer {other}", "Bearer é"):
                assert status(wrong) == 401, wrong
            assert status(f"Bearer {api_token}") == 401
            assert registry.occasions.asked("nightly") == []
            answer = client.post(RUN, headers={"authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()["schedule"]) == (202, "nightly")
            assert status(f"bearer {token}") == 202
            (occasion,) = registry.occasions.asked("nightly")
            assert (occasion.id, occasion.trigger) == (answer.json()["occasion"], "webhook")
            reading = client.get(RUN)
            assert (reading.status_code, reading.headers["allow"]) == (405, "POST")
            assert "is read-only" not in reading.text
            if api_token:
                read = client.get("/v1/artifacts", headers={"authorization": f"Bearer {token}"})
                assert read.status_code == 401, "it opens nothing else"
            registry.schedules.remove("nightly", "ada")
            assert status(f"Bearer {token}") == 401

"""Answers of the API to those who ask, and to those who ask wrongly."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from registry import Artifact, Registry
from registry.api.app import application
from registry.api.middleware import problem
from tests.reliability.api import TOKEN, add, fill, fuzz

Made = dict[str, list[Artifact]]


BELOW = ("", "/manifest", "/files", "/lineage", "/executions", "/evaluations")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Made]]:
    with Registry.open(tmp_path_factory.mktemp("api") / "home") as registry:
        yield registry, fill(registry)


@pytest.fixture(scope="module")
def made(filled: tuple[Registry, Made]) -> Made:
    return filled[1]


@pytest.fixture(scope="module")
def client(filled: tuple[Registry, Made]) -> Iterator[TestClient]:
    with TestClient(application(filled[0]), base_url="http://localhost") as client:
        yield client


def pages(client: TestClient, url: str) -> Iterator[dict[str, Any]]:
    """Every item of every page."""
    join, cursor = "&" if "?" in url else "?", ""
    while True:
        page = client.get(f"{url}{cursor}").json()
        yield from page["items"]
        if page["next"] is None:
            return
        cursor = f"{join}cursor={page['next']}"


def test_a_list_is_walked_page_by_page_while_others_publish(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry, TestClient(application(registry), "http://localhost") as client:
        before = [a.id for kind in fill(registry).values() for a in kind]
        seen = []
        for number, item in enumerate(pages(client, "/v1/artifacts?limit=3")):
            seen.append(item["id"])
            if number % 3 == 0:
                add(registry, "dataset", f"meanwhile {number}")
        assert sorted(seen) == sorted(before)
        assert len(list(pages(client, "/v1/artifacts?limit=3"))) == len(before) + len(before) // 3


@pytest.mark.parametrize(
    ("query", "kinds", "count"),
    [
        ("kind=adapter", {"adapter"}, 4),
        ("quant_method=gguf", {"quantized"}, 4),
        ("name=support", {"quantized"}, 4),
        ("stage=merge", {"merged"}, 4),
        (f"base_revision={'a' * 40}&kind=base", {"base"}, 1),
        ("base_revision=bbbbbbbb", set(), 0),
        ("name=nobody", set(), 0),
    ],
)
def test_filters(client: TestClient, query: str, kinds: set[str], count: int) -> None:
    found = list(pages(client, f"/v1/artifacts?{query}"))
    assert ({item["kind"] for item in found}, len(found)) == (kinds, count)


def test_an_artifact_by_every_kind_of_reference(client: TestClient, made: Made) -> None:
    rolled_back_to = made["quantized"][2]
    refs = [rolled_back_to.id, rolled_back_to.id[:12], "support@3", "support/prod", "support%2Fprod"]
    bodies = [client.get(f"/v1/artifacts/{ref}").json() for ref in refs]
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["id"] == rolled_back_to.id
    assert bodies[0]["names"] == [{"name": "support", "version": 3}]
    assert bodies[0]["quant"]["effective"] == {"bits_per_weight": 6.17}
    assert (bodies[0]["content"], bodies[0]["files"], bodies[0]["bytes"]) == (
        "present",
        2,
        rolled_back_to.size,
    )
    assert client.get("/v1/artifacts/support/prod/files").json()["id"] == rolled_back_to.id


def test_the_manifest_is_what_the_id_is_the_digest_of(client: TestClient, made: Made) -> None:
    for kind in made.values():
        answer = client.get(f"/v1/artifacts/{kind[0].id}/manifest")
        assert hashlib.sha256(answer.content).hexdigest() == kind[0].id
        assert answer.headers["cache-control"] == "max-age=31536000, immutable"


def test_files_are_named_and_never_given(client: TestClient, made: Made) -> None:
    body = client.get(f"/v1/artifacts/{made['merged'][0].id}/files").json()
    assert [(f["name"], f["size"]) for f in body["files"]] == [("facts.txt", 8), ("model/config.json", 2)]
    assert client.get(f"/v1/artifacts/{made['merged'][0].id}/files/facts.txt").status_code == 404


def test_lineage_both_ways(client: TestClient, filled: tuple[Registry, Made]) -> None:
    registry, made = filled
    model, base, evaluation = made["quantized"][1], made["base"][0], made["evaluation"][1]
    up = client.get(f"/v1/artifacts/{model.id}/lineage").json()
    assert {(e["child"], e["relation"], e["parent"]) for e in up["edges"]} == {
        (e.child, e.relation, e.parent) for e in registry.lineage(model.id)
    }
    depth = {node["id"]: node["depth"] for node in up["nodes"]}
    assert (depth[model.id], depth[made["merged"][1].id], depth[base.id]) == (0, 1, 2)
    assert up["truncated"] is False
    down = client.get(f"/v1/artifacts/{base.id}/lineage?direction=down").json()
    assert {node["id"] for node in down["nodes"]} == {a.id for kind in made.values() for a in kind}
    near = client.get(f"/v1/artifacts/{model.id}/lineage?direction=down&depth=1").json()
    assert [n["id"] for n in near["nodes"]] == [model.id, evaluation.id]
    assert near["truncated"] is False
    assert client.get(f"/v1/artifacts/{base.id}/lineage?direction=down&depth=1").json()["truncated"] is True


def test_executions_and_evaluations(client: TestClient, made: Made) -> None:
    (run,) = client.get(f"/v1/artifacts/{made['adapter'][0].id}/executions").json()["items"]
    assert (run["seconds"], run["peak_bytes"], " " in run["host"]) == (1.5, 1000, False)
    (evaluation,) = client.get("/v1/artifacts/support@1/evaluations").json()["items"]
    assert evaluation["id"] == made["evaluation"][0].id
    assert evaluation["metrics"]["measured_on"] == "64 items"


def test_channels_and_their_history(client: TestClient, filled: tuple[Registry, Made]) -> None:
    registry, made = filled
    names = [channel["name"] for channel in pages(client, "/v1/channels?limit=2")]
    assert names == ["support/prod", "team-0/canary", "team-1/canary", "team-2/canary", "team-3/canary"]
    assert [c["name"] for c in pages(client, "/v1/channels?team=team-1")] == ["team-1/canary"]
    one = client.get("/v1/channels/support/prod").json()
    assert (one["artifact_id"], one["generation"]) == (made["quantized"][2].id, 5)
    events = list(pages(client, "/v1/channels/support/prod/history?limit=2"))
    assert [e["digest"] for e in events] == [e.digest for e in registry.channels.history("support/prod")][
        ::-1
    ]
    assert (events[0]["action"], events[0]["who"]) == ("rollback", "ops")
    assert all(newer["previous_digest"] == older["digest"] for newer, older in itertools.pairwise(events))


def test_gates_endpoints_and_names(client: TestClient, made: Made) -> None:
    model = made["quantized"][3]
    (found,) = pages(client, f"/v1/gates?candidate={model.id}")
    assert (found["verdict"], found["baseline"]) == ("pass", made["quantized"][2].id)
    whole = client.get(f"/v1/gates/{found['id']}")
    assert whole.json()["evidence"]["candidate"] == made["evaluation"][3].id
    assert "immutable" in whole.headers["cache-control"]
    assert len(list(pages(client, "/v1/gates?limit=1"))) == 4
    assert list(pages(client, "/v1/gates?verdict=fail")) == []
    endpoints = list(pages(client, "/v1/endpoints?running=true&channel=support/prod"))
    assert {e["artifact_id"] for e in endpoints} == {a.id for a in made["quantized"]}
    assert list(pages(client, "/v1/endpoints?running=false")) == []
    given = list(pages(client, "/v1/names?name=support&limit=3"))
    assert [(n["version"], n["artifact_id"]) for n in given] == [
        (4 - i, made["quantized"][3 - i].id) for i in range(4)
    ]


def test_no_path_and_no_secret_in_any_answer(client: TestClient, filled: tuple[Registry, Made]) -> None:
    registry, made = filled
    urls = [
        "/openapi.json",
        *("/v1/" + page for page in ("artifacts", "channels", "gates", "endpoints", "names")),
    ]
    for kind in made.values():
        for below in BELOW:
            urls.append(f"/v1/artifacts/{kind[0].id}{below}")
    urls += ["/v1/channels/support/prod", "/v1/channels/support/prod/history", "/v1/artifacts/nothing"]
    for url in urls:
        assert str(registry.home) not in client.get(url).text
        assert '"/' not in client.get(url).text.replace('"/v1', "").replace('"/healthz"', "").replace(
            '"/readyz"', ""
        )


@pytest.mark.parametrize("url", ["/v1/artifacts", "/v1/channels/support/prod", "/openapi.json"])
@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_entity_tags(client: TestClient, url: str, coding: str) -> None:
    first = client.get(url, headers={"Accept-Encoding": coding})
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["cache-control"] == "no-cache"
    for given in (tag, f'"other", W/{tag}', "*"):
        again = client.get(url, headers={"Accept-Encoding": coding, "If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (
        client.get(url, headers={"Accept-Encoding": coding, "If-None-Match": '"other"'}).content
        == first.content
    )


def test_a_tag_names_bytes_and_changes_with_them(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry, TestClient(application(registry), "http://localhost") as client:
        fill(registry, runs=2)
        seen = {
            client.get("/v1/artifacts", headers={"Accept-Encoding": c}).headers["etag"] for c in ("gzip", "")
        }
        add(registry, "dataset", "another")
        seen.add(client.get("/v1/artifacts").headers["etag"])
        assert len(seen) == 3


def test_gzip_only_for_who_accepts_it(client: TestClient) -> None:
    plain = client.get("/openapi.json", headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in plain.headers
    with client.stream("GET", "/openapi.json", headers={"Accept-Encoding": "br, gzip;q=0.5"}) as packed:
        raw = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    assert int(packed.headers["content-length"]) == len(raw) < len(plain.content)
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in client.get("/healthz", headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize("url", ["/v1/artifacts", "/healthz", "/v1/artifacts/nothing"])
def test_head_is_get_without_the_body(client: TestClient, url: str) -> None:
    asked, told = client.head(url), client.get(url)
    assert (asked.status_code, asked.content) == (told.status_code, b"")
    assert dict(asked.headers) == dict(told.headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_it_only_reads(client: TestClient, method: str) -> None:
    for url in ("/v1/artifacts", "/v1/artifacts/support/prod", "/healthz"):
        answer = client.request(method, url)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["detail"].startswith(method)


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("/v1/artifacts/..%2f..%2fetc%2fpasswd", 404, "no artifact or channel is called"),
        ("/v1/artifacts/%00", 422, "ref"),
        ("/v1/artifacts/abc%00def/files", 422, "ref"),
        ("/v1/artifacts/%ff%fe", 422, "ref"),
        ("/v1/artifacts/%F0%9F%A6%99", 422, "ref"),
        (f"/v1/artifacts/{'a' * 4096}", 422, "at most 200"),
        ("/v1/artifacts/support@99999999999999999999", 404, "support"),
        ("/v1/artifacts/suport@1", 404, "near: support@"),
        ("/v1/artifacts?limit=0", 422, "limit"),
        ("/v1/artifacts?limit=1000000", 422, "less than or equal to 200"),
        ("/v1/artifacts?limit=1e3", 422, "limit"),
        (f"/v1/artifacts?cursor={2**63}", 422, "cursor"),
        ("/v1/artifacts?cursor=-1", 422, "cursor"),
        ("/v1/artifacts?kind=model", 422, "kind"),
        ("/v1/artifacts?knd=adapter", 422, "unknown parameter; expected base_revision, cursor"),
        ("/v1/artifacts?limit=1&limit=2", 422, "given twice"),
        ("/v1/artifacts?name=%00", 422, "name"),
        (f"/v1/artifacts?stage={'x' * 4096}", 422, "stage"),
        ("/v1/artifacts/support/prod/lineage?depth=1000", 422, "depth"),
        ("/v1/artifacts/support/prod/lineage?direction=sideways", 422, "direction"),
        ("/v1/channels/support/..%00", 422, "name"),
        ("/v1/channels/support/nothing", 404, "no channel support/nothing"),
        ("/v1/channels/support/nothing/history", 404, "no channel"),
        (f"/v1/gates/{'f' * 64}", 404, "no gate decision"),
        ("/v1/gates/nothing", 422, "id"),
        ("/v1/endpoints?running=maybe", 422, "running"),
        ("/healthz?verbose=1", 422, "expected none"),
        ("/v1/artifacts/", 422, "ref"),
        ("/v2/artifacts", 404, "/openapi.json"),
        ("/docs", 404, ""),
    ],
)  # fmt: skip
def test_bad_requests_say_why(client: TestClient, url: str, status: int, says: str) -> None:
    answer = client.get(url)
    body = answer.json()
    assert (answer.status_code, body["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert says in body["detail"]
    assert {"type", "title", "detail"} <= body.keys()


def test_a_registry_that_cannot_be_read_is_no_fault_of_the_asker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Registry.open(tmp_path / "home") as registry:
        with registry.database.write() as connection:
            connection.execute(text("ALTER TABLE artifacts RENAME TO elsewhere"))
        with TestClient(application(registry), "http://localhost", raise_server_exceptions=False) as client:
            answer = client.get("/v1/artifacts")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["type"] == "urn:tuneline:problem:store-failed"
            assert str(tmp_path) not in answer.text
            assert str(tmp_path) in caplog.text
            assert client.get("/healthz").status_code == 200


def test_a_defect_tells_nothing_of_the_inside(
    filled: tuple[Registry, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/a/secret/path")

    monkeypatch.setattr("registry.api.queries.name_page", broken)
    with TestClient(application(filled[0]), "http://localhost", raise_server_exceptions=False) as client:
        answer = client.get("/v1/names")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_the_token(filled: tuple[Registry, Made]) -> None:
    with TestClient(application(filled[0], TOKEN), "http://registry.example") as client:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {TOKEN}"},
                        {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN},
                        {"Authorization": "Bearer \xff"}):  # fmt: skip
            for url in ("/v1/artifacts", "/v1/nothing", "/openapi.json"):
                answer = client.get(url, headers={k: v.encode("latin-1") for k, v in headers.items()})
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert TOKEN not in answer.text
        for scheme in ("Bearer", "bearer"):
            assert (
                client.get("/v1/artifacts", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200
            )
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_tokens_of_users(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry, TestClient(application(registry), "http://localhost") as client:
        assert client.get("/v1/artifacts").status_code == 200
        _, viewer = registry.users.add("vera", "viewer", "test")
        header = {"Authorization": f"Bearer {viewer}"}
        assert client.get("/v1/artifacts").status_code == 401, "from the first user on nobody is anonymous"
        assert client.get("/v1/artifacts", headers=header).status_code == 200
        with TestClient(application(registry, TOKEN), "http://registry.example") as other:
            for token, status in ((viewer, 200), (TOKEN, 200), (viewer[:-1], 401)):
                answer = other.get("/v1/artifacts", headers={"Authorization": f"Bearer {token}"})
                assert answer.status_code == status
        registry.users.revoke("vera", "test")
        assert client.get("/v1/artifacts", headers=header).status_code == 401
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8700", "[::1]:8700", "LOCALHOST:1"])
def test_loopback_names_need_no_token(client: TestClient, host: str) -> None:
    assert client.get("/v1/names", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8700", "10.0.0.1", "", "[::1"])
def test_another_name_for_this_machine_is_refused_without_a_token(client: TestClient, host: str) -> None:
    answer = client.get("/v1/names", headers={"Host": host})
    assert (answer.status_code, answer.json()["type"]) == (421, "urn:tuneline:problem:wrong-host")


def test_nothing_for_other_origins(client: TestClient) -> None:
    answer = client.get("/v1/names", headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_readers_hold_up_no_writer_and_see_no_half_publish(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(point: str) -> None:
        if point == "rows written":
            answer = client.get("/v1/artifacts")
            seen.append(len(answer.json()["items"]))
            assert client.get(f"/v1/artifacts?limit={1 + len(seen)}").status_code == 200

    with (
        Registry.open(tmp_path / "home", failpoint=look) as registry,
        TestClient(application(registry), "http://localhost") as client,
    ):
        add(registry, "dataset", "one")
        with registry.database.read() as reading:
            reading.execute(text("SELECT count(*) FROM artifacts")).scalar_one()
            add(registry, "dataset", "two")
        assert len(client.get("/v1/artifacts").json()["items"]) == 2
    assert seen == [0, 1]


def test_many_readers_at_once(filled: tuple[Registry, Made], client: TestClient) -> None:
    wanted = client.get("/v1/artifacts").content
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: got.append(client.get("/v1/artifacts").content)) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [wanted] * 40


def test_every_page_on_every_database(registry: Registry) -> None:
    made = fill(registry, runs=2)
    with TestClient(application(registry), "http://localhost") as client:
        found = [item["id"] for item in pages(client, "/v1/artifacts?limit=2&stage=prepare")]
        assert sorted(found) == sorted(artifact.id for artifact in made["dataset"])
        assert [c["name"] for c in pages(client, "/v1/channels?team=team-1&limit=1")] == ["team-1/canary"]
        (decision, *_) = pages(client, "/v1/gates?verdict=pass&limit=1")
        urls = [f"gates/{decision['id']}", "endpoints?running=true", "channels/support/prod/history", "names"]
        for url in (*urls, *(f"artifacts/support@1{below}" for below in BELOW)):
            assert client.get(f"/v1/{url}").status_code == 200, url
        down = client.get(f"/v1/artifacts/{made['base'][0].id}/lineage?direction=down").json()
        assert len(down["nodes"]) == 11
        for url in ("artifacts?name=%00", "artifacts/%00", "channels/a%00/b", "names?name=%00"):
            assert client.get(f"/v1/{url}").status_code == 422


@pytest.mark.parametrize("token", [None, TOKEN])
def test_generated_requests(tmp_path: Path, token: str | None) -> None:
    with Registry.open(tmp_path / "home") as registry:
        report = fuzz(registry, examples=2, seed=1, token=token)
    assert report["wrong"] == []
    assert {200, 404, 405, 422} <= report["statuses"].keys()
    assert len(report["checks"]) >= 14
    assert (401 in report["statuses"]) == (token is not None)


def test_the_generated_requests_find_planted_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.api.app.registry_problem", lambda _: problem(500, "planted", "planted"))
    monkeypatch.setattr("registry.api.middleware.PROBLEM", "text/plain")
    with Registry.open(tmp_path / "home") as registry:
        report = fuzz(registry, examples=1, seed=1)
    found = {wrong.partition(":")[0] for wrong in report["wrong"]}
    assert found >= {"not_a_server_error", "content_type_conformance"}

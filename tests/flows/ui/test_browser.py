"""Each screen and each change in a real Chromium: console empty, axe content, nothing too wide."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, StorageState, ViewportSize, expect

from flows.ui.access.access import Access
from flows.ui.app import application
from flows.ui.pages import FOR_ADMINS, SCREENS
from registry import Artifact, Registry
from registry.outbox import EVENTS
from registry.store.store import Discrepancy
from stages.contract import Parent
from tests.flows.metrics.watched import WAIVER, answered, populate
from tests.flows.ui.around import a_night
from tests.flows.ui.browser import Complaints, chromium, keep_picture, served
from tests.flows.ui.prepared_rows import prepared_rows
from tests.flows.ui.receiver import answering
from tests.seconds import seconds

LINK = "the-link-that-is-printed"
HEAR = "new EventSource('/events').addEventListener('changed', () => console.log('heard'))"
TOO_WIDE = """[...document.querySelectorAll(".scroll")]
    .filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.ariaLabel)"""
SIZES = "cells => cells.map(cell => Number(cell.dataset.value))"
WIDTHS = (390, 900, 1400)
HISTORY = [{"step": step, "loss": 3.0 / step} for step in range(1, 30)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.open(tmp_path_factory.mktemp("ui") / "home") as registry:
        yield registry


@pytest.fixture(scope="module")
def made(registry: Registry, pico_base: Parent) -> dict[str, Artifact]:
    made = populate(registry)
    report = registry.home / "runs" / "20260301-093000-aaaaaa" / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "history": HISTORY}))
    a_night(registry)
    made["rows"] = prepared_rows(registry, pico_base.path)
    return made


@pytest.fixture(scope="module")
def url(registry: Registry, made: dict[str, Artifact]) -> Iterator[str]:
    with served(application(registry, Access(registry, link_token=LINK))) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def signed_in(browser: Browser, url: str) -> StorageState:
    """The cookies of who opened the link."""
    context = browser.new_context(base_url=url)
    context.new_page().goto(f"/signin/link?token={LINK}")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def page(browser: Browser, url: str, signed_in: StorageState, complaints: Complaints) -> Iterator[Page]:
    size: ViewportSize = {"width": 1400, "height": 900}
    context = browser.new_context(base_url=url, viewport=size, storage_state=signed_in)
    context.set_default_timeout(1000 * seconds(10))
    page = context.new_page()
    complaints.listen(page)
    yield page
    context.close()
    assert complaints.lines == []


def paths(made: dict[str, Artifact], registry: Registry) -> list[str]:
    """Every kind of page."""
    several = "&id=".join([made["gguf"].id, made["gptq"].id])
    return [
        *(path for _, path in SCREENS + FOR_ADMINS),
        *(f"/artifacts/{made[name].id}" for name in ("adapter", "gguf", "dataset") if name in made),
        f"/compare?id={several}",
        "/channels/support/prod",
        f"/channels/support/prod/promote?artifact={made['gptq'].id}",
        "/runs/20260301-093000-aaaaaa",
        "/runs/20260302-093000-bbbbbb",
        "/tenants/acme",
        "/schedules/night",
        "/compare",
        "/store?plan=1&days=0",
        *(f"/artifacts/{made['rows'].id}/{page}" for page in ("rows", "report", "report/read")),
        f"/gates/{registry.gates.about(made['gguf'].id)[0].id}",
        f"/engines/{registry.endpoints.ls()[0].id}",
    ]


def assert_sound(page: Page) -> None:
    """No serious finding of axe-core, and nothing wider than the window."""
    serious = [
        f"{page.url}: {one['id']}: {one['nodes'][0]['html'][:120]}"
        for one in Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (page.url, width)
        if width == min(WIDTHS):
            assert page.evaluate(TOO_WIDE) == [], page.url


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_sound(
    browser: Browser,
    url: str,
    registry: Registry,
    made: dict[str, Artifact],
    theme: str,
    signed_in: StorageState,
    complaints: Complaints,
) -> None:
    context = browser.new_context(base_url=url, color_scheme=theme, storage_state=signed_in)  # type: ignore[arg-type]
    page = context.new_page()
    complaints.listen(page)
    for path in paths(made, registry):
        page.goto(path)
        assert_sound(page)
        keep_picture(page, path, theme)
    assert complaints.lines == []
    context.close()


def test_rows_are_shown_as_the_model_sees_them(page: Page, made: dict[str, Artifact]) -> None:
    page.goto(f"/artifacts/{made['rows'].id}/rows")
    expect(page.locator("#chats pre mark").first).to_contain_text("Ask the bank", timeout=1000 * seconds(60))
    page.get_by_role("link", name="what they hold").click()
    expect(page.locator("#splits")).to_be_visible()
    expect(page.get_by_role("region", name="Rows, tokens and languages")).to_contain_text("en 100 %")
    found = page.get_by_role("region", name="Kinds that were found")
    expect(found).to_contain_text("IBAN")
    expect(found).to_contain_text("AWS access key")
    assert "AKIA" not in page.content(), "what was found is not shown"
    found.get_by_role("link", name="test 1").click()
    expect(page.locator(".chat").first).to_contain_text("row 1")


def test_a_page_follows_the_registry(page: Page, registry: Registry, made: dict[str, Artifact]) -> None:
    page.goto("/")
    expect(page.locator("#live")).to_have_text("live")
    more = answered("support/prod", made["gguf"].id, datetime.now(UTC) - timedelta(minutes=2), requests=990)
    before = page.locator("article", has_text="support/prod").inner_text()
    registry.outcomes.add([more])
    card = page.locator("article", has_text="support/prod")
    expect(card).not_to_have_text(before)
    expect(card).to_contain_text("1,000 requests")


def test_what_one_is_writing_outlives_a_change(
    page: Page, registry: Registry, made: dict[str, Artifact]
) -> None:
    page.goto("/channels/support/first")
    page.get_by_text("Start a rollout").click()
    page.locator("input[name=reason]").fill("half a sent")
    change = answered("support/first", made["gptq"].id, datetime.now(UTC))
    with page.expect_event("console", lambda m: m.text == "heard"):
        page.evaluate(HEAR)
        registry.outcomes.add([change])
    expect(page.locator("input[name=reason]")).to_be_focused()
    expect(page.locator("input[name=reason]")).to_have_value("half a sent")
    page.locator("input[name=reason]").blur()
    page.get_by_text("Start a rollout").click()
    expect(page.get_by_text("Outcomes by artifact")).to_be_visible()


def test_what_one_began_to_write_outlives_a_change_that_was_on_its_way(
    page: Page, made: dict[str, Artifact]
) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        if "hx-request" in route.request.headers and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/channels/support/first", hold)
    with page.expect_request(lambda request: "hx-request" in request.headers):
        page.goto("/channels/support/first")
    page.get_by_text("Start a rollout").click()
    page.locator("input[name=reason]").fill("half a sent")
    with page.expect_response(lambda answer: "hx-request" in answer.request.headers) as answer:
        held[0].continue_()
    answer.value.finished()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    expect(page.locator("input[name=reason]")).to_be_focused()
    expect(page.locator("input[name=reason]")).to_have_value("half a sent")


def test_a_curve_is_drawn(page: Page) -> None:
    page.goto("/runs/20260301-093000-aaaaaa")
    expect(page.locator(".chart canvas")).to_be_visible()


def test_keys_move_through_rows_and_open_one(page: Page) -> None:
    page.goto("/artifacts")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    row = page.locator("tr.at")
    expect(row).to_have_count(1)
    assert row.evaluate("row => row.rowIndex") == 1
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()


def sizes(page: Page) -> list[float]:
    return list(page.locator("td[data-value]").evaluate_all(SIZES))


def test_tables_sort_by_value_and_stay_sorted_and_chosen_when_something_changes(
    page: Page, registry: Registry, made: dict[str, Artifact]
) -> None:
    page.goto("/artifacts")
    page.locator("th button", has_text="size").click()
    assert sizes(page) == sorted(sizes(page))
    page.locator("th button", has_text="size").click()
    page.locator("tbody input[type=checkbox]").nth(2).check()
    chosen = page.locator("tbody input:checked").get_attribute("value")
    page.locator("h1").click()
    page.keyboard.press("j")
    page.evaluate(
        "document.addEventListener('htmx:after:swap', () => { document.body.dataset.swapped = 1; })"
    )
    registry.outcomes.add([answered("support/first", made["gptq"].id, datetime.now(UTC))])
    page.locator("body[data-swapped]").wait_for()
    assert sizes(page) == sorted(sizes(page), reverse=True)
    assert page.locator("tbody input:checked").get_attribute("value") == chosen
    assert page.locator("tr.at").count() == 1


def test_the_theme_is_kept(page: Page) -> None:
    page.goto("/")
    page.locator("[data-theme-switch]").click()
    page.locator("[data-theme-switch]").click()
    page.goto("/runs")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_rollout_is_stopped_and_a_channel_promoted_and_rolled_back(
    page: Page, registry: Registry, made: dict[str, Artifact]
) -> None:
    page.goto("/channels/support/prod")
    page.locator("form[action$='rollout/stop'] input[name=reason]").fill("seen enough")
    page.get_by_role("button", name="Stop the rollout").click()
    expect(page.get_by_text("No rollout in progress.")).to_be_visible()
    assert registry.rollouts.current("support/prod") is None

    page.goto(f"/channels/support/prod/promote?artifact={made['gptq'].id}")
    expect(page.get_by_text("no gate")).to_be_visible()
    page.locator("input[name=reason]").fill("the drill")
    page.get_by_role("button", name="Promote without a gate").click()
    expect(page.get_by_role("heading", name="support/prod")).to_be_visible()
    event = registry.channels.history("support/prod")[-1]
    assert (event.artifact_id, event.reason) == (made["gptq"].id, "the drill")

    page.get_by_role("link", name="Roll back").click()
    page.locator("input[name=reason]").fill("back again")
    page.get_by_role("button", name="Roll back").click()
    expect(page.locator("main").get_by_text("rollback")).to_be_visible()
    current = registry.channels.get("support/prod")
    assert current is not None
    assert current.artifact_id == made["gguf"].id


def test_a_page_that_is_behind_rolls_nothing_back(
    page: Page, registry: Registry, made: dict[str, Artifact], complaints: Complaints
) -> None:
    current = registry.channels.get("support/prod")
    assert current is not None
    current = registry.channels.move("support/prod", made["gptq"].id, current.generation, waiver=WAIVER)
    page.goto("/channels/support/prod/rollback")
    registry.channels.move("support/prod", made["merged"].id, current.generation, waiver=WAIVER)
    page.locator("input[name=reason]").fill("too late")
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("alert")).to_contain_text("was moved since this page was made")
    after = registry.channels.get("support/prod")
    assert after is not None
    assert after.artifact_id == made["merged"].id
    assert any("409" in line for line in complaints.lines)
    complaints.lines.clear()


def test_a_new_key_is_shown_once(page: Page, registry: Registry) -> None:
    page.goto("/tenants/acme")
    page.get_by_role("button", name="Rotate, and show the new key once").click()
    key = page.locator("[role=alert] code").inner_text()
    assert key.startswith("tl-")
    assert key not in page.url
    page.goto("/tenants/acme")
    assert key not in page.content()
    assert len(registry.tenants.keys("acme")) == 2


def test_an_admin_adds_users_and_webhooks(browser: Browser, tmp_path: Path, complaints: Complaints) -> None:
    with (
        Registry.open(tmp_path / "home") as registry,
        answering(204) as receiver,
        served(application(registry, Access(registry))) as url,
    ):
        _, token = registry.users.add("ada", "admin", "tests")
        page = browser.new_page(base_url=url, viewport={"width": 390, "height": 900})
        page.set_default_timeout(1000 * seconds(10))
        complaints.listen(page)
        page.goto("/signin")
        page.locator("input[name=token]").fill(token)
        page.get_by_role("button", name="Sign in").click()

        page.get_by_role("link", name="Users", exact=True).click()
        page.get_by_text("Add a user").click()
        page.locator("input[name=name]").fill("olga+ml@example.org")
        page.locator("select[name=role]").select_option("viewer")
        page.get_by_role("button", name="Add, and show the token once").click()
        shown = page.locator("[role=alert] code").inner_text()
        olga = registry.users.of_token(shown)
        assert olga is not None
        page.get_by_role("link", name="Users", exact=True).click()
        assert shown not in page.content()
        page.get_by_role("link", name=olga.name).click()
        page.locator("select[name=role]").select_option("operator")
        page.get_by_role("button", name="Change the role").click()
        expect(page.locator(".head .pill")).to_have_text("operator")
        assert_sound(page)
        keep_picture(page, "user", "light")
        page.get_by_role("button", name=f"Revoke {olga.name}").click()
        expect(page.get_by_text("Let in again")).to_be_visible()
        assert registry.users.of_token(shown) is None
        assert [event.who for event in registry.users.audit()] == ["tests", "ada", "ada", "ada"]

        page.get_by_role("link", name="Webhooks", exact=True).click()
        page.locator("input[name=url]").fill(receiver)
        page.locator("input[name=event-drift]").uncheck()
        page.locator("input[name=private]").check()
        page.get_by_role("button", name="Add; an address's secret is shown once").click()
        (webhook,) = registry.webhooks.ls()
        assert (webhook.url, set(webhook.events)) == (receiver, set(EVENTS) - {"drift"})
        expect(page.locator("[role=alert] code").first).to_be_visible()
        page.get_by_role("button", name="Send a test").click()
        expect(page.locator("#deliveries .pill")).to_have_text("delivered")
        assert_sound(page)
        keep_picture(page, "webhook", "light")
        page.goto("/webhooks")
        assert_sound(page)
        page.goto(f"/webhooks/{webhook.id}")
        page.get_by_text("Remove it", exact=True).click()
        page.get_by_role("button", name="Remove it for good").click()
        expect(page.locator(".head .pill.bad")).to_have_text("removed")
        assert registry.webhooks.ls() == []
        page.context.close()
    assert complaints.lines == []


def test_an_artifact_is_verified(page: Page, made: dict[str, Artifact]) -> None:
    page.goto(f"/artifacts/{made['gguf'].id}")
    page.get_by_role("button", name="Verify every byte").click()
    expect(page.get_by_text("as published")).to_be_visible()
    page.goto(f"/artifacts/{made['merged'].id}")
    page.get_by_role("button", name="Verify every byte").click()
    expect(page.locator("#verify .pill.bad")).to_be_visible()


def test_a_verification_says_how_far_it_is(
    page: Page, registry: Registry, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, verify = made["base"], registry.verify
    assert artifact.size == 3
    halfway, go_on = threading.Event(), threading.Event()

    def slowly(artifact_id: str, heard: Callable[[int], None]) -> list[Discrepancy]:
        heard(1)
        assert halfway.wait(seconds(20))
        heard(1)
        assert go_on.wait(seconds(20))
        return verify(artifact_id)

    monkeypatch.setattr(registry, "verify", slowly)
    page.goto(f"/artifacts/{artifact.id}")
    page.get_by_role("button", name="Verify every byte").click()
    expect(page.locator("#verify [role=status]")).to_contain_text("reading 33 %: 1 B of 3 B")
    expect(page.locator("#live")).to_have_text("live")
    halfway.set()
    expect(page.locator("#verify [role=status]")).to_contain_text("66 %")
    expect(page.locator("#verify progress")).to_have_attribute("value", "66")
    assert_sound(page)
    go_on.set()
    expect(page.get_by_text("as published")).to_be_visible()


def test_a_log_is_followed(page: Page, registry: Registry) -> None:
    logs: Path = registry.home / "runs" / "20260301-093000-aaaaaa" / "logs"
    logs.mkdir()
    (logs / "merge.log").write_text("folding <b>layer</b> 1\n")
    page.goto("/runs/20260301-093000-aaaaaa/logs/merge")
    expect(page.locator("pre.log")).to_contain_text("folding <b>layer</b> 1")

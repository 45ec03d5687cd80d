"""The triggers with which the database itself refuses to rewrite history, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

_IMMUTABLE = {
    "artifacts": "id = NEW.id OR sequence = NEW.sequence",
    "edges": "child = NEW.child AND relation = NEW.relation AND parent = NEW.parent",
    "keys": "key = NEW.key AND artifact_id = NEW.artifact_id",
    "executions": "sequence = NEW.sequence",
    "names": "(name = NEW.name AND (version = NEW.version OR artifact_id = NEW.artifact_id)) "
    "OR sequence = NEW.sequence",
    "content_events": "sequence = NEW.sequence",
    "channel_policies": "sequence = NEW.sequence",
    "gate_decisions": "id = NEW.id OR sequence = NEW.sequence",
    "channel_events": "(channel = NEW.channel AND generation = NEW.generation) OR digest = NEW.digest",
    "tenant_events": "sequence = NEW.sequence OR (tenant = NEW.tenant AND number = NEW.number) "
    "OR digest = NEW.digest",
    "rollout_events": "sequence = NEW.sequence OR (channel = NEW.channel AND number = NEW.number) "
    "OR digest = NEW.digest",
    "access_events": "sequence = NEW.sequence OR (subject = NEW.subject AND number = NEW.number) "
    "OR digest = NEW.digest",
    "schedule_events": "sequence = NEW.sequence OR (schedule = NEW.schedule AND number = NEW.number) "
    "OR digest = NEW.digest",
    "consents": "sequence = NEW.sequence OR (tenant = NEW.tenant AND number = NEW.number) "
    "OR digest = NEW.digest",
    "forgettings": "sequence = NEW.sequence",
}
"""Table → which row an `INSERT OR REPLACE` would replace."""

_STANDING = {
    "channels": (
        "a channel moves by one generation",
        "NEW.name <> OLD.name OR NEW.generation <> OLD.generation + 1",
    ),
    "rollouts": (
        "a rollout goes from event to event",
        "NEW.channel <> OLD.channel OR NEW.number <> OLD.number + 1",
    ),
    "tenants": (
        "a tenant changes with its next event and keeps its name and salt",
        "NEW.name <> OLD.name OR NEW.salt <> OLD.salt OR NEW.created <> OLD.created "
        "OR NEW.changes <> OLD.changes + 1",
    ),
    "tenant_keys": (
        "a key stays what it is, and its end only comes nearer",
        "NEW.sequence <> OLD.sequence OR NEW.id <> OLD.id OR NEW.sha256 <> OLD.sha256 "
        "OR NEW.tenant <> OLD.tenant OR NEW.created <> OLD.created "
        "OR (OLD.expires IS NOT NULL AND (NEW.expires IS NULL OR NEW.expires > OLD.expires)) "
        "OR (OLD.revoked IS NOT NULL AND (NEW.revoked IS NULL OR NEW.revoked <> OLD.revoked))",
    ),
    "users": (
        "a user changes with the next event and keeps name and identity",
        "NEW.name <> OLD.name OR NEW.created <> OLD.created OR NEW.changes <> OLD.changes + 1 "
        "OR coalesce(NEW.identity, '-') <> coalesce(OLD.identity, '-')",
    ),
    "user_tokens": (
        "a token stays what it is, and is revoked once",
        "NEW.sequence <> OLD.sequence OR NEW.id <> OLD.id OR NEW.sha256 <> OLD.sha256 "
        "OR NEW.owner <> OLD.owner OR NEW.created <> OLD.created OR NEW.revoked IS NULL "
        "OR OLD.revoked IS NOT NULL",
    ),
    "webhooks": (
        "a webhook changes with its next event and keeps its address and secret",
        "NEW.id <> OLD.id OR NEW.url <> OLD.url OR NEW.secret <> OLD.secret OR NEW.events <> OLD.events "
        "OR NEW.private <> OLD.private OR NEW.changes <> OLD.changes + 1",
    ),
    "schedules": (
        "a schedule changes with its next event and keeps its name",
        "NEW.name <> OLD.name OR NEW.created <> OLD.created OR NEW.changes <> OLD.changes + 1",
    ),
    "schedule_occasions": (
        "an occasion gets its runs once",
        "NEW.schedule <> OLD.schedule OR NEW.id <> OLD.id OR NEW.due <> OLD.due OR NEW.why <> OLD.why "
        "OR OLD.version IS NOT NULL",
    ),
    "schedule_runs": (
        "a run that is over stays as it ended",
        "NEW.sequence <> OLD.sequence OR NEW.schedule <> OLD.schedule OR NEW.occasion <> OLD.occasion "
        "OR NEW.target <> OLD.target OR NEW.channel <> OLD.channel OR OLD.finished IS NOT NULL",
    ),
    "feed_rows": (
        "a row of a feed stays what it is, and is forgotten once",
        "NEW.sequence <> OLD.sequence OR NEW.feed <> OLD.feed OR NEW.number <> OLD.number "
        "OR NEW.kind <> OLD.kind OR NEW.origin <> OLD.origin OR NEW.key <> OLD.key OR NEW.at <> OLD.at "
        "OR NEW.who <> OLD.who OR coalesce(NEW.tenant, '-') <> coalesce(OLD.tenant, '-') "
        "OR coalesce(NEW.request, '-') <> coalesce(OLD.request, '-') "
        "OR coalesce(NEW.artifact_id, '-') <> coalesce(OLD.artifact_id, '-') "
        "OR NEW.content IS NOT NULL OR OLD.content IS NULL",
    ),
}
"""Table whose rows stay for ever → how one may change, and the condition of any other change."""

_SERVED = ("channel_events", "tenant_events", "rollout_events", "consents")
"""What a gateway has to hear of."""
_COUNT = "UPDATE serving_version SET version = version + 1"
_RECORDED = "an outcome is not changed"

_AGE = "SELECT sequence FROM artifacts WHERE id ="
_YOUNG_PARENT = f"({_AGE} NEW.parent) >= ({_AGE} NEW.child)"
_PARENT_IS_OLDER = "a parent is older than its child"


def create(connection: Connection) -> None:
    """Create all of them; they must not be there yet."""
    for statement in _sqlite() if connection.dialect.name == "sqlite" else _postgresql():
        connection.execute(text(statement))


def drop(connection: Connection) -> None:
    """Drop all of them, so that a migration can change the tables; `create` must follow."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT name AS trigger, tbl_name AS relation FROM sqlite_master WHERE type = 'trigger'")
    else:
        query = text(
            "SELECT tgname AS trigger, relname AS relation FROM pg_trigger "
            "JOIN pg_class c ON c.oid = tgrelid WHERE NOT tgisinternal AND pg_table_is_visible(c.oid)"
        )
    for row in connection.execute(query).all():
        on = "" if connection.dialect.name == "sqlite" else f" ON {row.relation}"
        connection.execute(text(f"DROP TRIGGER {row.trigger}{on}"))


def _sqlite() -> Iterator[str]:
    def refuse(trigger: str, action: str, table: str, message: str, when: str = "") -> str:
        return (
            f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} {when and f'WHEN {when} '}"
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )

    for table, same_row in _IMMUTABLE.items():
        message = f"{table} is immutable"
        for action in ("UPDATE", "DELETE"):
            yield refuse(f"{table}_no_{action.lower()}", action, table, message)
        # `INSERT OR REPLACE` deletes without firing a DELETE trigger.
        exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same_row})"
        yield refuse(f"{table}_no_replace", "INSERT", table, message, exists)
    for table, (steps, jumps) in _STANDING.items():
        yield refuse(f"{table}_no_delete", "DELETE", table, f"{table} are never deleted")
        yield refuse(f"{table}_step", "UPDATE", table, steps, jumps)
    for table in _SERVED:
        yield f"CREATE TRIGGER {table}_count AFTER INSERT ON {table} BEGIN {_COUNT}; END"
    yield refuse("outcomes_no_update", "UPDATE", "outcomes", _RECORDED)
    yield refuse("edges_point_back", "INSERT", "edges", _PARENT_IS_OLDER, _YOUNG_PARENT)


def _postgresql() -> Iterator[str]:
    def refuse(trigger: str, action: str, table: str, message: str, when: str = "") -> str:
        each = "STATEMENT" if action == "TRUNCATE" else "ROW"
        return (
            f"CREATE TRIGGER {trigger} BEFORE {action} ON {table} FOR EACH {each} "
            f"{when and f'WHEN ({when}) '}EXECUTE FUNCTION tuneline_refuse('{message}')"
        )

    raising = "RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE ="
    yield (
        "CREATE OR REPLACE FUNCTION tuneline_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {raising} TG_ARGV[0]; END $$"
    )
    # A query within a condition is for functions only; the path is bound so that none shadows our table.
    yield (
        "CREATE OR REPLACE FUNCTION tuneline_parent_is_older() RETURNS trigger LANGUAGE plpgsql "
        f"SET search_path FROM CURRENT AS $$ BEGIN IF {_YOUNG_PARENT} THEN {raising} '{_PARENT_IS_OLDER}'; "
        "END IF; RETURN NEW; END $$"
    )
    for table in _IMMUTABLE:
        for action in ("UPDATE", "DELETE", "TRUNCATE"):
            yield refuse(f"{table}_no_{action.lower()}", action, table, f"{table} is immutable")
    for table, (steps, jumps) in _STANDING.items():
        for action in ("DELETE", "TRUNCATE"):
            yield refuse(f"{table}_no_{action.lower()}", action, table, f"{table} are never deleted")
        yield refuse(f"{table}_step", "UPDATE", table, steps, jumps)
    yield (
        "CREATE OR REPLACE FUNCTION tuneline_count() RETURNS trigger LANGUAGE plpgsql "
        f"SET search_path FROM CURRENT AS $$ BEGIN {_COUNT}; RETURN NULL; END $$"
    )
    for table in _SERVED:
        yield (
            f"CREATE TRIGGER {table}_count AFTER INSERT ON {table} FOR EACH ROW "
            "EXECUTE FUNCTION tuneline_count()"
        )
    yield refuse("outcomes_no_update", "UPDATE", "outcomes", _RECORDED)
    yield (
        "CREATE TRIGGER edges_point_back BEFORE INSERT ON edges FOR EACH ROW "
        "EXECUTE FUNCTION tuneline_parent_is_older()"
    )

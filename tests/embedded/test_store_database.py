"""The store on SQLite and on PostgreSQL: units of work, versions, revisions, leases, secrets, bells, migrations."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from moorage.errors import Conflict, NotFound, Unavailable
from moorage.ids import Workspace
from moorage.store import ClusterEvent, DesiredOwner, ObjectName, OperationStatus, Part, ResourceKey, Store, Transaction
from moorage.store.migrate import migrate
from moorage.store.sealed import SealingKey
from moorage.store.tables import metadata

pytest_plugins = ["tests.fixtures.postgres"]

W = Workspace("s", "rg", "default")
KEY = b"k" * 32
JOB = ResourceKey(W, "jobs", "j1")
POD = ObjectName("TrainingJob", "default", "j1")
OWNER = DesiredOwner(W, "jobs", "j1")


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def store(database_url: str, clock: SetClock) -> AsyncIterator[Store]:
    opened = await Store.open(database_url, KEY, now=clock)
    yield opened
    await opened.close()


async def test_a_resource_comes_back_as_it_was_written(store: Store) -> None:
    body = {"properties": {"a": [1, 2.5, None, "é\u2028"], "_source": True}, "tags": {}}
    made = await store.write(lambda tx: tx.resources.create(JOB, body, state={"s": 1}, lookup="x"), actor="ann")
    read = await store.read(lambda tx: tx.resources.get(ResourceKey(Workspace("S", "RG", "DEFAULT"), "jobs", "j1")))
    assert read == made
    assert (read.body, read.created_by, read.id) == (body, "ann", "/subscriptions/s/resourceGroups/rg" + W.id.split("/rg")[1] + "/jobs/j1")
    with pytest.raises(Conflict):
        await store.write(lambda tx: tx.resources.create(JOB, {}))


async def test_a_writer_with_an_old_version_is_refused_and_an_equal_write_is_none(store: Store) -> None:
    first = await store.write(lambda tx: tx.resources.create(JOB, {"a": 1}))
    assert await store.write(lambda tx: tx.resources.update(first, body={"a": 1})) == first
    second = await store.write(lambda tx: tx.resources.update(first, state={"status": "Running"}), actor="engine")
    assert (second.version, second.modified_by) == (2, "moorage")
    with pytest.raises(Conflict, match="changed meanwhile"):
        await store.write(lambda tx: tx.resources.update(first, state={"status": "Late"}))
    assert (await store.read(lambda tx: tx.resources.get(JOB))).state == {"status": "Running"}


async def test_a_unit_of_work_that_raises_leaves_nothing_and_rings_no_bell(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.resources.create(JOB, {})
        raise NotFound("the other thing is missing")

    with store.changes.subscribe("resources/jobs") as bell:
        with pytest.raises(NotFound):
            await store.write(work)
        assert not await bell.wait(timedelta(0))
    assert await store.read(lambda tx: tx.resources.find(JOB)) is None


async def test_reading_cannot_write(store: Store) -> None:
    with pytest.raises(Unavailable):
        await store.read(lambda tx: tx.resources.create(JOB, {}))


async def test_counters_survive_writers_that_meet(store: Store) -> None:
    await store.write(lambda tx: tx.resources.create(JOB, {"n": 0}))

    def add(tx: Transaction) -> None:
        seen = tx.resources.get(JOB)
        tx.resources.update(seen, body={"n": seen.body["n"] + 1})

    await asyncio.gather(*(store.write(add) for _ in range(12)))
    assert (await store.read(lambda tx: tx.resources.get(JOB))).body == {"n": 12}


async def test_many_who_look_at_a_collection_and_add_to_it_all_succeed(store: Store) -> None:
    def add(tx: Transaction) -> None:
        taken = tx.resources.names(W, "jobs")
        tx.resources.create(ResourceKey(W, "jobs", f"j{len(taken)}"), {"among": len(taken)})

    await asyncio.gather(*(store.write(add) for _ in range(40)))
    assert len(await store.read(lambda tx: tx.resources.names(W, "jobs"))) == 40


async def test_desired_objects_get_growing_revisions_and_deletions_are_remembered_until_pruned(store: Store, clock: SetClock) -> None:
    await store.write(lambda tx: tx.clusters.put("c1", "/subscriptions/s/C", {}))
    first = await store.write(lambda tx: tx.desired.apply("c1", POD, {"spec": 1}, OWNER))
    assert await store.write(lambda tx: tx.desired.apply("c1", POD, {"spec": 1}, OWNER)) == first
    second = await store.write(lambda tx: tx.desired.apply("c1", POD, {"spec": 2}, OWNER))
    third = await store.write(lambda tx: tx.desired.remove("c1", POD))
    assert third is not None and first < second < third
    assert await store.write(lambda tx: tx.desired.remove("c1", POD)) is None
    since = await store.read(lambda tx: tx.desired.since("c1", first))
    assert [(each.revision, each.object, each.owner) for each in since] == [(third, None, OWNER)]
    assert await store.read(lambda tx: tx.desired.all("c1")) == []
    assert [each.name for each in await store.read(lambda tx: tx.desired.of_owner(JOB))] == [POD]

    clock.time += timedelta(days=8)
    assert await store.write(lambda tx: tx.desired.prune("c1", timedelta(days=7))) == 1
    assert (await store.read(lambda tx: tx.clusters.get("c1"))).floor == third
    with pytest.raises(NotFound, match="not registered"):
        await store.write(lambda tx: tx.desired.apply("nowhere", POD, {}, OWNER))


@pytest.mark.parametrize("name", ["Default", "Ärger-Ω"])
async def test_what_a_resource_wants_is_found_in_whatever_case_its_workspace_is_written(store: Store, name: str) -> None:
    workspace, namesakes = Workspace("S", "rg", name), [Workspace("s", "rg", "other"), Workspace("s", "rg2", name)]
    keys = [("jobs", "x", ""), ("jobs", "y", ""), ("onlineEndpoints/deployments", "x", "e"), ("onlineEndpoints/deployments", "x", "f")]

    def fill(tx: Transaction) -> None:
        for cluster in ("c1", "c2"):
            tx.clusters.put(cluster, f"/subscriptions/s/{cluster}", {})
            for number, (each, key) in enumerate((each, key) for each in (workspace, *namesakes) for key in keys):
                tx.desired.apply(cluster, ObjectName("K", "default", f"n{number}"), {}, DesiredOwner(each, *key))

    await store.write(fill)
    for spelled in (workspace, Workspace("s", "RG", name.replace("Default", "dEFAULT").replace("rger", "RGER"))):
        for number, key in enumerate(keys):
            asked = ResourceKey(spelled, *key)
            held = await store.read(lambda tx, asked=asked: tx.desired.of_owner(asked))  # type: ignore[misc]
            assert sorted((each.cluster, each.name.name) for each in held) == [("c1", f"n{number}"), ("c2", f"n{number}")]


async def test_who_wants_something_and_in_which_state_they_are_is_told_without_the_rest(store: Store) -> None:
    other = Workspace("s", "rg", "Other")
    keys = [
        *(ResourceKey(W, "jobs", f"j{number}") for number in range(1200)),
        ResourceKey(other, "jobs", "j1"),
        ResourceKey(W, "ends", "b", "e"),
    ]

    def fill(tx: Transaction) -> None:
        for cluster in ("c1", "c2"):
            tx.clusters.put(cluster, f"/subscriptions/s/{cluster}", {})
        for number, key in enumerate(keys):
            tx.resources.create(key, {}, state={"n": number})
            if number % 300 < 2:
                tx.desired.apply("c1", name_of(key), {"spec": number}, DesiredOwner(key.workspace, key.type, key.name, key.parent))
        tx.desired.apply("c2", name_of(keys[2]), {}, OWNER)
        tx.desired.remove("c1", name_of(keys[300]))

    def name_of(key: ResourceKey) -> ObjectName:
        return ObjectName("K", key.workspace.name, key.name)

    await store.write(fill)
    owners = await store.read(lambda tx: tx.desired.owners("c1", "jobs"))
    assert [(name, owner.key) for name, owner in owners] == [(name_of(keys[at]), keys[at]) for at in (0, 1, 301, 600, 601, 900, 901, 1200)]
    assert [name for name, _ in await store.read(lambda tx: tx.desired.owners("c1", "ends"))] == [name_of(keys[1201])]
    missing, spelled = ResourceKey(W, "jobs", "none"), ResourceKey(Workspace("S", "RG", "OTHER"), "jobs", "j1")
    states = await store.read(lambda tx: tx.resources.states([*keys, keys[0], missing, spelled]))
    assert states == {**{key: {"n": number} for number, key in enumerate(keys)}, spelled: {"n": 1200}}
    assert await store.read(lambda tx: tx.resources.states([])) == {}


async def test_what_grows_without_end_is_read_by_an_index_and_in_its_order(store: Store) -> None:
    """Explained by the database itself, for the statements as they are run."""

    def explained(tx: Transaction, ask: Callable[[], object]) -> str:
        told: list[str] = []

        def note(connection: sa.Connection, cursor: object, statement: str, parameters: Any, context: object, many: bool) -> None:
            if statement.startswith("SELECT"):
                told.append("")
                prefix = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
                with closing(connection.connection.cursor()) as explaining:
                    explaining.execute(prefix + statement, parameters)
                    told[-1] = " ".join(str(row) for row in explaining.fetchall())

        sa.event.listen(tx.connection, "before_cursor_execute", note)
        ask()
        sa.event.remove(tx.connection, "before_cursor_execute", note)
        assert len(told) == 1
        return told[0]

    def look(tx: Transaction) -> list[str]:
        if tx.connection.dialect.name == "postgresql":
            # It reads small tables whole, whatever indexes there are; which way it takes through large ones its statistics decide.
            tx.connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
            tx.connection.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
            return [explained(tx, lambda: tx.desired.of_owner(JOB))]
        asked: list[Callable[[], object]] = [
            lambda: tx.desired.of_owner(JOB),
            lambda: tx.resources.list(W, "jobs", newest_first=True, archived=False, limit=11),
            lambda: tx.resources.list(W, "jobs", newest_first=True, archived=False, after=7, limit=11),
            lambda: tx.resources.list(W, "models", lookup="", archived=False, after=7, limit=11),
            lambda: tx.resources.list(W, "models/versions", parent="m", archived=False, newest_first=True, limit=1),
            lambda: tx.resources.names(W, "models/versions", parent="m"),
        ]
        return [explained(tx, each) for each in asked]

    first, *others = await store.read(look)
    assert "ix_desired_owner" in first
    for plan in others:
        assert "ix_resources_listed" in plan and "SORT" not in plan.upper() and "TEMP B-TREE" not in plan, plan


async def test_a_forgotten_cluster_takes_everything_of_it_along(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        tx.clusters.put("c1", "/subscriptions/s/C", {})
        tx.desired.apply("c1", POD, {}, OWNER)
        tx.reports.put_status("c1", POD, uid="u", generation=1, status={}, logs_complete=False)
        tx.reports.set_log_size("c1", POD, "user_logs/std_log.txt", 10)
        tx.reports.put_event(ClusterEvent("c1", POD, "u", "Pod/x", "Normal", "Pulled", "m", 1, tx.now))

    await store.write(fill)
    assert await store.write(lambda tx: tx.clusters.delete("c1"))
    assert await store.read(lambda tx: (tx.desired.since("c1", 0), tx.reports.status("c1", POD), tx.reports.events("c1", POD))) == (
        [],
        None,
        [],
    )
    assert await store.read(lambda tx: tx.reports.log_sizes("c1", POD)) == {}


async def test_a_report_batch_is_accepted_once_per_agent_life(store: Store) -> None:
    await store.write(lambda tx: tx.clusters.put("c1", "/subscriptions/s/C", {}))
    accepted = [
        await store.write(lambda tx, b=batch: tx.clusters.accept_batch("c1", *b)) for batch in (("a", 1), ("a", 1), ("a", 2), ("b", 1))
    ]
    assert accepted == [True, False, True, True]


async def test_repeated_events_are_one_and_old_ones_make_room(store: Store, clock: SetClock) -> None:
    await store.write(lambda tx: tx.clusters.put("c1", "/subscriptions/s/C", {}))

    def report(tx: Transaction) -> None:
        for number in range(105):
            tx.reports.put_event(ClusterEvent("c1", POD, "u", "Pod/x", "Warning", "FailedScheduling", f"0/2 nodes {number}", 1, tx.now))
        tx.reports.put_event(ClusterEvent("c1", POD, "u", "Pod/x", "Warning", "FailedScheduling", "0/2 nodes 104", 7, tx.now))

    await store.write(report)
    events = await store.read(lambda tx: tx.reports.events("c1", POD))
    assert (len(events), events[-1].count, events[0].message) == (100, 7, "0/2 nodes 5")


async def test_an_operation_stays_and_ends_once(store: Store) -> None:
    operation = await store.write(lambda tx: tx.operations.start(W, JOB.id, "create"))
    assert [each.id for each in await store.read(lambda tx: tx.operations.running(JOB.id.upper()))] == [operation.id]
    assert await store.write(lambda tx: tx.operations.fail(JOB.id, "ComputeNotFound", "there is none")) == 1
    assert await store.write(lambda tx: tx.operations.succeed(JOB.id)) == 0
    ended = await store.read(lambda tx: tx.operations.get(operation.id))
    assert (ended.status, ended.error_code) == (OperationStatus.FAILED, "ComputeNotFound")


async def test_a_lease_has_one_owner_and_passes_on_with_a_new_token(store: Store, clock: SetClock) -> None:
    ten = timedelta(seconds=10)
    first = await store.write(lambda tx: tx.leases.acquire("engine", "a", ten))
    assert first is not None
    assert await store.write(lambda tx: tx.leases.acquire("engine", "b", ten)) is None
    clock.time += timedelta(seconds=9)
    await store.write(lambda tx: tx.leases.renew(first, ten))
    clock.time += timedelta(seconds=11)
    second = await store.write(lambda tx: tx.leases.acquire("engine", "b", ten))
    assert second is not None and second.token == first.token + 1
    with pytest.raises(Conflict, match="passed to another"):
        await store.write(lambda tx: tx.leases.renew(first, ten))
    await store.write(lambda tx: tx.leases.release(second))
    third = await store.write(lambda tx: tx.leases.acquire("engine", "a", ten))
    assert third is not None and third.token == second.token + 1


async def test_secrets_are_sealed_and_open_only_with_their_key_and_in_their_place(store: Store, database_url: str, clock: SetClock) -> None:
    await store.write(lambda tx: tx.secrets.put("/e/1", "primary", "s3cret"))
    assert await store.read(lambda tx: tx.secrets.find("/E/1", "primary")) == "s3cret"
    raw = await store.read(lambda tx: tx.connection.scalar(sa.text("select sealed from secrets")))
    assert raw is not None and b"s3cret" not in bytes(raw)
    await store.write(lambda tx: tx.connection.execute(sa.text("update secrets set owner='/e/2'")) and None)
    with pytest.raises(Unavailable, match="key file"):
        await store.read(lambda tx: tx.secrets.find("/e/2", "primary"))
    await store.write(lambda tx: tx.secrets.delete("/e/2"))
    assert await store.read(lambda tx: tx.secrets.find("/e/2", "primary")) is None


async def test_blocks_live_as_long_as_the_last_of_their_blob_and_what_is_claimed_is_no_blob_any_more(store: Store, clock: SetClock) -> None:
    def stage(tx: Transaction, number: int) -> None:
        tx.blobs.reserve("c", [f"o{number}"])
        tx.blobs.set_block("c", "long", f"b{number}", [Part(f"o{number}", 5)])

    await store.write(lambda tx: stage(tx, 1))
    clock.time += timedelta(hours=20)
    await store.write(lambda tx: stage(tx, 2))
    await store.write(lambda tx: tx.blobs.reserve("c", ["alone"]))
    clock.time += timedelta(hours=20)
    assert await store.write(lambda tx: tx.blobs.claim_expired()) == []
    clock.time += timedelta(hours=20)
    assert sorted(await store.write(lambda tx: tx.blobs.claim_expired())) == ["alone", "o1", "o2"]
    for name, parts in (("x", [Part("alone", 0)]), ("long", [Part("o1", 5), Part("o2", 5)])):
        with pytest.raises(Unavailable, match="Send it again"):
            await store.write(lambda tx, name=name, parts=parts: tx.blobs.commit("c", name, parts))  # type: ignore[misc]
    assert await store.read(lambda tx: tx.blobs.find("c", "long")) is None
    await store.write(lambda tx: tx.blobs.forget(["alone", "o1", "o2"]))
    assert await store.write(lambda tx: tx.blobs.claim_expired()) == []


async def test_a_commit_wakes_who_waits(store: Store) -> None:
    await store.write(lambda tx: tx.clusters.put("c1", "/subscriptions/s/C", {}))
    with store.changes.subscribe("desired/c1") as bell:
        waiting = asyncio.create_task(bell.wait(timedelta(seconds=60)))
        await store.write(lambda tx: tx.desired.apply("c1", POD, {}, OWNER))
        assert await waiting


@pytest.mark.postgres
async def test_a_database_that_went_without_a_word_is_noticed_and_the_url_has_the_last_word(postgres_url: str) -> None:
    def parameters(tx: Transaction) -> dict[str, str]:
        connection = tx.connection.connection.driver_connection
        assert connection is not None
        return dict(connection.info.get_parameters())

    store = await Store.open(f"{postgres_url}{'&' if '?' in postgres_url else '?'}keepalives_idle=7", KEY)
    try:
        for ask in (store.read, store.write):
            said = await ask(parameters)
            assert (said["keepalives_idle"], said["tcp_user_timeout"], said["connect_timeout"]) == ("7", "60000", "10")
    finally:
        await store.close()


@pytest.mark.postgres
async def test_a_commit_of_another_process_wakes_too(postgres_url: str) -> None:
    here, there = await Store.open(postgres_url, KEY), await Store.open(postgres_url, KEY)
    try:
        with here.changes.subscribe("clusters") as bell:
            await there.write(lambda tx: tx.clusters.put("c1", "/subscriptions/s/C", {}))
            assert await bell.wait(timedelta(seconds=60))
    finally:
        await here.close()
        await there.close()


async def test_two_servers_may_start_at_once(database_url: str) -> None:
    for opened in await asyncio.gather(*(Store.open(database_url, KEY) for _ in range(3))):
        await opened.close()


async def test_the_migrations_make_exactly_the_tables(store: Store) -> None:
    assert await store.read(_differences) == []


@pytest.mark.parametrize("revision", ["0001", "0002"])
async def test_a_database_of_an_earlier_version_is_brought_up_to_date_with_all_that_is_in_it(database_url: str, revision: str) -> None:
    def fill(tx: Transaction) -> tuple[object, ...]:
        tx.clusters.put("c1", "/subscriptions/s/C", {})
        job = tx.resources.create(JOB, {"a": "é"}, state={"s": 1}, lookup="x")
        tx.desired.apply("c1", POD, {"spec": 1}, OWNER)
        tx.reports.put_status("c1", POD, uid="u", generation=1, status={"phase": "Running"}, logs_complete=False)
        return job, tx.desired.of_owner(JOB), tx.reports.statuses("c1")

    engine = sa.create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    migrate(engine, revision)
    with engine.begin() as connection:
        before = fill(Transaction(connection, SealingKey(KEY), datetime(2026, 1, 1, tzinfo=UTC), "ann"))
        assert not _indexed_by_owner(connection)
    engine.dispose()
    for _ in range(2):
        opened = await Store.open(database_url, KEY)
        try:
            after = await opened.read(lambda tx: (tx.resources.get(JOB), tx.desired.of_owner(JOB), tx.reports.statuses("c1")))
            assert after == before
            assert await opened.read(lambda tx: _indexed_by_owner(tx.connection))
            assert await opened.read(_differences) == []
        finally:
            await opened.close()


def _indexed_by_owner(connection: sa.Connection) -> bool:
    return ["owner_name", "owner_parent", "owner_type"] in [each["column_names"] for each in sa.inspect(connection).get_indexes("desired")]


def _differences(tx: Transaction) -> object:
    def meant(_: object, name: str | None, __: str, reflected: bool, ___: object) -> bool:
        # SQLite's alone, which the comparison does not see.
        return reflected or name != "ix_resources_listed" or tx.connection.dialect.name == "sqlite"

    return compare_metadata(MigrationContext.configure(tx.connection, opts={"compare_type": False, "include_object": meant}), metadata)


async def test_a_schema_from_the_future_is_refused_with_advice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    await (await Store.open(url, KEY)).close()
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("update alembic_version set version_num='9999'")
    with pytest.raises(Unavailable, match="newer version"):
        await Store.open(url, KEY)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://"])
async def test_a_database_that_cannot_be_used_is_refused_with_advice(url: str) -> None:
    with pytest.raises(Unavailable):
        await Store.open(url, KEY)


_WRITER = """
import asyncio, sys
from moorage.ids import Workspace
from moorage.store import ResourceKey, Store
async def main():
    store = await Store.open(sys.argv[1], b"k" * 32)
    for number in range(100000):
        key = ResourceKey(Workspace("s", "rg", "w"), "jobs", f"j{number}")
        def work(tx):
            tx.resources.create(key, {"n": number})
            tx.resources.create(ResourceKey(key.workspace, "twins", key.name), {})
        await store.write(work)
        print(number, flush=True)
asyncio.run(main())
"""


def test_a_killed_process_loses_nothing_it_acknowledged_and_leaves_nothing_half(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'k.db'}"
    with subprocess.Popen([sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= 25:
                writer.kill()
                break
        acknowledged = max([acknowledged, *(int(rest) for rest in writer.stdout if rest.strip())])
    jobs, twins = asyncio.run(_names(url))
    assert jobs == twins
    assert len(jobs) >= acknowledged + 1


async def _names(url: str) -> tuple[list[str], list[str]]:
    store = await Store.open(url, KEY)
    workspace = Workspace("s", "rg", "w")
    jobs, twins = await store.read(lambda tx: (tx.resources.names(workspace, "jobs"), tx.resources.names(workspace, "twins")))
    await store.close()
    return list(jobs), list(twins)

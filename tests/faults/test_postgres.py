"""PostgreSQL that loses a COMMIT or its answer, dies, stalls, or is away; SQLite that is locked."""

import asyncio
import hashlib
import io
import json
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from file_service.core.upkeep import PERIOD_SECONDS
from tests.faults.harness import (
    IS_THOROUGH,
    TIMEOUT,
    Ledger,
    Load,
    Place,
    audit,
    find_violations,
    report,
    wait_until_settled,
)
from tests.faults.own_postgres import OwnPostgres, own_postgres
from tests.faults.wire_proxy import Doom, WireProxy
from tests.processes import ServiceProcess

LOSSES = 500 if IS_THOROUGH else 8
RESTARTS = 20 if IS_THOROUGH else 2
TERMINATING_SECONDS = 20.0 if IS_THOROUGH else 2.0
SLOW_CLIENTS = 30
LOCKED_OUT = 20 if IS_THOROUGH else 4

# The service waits 10 s for any statement, 3 s for a check, and then 2 s for its connection to
# close; the rest is for a busy machine.
STATEMENT_BOUND = 14.0
CHECK_BOUND = 7.0
RECOVERY_BOUND = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    with own_postgres() as server:
        # No power is cut here, and what a process wrote before it was killed is there.
        server.execute("ALTER SYSTEM SET fsync = off")
        server.execute("SELECT pg_reload_conf()")
        yield server


@dataclass
class Scene:
    """A service on a database of its own, reached over a wire that can be cut."""

    service: ServiceProcess
    wire: WireProxy
    place: Place  # what is beside the wire
    session: aiohttp.ClientSession
    database: str
    ledger: Ledger

    async def upload(self, body: bytes) -> str:
        """Upload a file that must be taken."""
        async with self.session.post("/files/", data=io.BytesIO(body)) as answer:
            text = await answer.text()
            assert answer.status == 201, text
        self.ledger.uploaded[text] = hashlib.sha256(body).hexdigest()
        return text

    async def check(self, seed: int = 0) -> None:
        """Nothing was lost and nothing is left; this service settles it, without a restart."""
        if not IS_THOROUGH:  # there is no time to wait for the next round: have it now
            await lose(self, "lose_reply", random.Random(seed))
        await wait_until_settled(self.place)
        assert await find_violations(self.service.url, self.ledger) == [], f"seed {seed}"
        assert await asyncio.to_thread(asyncio.run, audit(self.place)) == [], f"seed {seed}"
        traces = [line["traceback"] for line in self.service.lines if "traceback" in line]
        assert {trace.strip().splitlines()[-1] for trace in traces} == set(), f"seed {seed}"


@asynccontextmanager
async def on_stage(server: OwnPostgres, folder: Path) -> AsyncIterator[Scene]:
    """Start a service behind a wire."""
    folder.mkdir(exist_ok=True)
    database = await asyncio.to_thread(server.make_database)
    place = Place(folder, server.url(database))
    async with (
        WireProxy(server.host, server.port) as wire,
        Place(folder, wire.url(database)).serving() as service,
        aiohttp.ClientSession(
            service.url, timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0)
        ) as session,
    ):
        yield Scene(service, wire, place, session, database, Ledger())


@pytest.fixture
async def scene(server: OwnPostgres, folder: Path) -> AsyncIterator[Scene]:
    async with on_stage(server, folder) as scene:
        yield scene


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, seconds: float) -> float:
    """Wait until `condition` holds and return how long that took."""
    started = time.monotonic()
    while not await condition():
        assert time.monotonic() - started < seconds, f"in vain for {seconds} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def status_of(session: aiohttp.ClientSession, path: str, method: str = "GET") -> int:
    path = "/files/" if method == "POST" else path
    async with session.request(method, path) as answer:
        await answer.read()
        return answer.status


async def is_ready(session: aiohttp.ClientSession) -> bool:
    return await status_of(session, "/readyz") == 200


# ── a COMMIT without an answer ──


@dataclass
class Doubtful:
    """An upload whose COMMIT is doomed: some files of one request."""

    marker: str
    bodies: dict[str, bytes]

    @classmethod
    def draw(cls, chance: random.Random) -> "Doubtful":
        marker = f"doomed-{chance.getrandbits(64):016x}"
        names = [f"{marker}-{number}" for number in range(chance.choice([1, 3]))]
        return cls(marker, {name: chance.randbytes(chance.randrange(90_000)) for name in names})

    async def send(self, session: aiohttp.ClientSession) -> str:
        """Upload it, see that the service says what it does not know, and return the id it says."""
        if len(self.bodies) == 1:
            ((name, body),) = self.bodies.items()
            request = session.post("/files/", data=body, params={"filename": name})
        else:
            form = aiohttp.FormData()
            for name, body in self.bodies.items():
                form.add_field("file", body, filename=name)
            request = session.post("/files/", data=form)
        async with request as answer:
            problem = json.loads(await answer.read())
            assert answer.status == 503, problem
            assert answer.content_type == "application/problem+json"
            assert answer.headers["Retry-After"]
        assert problem["outcome"] == "unknown", problem
        return str(problem["id"])

    async def rows(self, place: Place) -> dict[str, str]:
        """Names and ids of its files that exist."""
        query = f"SELECT name || '|' || id FROM file WHERE name LIKE '{self.marker}%'"
        pairs = [row.split("|") for row in await place.column(query + " AND state = 'ready'")]
        return {pair[0]: pair[1] for pair in pairs}

    async def enter(self, scene: Scene, told: str) -> None:
        """See that all of it exists, under the id that was told, and have the ledger know it."""
        rows = await self.rows(scene.place)
        assert set(rows) == set(self.bodies), f"{self.marker}: {rows}"
        assert told == rows[next(iter(self.bodies))], f"{self.marker}: another id was told"
        for name, key in rows.items():
            scene.ledger.uploaded[key] = hashlib.sha256(self.bodies[name]).hexdigest()


async def lose(scene: Scene, how: Doom, chance: random.Random) -> None:
    """Lose one COMMIT or its answer, and ask for the id that is told, at once and later."""
    doubtful = Doubtful.draw(chance)
    scene.wire.doom(doubtful.marker, how)
    told = await doubtful.send(scene.session)
    wanted = 200 if how == "lose_reply" else 404
    asked = await status_of(scene.session, f"/files/{told}/")
    assert asked in {wanted, 503}, "right after the answer"
    if how == "lose_reply":
        await doubtful.enter(scene, told)
    else:
        assert await doubtful.rows(scene.place) == {}
        scene.ledger.uploaded[told] = ""
        scene.ledger.deleted.add(told)  # nothing of it may ever be there


@pytest.mark.timeout(900)
async def test_an_upload_whose_commit_or_its_answer_is_lost_is_whole_or_absent(
    scene: Scene, seed: int
) -> None:
    chance, settled = random.Random(seed), 0.0
    await scene.upload(b"a file that nothing happens to")
    ways: list[Doom] = ["lose_commit", "lose_reply"]
    for how in ways:
        for _ in range(LOSSES // 4):
            await asyncio.gather(*(lose(scene, how, chance) for _ in range(4)))
        # Sooner than the next round: what is in doubt is settled when it comes to be.
        wait = eventually(
            lambda: _is(not scene.place.names("staging")), f"no stage, {seed}", PERIOD_SECONDS - 5
        )
        settled = max(settled, await wait)
    assert scene.wire.losses == LOSSES // 4 * 8
    await scene.check(seed)
    count = len(await scene.place.column("SELECT id FROM file WHERE state = 'ready'"))
    assert count == len(set(scene.ledger.uploaded) - scene.ledger.deleted), f"seed {seed}"
    report(
        "COMMIT or its answer lost",
        uploads=scene.wire.losses,
        files=count,
        ms_to_settle=int(settled * 1000),
    )


async def _is(value: bool) -> bool:
    return value


async def hold(scene: Scene, chance: random.Random, *, is_lost: bool) -> list[int]:
    """Hold a COMMIT back until its upload was given up, then let it go, or lose it.

    Returns what was answered for its id while nobody could know, and afterwards.
    """
    doubtful = Doubtful.draw(chance)
    scene.wire.doom(doubtful.marker, "delay")
    started = time.monotonic()
    told = await doubtful.send(scene.session)
    assert time.monotonic() - started < STATEMENT_BOUND
    asked = [await status_of(scene.session, f"/files/{told}/")]
    await wait_for_fence(scene)
    assert told in scene.place.names("staging"), "deleted on a guess"
    await asyncio.wait_for(scene.upload(b"while the fence waits"), 2)
    scene.wire.release(doubtful.marker, is_lost=is_lost)
    await eventually(lambda: _is(not scene.place.names("staging")), "the end of doubt", 45)
    asked.append(await status_of(scene.session, f"/files/{told}/"))
    if is_lost:
        assert await doubtful.rows(scene.place) == {}
        assert asked[-1] == 404, asked
    else:
        await doubtful.enter(scene, told)
        assert asked[-1] == 200
    return asked


async def wait_for_fence(scene: Scene) -> None:
    """Wait until a session waits for a transaction in doubt to end."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    query += f" AND datname = '{scene.database}'"

    async def is_waiting() -> bool:
        return bool(await scene.place.column(query))

    await eventually(is_waiting, "the resolver's wait for the transaction in doubt", 5)


async def keep_working(scene: Scene, until: "asyncio.Task[Any]") -> int:
    """Upload and ask again and again; each must be quick whatever happens to others."""
    uploads = 0
    while not until.done():
        key = await asyncio.wait_for(scene.upload(b"beside" * 1000), 3)
        assert await asyncio.wait_for(status_of(scene.session, f"/files/{key}/"), 3) == 200
        uploads += 1
        await asyncio.sleep(0.2)
    return uploads


async def doubt(server: OwnPostgres, folder: Path, seed: int, *, is_lost: bool) -> list[int]:
    """Have one transaction in doubt, and others who must not mind."""
    async with on_stage(server, folder) as scene:
        holding = asyncio.create_task(hold(scene, random.Random(seed), is_lost=is_lost))
        beside = await keep_working(scene, holding)
        asked = await holding
        await scene.check(seed)
        report("a COMMIT held back for 10 s", others_meanwhile=beside)
        return asked


# ── PostgreSQL dies ──


@pytest.mark.timeout(900)
async def test_nothing_acknowledged_is_lost_when_postgres_is_killed_under_load(
    server: OwnPostgres, scene: Scene, seed: int
) -> None:
    chance, back = random.Random(seed), 0.0
    for cycle in range(RESTARTS):
        load = Load(scene.service.url, scene.ledger, seed=seed + cycle).run(seconds=1.5)
        loading = asyncio.create_task(load)
        await asyncio.sleep(chance.uniform(0.3, 1.0))
        await asyncio.to_thread(server.restart)
        back = max(back, await eventually(lambda: is_ready(scene.session), "ready", 5))
        await loading
    await scene.upload(b"afterwards, without a restart of the service")
    await scene.check(seed)
    report(
        "PostgreSQL killed",
        cycles=RESTARTS,
        uploads=len(scene.ledger.uploaded),
        deletes=len(scene.ledger.deleted),
        ms_until_ready=int(back * 1000),
    )


TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.mark.timeout(300)
async def test_nothing_acknowledged_is_lost_when_sessions_are_ended_again_and_again(
    scene: Scene, seed: int
) -> None:
    load = Load(scene.service.url, scene.ledger, seed=seed).run(seconds=TERMINATING_SECONDS)
    loading, ended = asyncio.create_task(load), 0
    while not loading.done():
        ended += sum(await scene.place.column(TERMINATE))
        await asyncio.sleep(0.2)
    await loading
    assert ended, "no session was ended: the test proved nothing"
    await eventually(lambda: is_ready(scene.session), "ready", RECOVERY_BOUND)
    await scene.check(seed)
    await eventually(lambda: has_no_more_than(scene, 10), "as many sessions as the pool keeps", 10)
    report("sessions ended", sessions=ended, uploads=len(scene.ledger.uploaded))


async def has_no_more_than(scene: Scene, most: int) -> bool:
    return len(await sessions_of(scene)) <= most


async def sessions_of(scene: Scene, condition: str = "true") -> list[Any]:
    query = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    return await scene.place.column(f"{query} AND datname = '{scene.database}' AND {condition}")


# ── PostgreSQL does not answer ──


async def send_head(url: str) -> tuple[bytes, float]:
    """Send the head of an upload and nothing more; return the answer, and how long it took."""
    started, address = time.monotonic(), urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    try:
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), STATEMENT_BOUND)
        return answer, time.monotonic() - started
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def check_away(scene: Scene, key: str) -> int:
    """The database does not answer: what the service says, and how soon."""
    session = scene.session
    reasons = await ask_timed(session, "GET", "/readyz", 503, CHECK_BOUND)
    assert "catalogue" in reasons
    heads = [send_head(scene.service.url) for _ in range(25)]
    asked = [
        ask_timed(session, "GET", f"/files/{key}/", 503, STATEMENT_BOUND),
        ask_timed(session, "GET", f"/files/{key}/info", 503, STATEMENT_BOUND),
        ask_timed(session, "DELETE", f"/files/{key}/", 503, STATEMENT_BOUND),
    ]
    asking = [asyncio.create_task(each) for each in asked]
    alive = [ask_timed(session, "GET", "/healthz", 200, 1.0) for _ in range(5)]
    scene.ledger.doubtful.add(key)  # the DELETE above may have its effect yet
    answers = await asyncio.gather(*heads)
    for answer, seconds in answers:
        assert answer.startswith(b"HTTP/1.1 503 "), answer
        assert b"\r\nRetry-After: " in answer
        assert seconds < CHECK_BOUND, f"refused only after {seconds:.1f} s"
    await asyncio.gather(*asking, *alive)
    return len(answers)


async def ask_timed(
    session: aiohttp.ClientSession, method: str, path: str, status: int, bound: float
) -> str:
    started = time.monotonic()
    async with session.request(method, path) as answer:
        text = await answer.text()
    took = time.monotonic() - started
    assert answer.status == status, f"{method} {path}: {answer.status} {text}"
    assert took < bound, f"{method} {path} was answered only after {took:.1f} s"
    return text


async def check_back(scene: Scene) -> float:
    """The database answers again: so does the service, without a restart."""
    back = await eventually(lambda: is_ready(scene.session), "ready", RECOVERY_BOUND)
    await scene.upload(os.urandom(50_000))
    await scene.check()
    return back


@pytest.mark.timeout(120)
async def test_postgres_that_is_away_is_a_503_and_is_back_without_a_restart(scene: Scene) -> None:
    key = await scene.upload(b"a file")
    await scene.wire.refuse()
    refused = await check_away(scene, key)
    await scene.wire.forward()
    back = await check_back(scene)
    report("PostgreSQL away", uploads_refused=refused, ms_until_ready=int(back * 1000))


# What a database says that is there and does not let us work.
REFUSALS = {
    "lets nobody in": (
        "ALTER DATABASE {} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {} ALLOW_CONNECTIONS true",
    ),
    "is read-only": (
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        "ALTER DATABASE {} RESET default_transaction_read_only",
    ),
    "has another name": (
        "ALTER DATABASE {} RENAME TO {}_away",
        "ALTER DATABASE {}_away RENAME TO {}",
    ),
}


async def refuse(server: OwnPostgres, scene: Scene, key: str, what: str) -> list[int]:
    """Have the database refuse to work; return what the service answers meanwhile."""
    begin, end = (statement.format(*[scene.database] * 2) for statement in REFUSALS[what])
    cut = TERMINATE.replace("current_database()", f"'{scene.database}'")
    for statement in ("SELECT 1", cut, begin):
        await asyncio.to_thread(server.execute, statement)
    methods = ("POST", "GET", "DELETE", "GET", "POST")
    statuses = [await status_of(scene.session, f"/files/{key}/", each) for each in methods]
    for statement in (cut.replace(scene.database, f"{scene.database}_away"), cut, end):
        await asyncio.to_thread(server.execute, statement)
    return statuses


@pytest.mark.timeout(120)
async def test_postgres_that_refuses_to_work_is_a_503_and_is_back_without_a_restart(
    server: OwnPostgres, scene: Scene
) -> None:
    key = await scene.upload(b"a file")
    told = {what: await refuse(server, scene, key, what) for what in REFUSALS}
    for what, (upload, *others, again) in told.items():
        assert upload == again == others[1] == 503, f"it {what}: {told}"
        assert set(others) <= {200, 503}, f"it {what}: {told}"
    await check_back(scene)
    report("PostgreSQL refuses", ways=len(REFUSALS), requests=5 * len(REFUSALS))


async def vanish(scene: Scene) -> None:
    """Have the database swallow everything for a while."""
    key = await scene.upload(b"a file")
    scene.wire.blackhole()
    await check_away(scene, key)
    await scene.wire.forward()
    await check_back(scene)


async def lock(server: OwnPostgres, scene: Scene) -> None:
    """Lock the table for longer than anybody waits."""
    key = await scene.upload(b"a file")
    other = await server.connect(scene.database)
    await other.execute("BEGIN; LOCK TABLE file IN ACCESS EXCLUSIVE MODE")
    asked = [
        ask_timed(scene.session, method, path, 503, STATEMENT_BOUND)
        for method, path in [("POST", "/files/"), ("GET", f"/files/{key}/")]
        for _ in range(SLOW_CLIENTS // 2)
    ]
    alive = [ask_timed(scene.session, "GET", "/healthz", 200, 1.0) for _ in range(5)]
    await asyncio.gather(*asked, *alive)
    waiting = [asyncio.create_task(scene.upload(b"patient")) for _ in range(5)]
    await eventually(lambda: _are_locked(scene, 5), "five who wait", 5)
    await other.execute("ROLLBACK")
    await other.close()
    await asyncio.gather(*waiting)
    await check_back(scene)
    await eventually(lambda: has_no_more_than(scene, 20), "no more sessions than before", 10)


async def _are_locked(scene: Scene, count: int) -> bool:
    return len(await sessions_of(scene, "wait_event_type = 'Lock'")) >= count


@pytest.mark.timeout(300)
async def test_waiting_for_postgres_ends_within_a_bound_and_blocks_nobody(
    server: OwnPostgres, tmp_path: Path, seed: int
) -> None:
    async with (
        on_stage(server, tmp_path / "vanished") as first,
        on_stage(server, tmp_path / "locked") as second,
    ):
        # All at once: what takes long is the waiting.
        asked, *_ = await asyncio.gather(
            doubt(server, tmp_path / "late", seed, is_lost=False),
            doubt(server, tmp_path / "lost", seed, is_lost=True),
            vanish(first),
            lock(server, second),
        )
    report("PostgreSQL without an answer", ways=4)
    # Who asks for the id, as it is told to, must not hear "no" of what then becomes "yes".
    assert asked in ([503, 200], [200, 200]), f"while in doubt and afterwards: {asked}, seed {seed}"


@pytest.mark.timeout(120)
async def test_postgres_that_is_paused_is_a_503_within_a_bound(
    server: OwnPostgres, scene: Scene
) -> None:
    if not IS_THOROUGH:
        pytest.skip("to the service this is what a wire that swallows everything is, tried above")
    key = await scene.upload(b"a file")
    server.pause()
    try:
        refused = await check_away(scene, key)
    finally:
        server.resume()
    await check_back(scene)
    report("PostgreSQL paused", uploads_refused=refused)


# ── nobody has a connection for longer than a statement ──


@pytest.mark.timeout(120)
async def test_no_session_is_held_while_bodies_stream(scene: Scene) -> None:
    large = await scene.upload(os.urandom(8_000_000))
    finish = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        await finish.wait()
        yield b"the end"

    async def upload(number: int) -> None:
        async with scene.session.post("/files/", data=slowly()) as answer:
            assert answer.status == 201, f"{number}: {await answer.text()}"

    uploads = [asyncio.create_task(upload(number)) for number in range(SLOW_CLIENTS)]
    downloads = [await scene.session.get(f"/files/{large}/") for _ in range(SLOW_CLIENTS)]
    staged = lambda: _is(len(scene.place.names("staging")) == SLOW_CLIENTS)  # noqa: E731
    await eventually(staged, "all uploads on their way", 20)
    await eventually(lambda: _is_idle(scene), "sessions that do nothing", 5)
    for _ in range(20):
        assert await _is_idle(scene), await sessions_of(scene, "state <> 'idle'")
        assert await asyncio.wait_for(status_of(scene.session, f"/files/{large}/info"), 1) == 200
    finish.set()
    await asyncio.gather(*uploads)
    bodies = await asyncio.gather(*(answer.read() for answer in downloads))
    assert {len(body) for body in bodies} == {8_000_000}
    await scene.check()
    report("slow bodies", uploads=len(uploads), downloads=len(bodies))


async def _is_idle(scene: Scene) -> bool:
    return not await sessions_of(scene, "state <> 'idle'")


RISKS = ("fsync", "synchronous_commit", "full_page_writes")


def test_settings_that_lose_what_was_acknowledged_are_told_at_start(
    server: OwnPostgres, folder: Path
) -> None:
    place = Place(folder, server.url(server.make_database()))

    async def start() -> list[str]:
        async with place.serving() as service:
            return [line["message"] for line in service.lines if line["level"] == "warning"]

    def start_with(value: str) -> list[str]:
        for setting in RISKS:
            server.execute(f"ALTER SYSTEM SET {setting} = {value}")
        server.execute("SELECT pg_reload_conf()")
        return asyncio.run(start())

    assert start_with("on") == []
    told = start_with("off")
    for setting in RISKS:
        assert any(f"{setting}=off" in line for line in told), told
    report("risky settings", told=len(told))


# ── SQLite ──


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_catalogue_locked_by_another_process_is_a_503_within_a_bound(
    database_url: str, folder: Path
) -> None:
    place, ledger = Place(folder, database_url), Ledger()
    async with (
        place.serving() as service,
        aiohttp.ClientSession(service.url, timeout=TIMEOUT) as session,
    ):
        await Load(service.url, ledger, seed=0).run(seconds=0.3)
        key = next(iter(ledger.living))
        other = sqlite3.connect(database_url.partition(":///")[2], isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        asked = [
            ask_timed(session, "POST", "/files/", 503, STATEMENT_BOUND) for _ in range(LOCKED_OUT)
        ]
        asked.append(ask_timed(session, "DELETE", f"/files/{key}/", 503, STATEMENT_BOUND))
        asked += [ask_timed(session, "GET", "/healthz", 200, 1.0) for _ in range(5)]
        await asyncio.gather(*asked)
        assert await status_of(session, f"/files/{key}/") == 200
        other.close()
        await Load(service.url, ledger, seed=1).run(seconds=0.3)
        await eventually(lambda: is_ready(session), "ready", RECOVERY_BOUND)
        await wait_until_settled(place)
        assert await find_violations(service.url, ledger) == []
    assert await audit(place) == []
    report("SQLite locked", refused=len(asked), uploads=len(ledger.uploaded))

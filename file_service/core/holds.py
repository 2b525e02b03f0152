"""Holds: one request at a time works on an upload, and a newer one takes it from a stalled one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import IntEnum
from typing import Any, TypeVar

from file_service.blobs.store import BlobStore, Grip
from file_service.catalogue.uploads import UploadRows
from file_service.errors import FileServiceError, UploadBusy, UploadNotFound
from file_service.models import Chunk, Stream, Upload
from file_service.tasks import to_its_end

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# A client that has sent nothing for so long is not waited for when somebody else wants its upload.
STALLED_SECONDS = 0.1

# How long a request waits for the one before it.
PATIENCE_SECONDS = 5.0

# How often holders look whether a request to another process wants what they hold; and how often
# that request looks whether it can have it.
LOOK_SECONDS = 0.5
RETRY_SECONDS = 0.05


class Wish(IntEnum):
    """What a request wants of the one that holds its upload."""

    NOTHING = 0
    IF_STALLED = 1  # to end where its client has fallen silent
    AT_ONCE = 2  # to end, with what has arrived


class Hold:
    """An upload in the hands of one request; once it `is_wanted`, it ends and keeps what arrived.

    Where it `keeps`, it stays held for a moment after the request: the next one mostly follows.
    """

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.is_wanted = False
        self.keeps = False
        self.is_idle = False  # kept, and in the hands of no request
        self.timer: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()
        self._nudge: Callable[[], None] | None = None
        self._silent_since: float | None = None

    def want(self, wish: Wish) -> None:
        """Have the holder end, where the wish applies to it."""
        if wish is Wish.AT_ONCE or (wish is Wish.IF_STALLED and self._is_stalled()):
            self._end()

    def _end(self) -> None:
        self.is_wanted = True
        self.nudge()

    def nudge(self) -> None:
        """Have what has arrived for this upload come at once, if a request is at work on it."""
        if self._nudge is not None:
            self._nudge()

    def _is_stalled(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._silent_since is not None and now - self._silent_since >= STALLED_SECONDS

    async def listen(self, chunks: AsyncIterator[Chunk]) -> Chunk:
        """Return the client's next chunk; meanwhile it passes for silent."""
        self._silent_since = asyncio.get_running_loop().time()
        try:
            return await anext(chunks)
        finally:
            self._silent_since = None

    async def run(self, work: Coroutine[Any, Any, Result], stream: Stream) -> Result:
        """Run `work`, which reads `stream` and ends soon after it is wanted; never cut it off."""
        task = asyncio.ensure_future(work)
        self._nudge = stream.nudge
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._end()
            with suppress(FileServiceError):
                await to_its_end(task)
            raise
        finally:
            self._nudge = None


class Holds:
    """The holds of this process, and the way to those of others.

    The lock on the stage tells who holds an upload; the row tells holders elsewhere that they are
    wanted; the fence in the row makes void what a holder that lost its lock still does.
    `keep_seconds` is for a process that has no others beside it: they would have to wait.
    """

    def __init__(self, store: BlobStore, rows: UploadRows, *, keep_seconds: float = 0.0) -> None:
        self._store = store
        self._rows = rows
        self._keep_seconds = keep_seconds
        self._holds: dict[str, Hold] = {}
        self._comers: dict[str, set[asyncio.Event]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._cooling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def hold(self, upload_id: str, wish: Wish) -> AsyncIterator[Hold]:
        """Hold an open upload for the block, its stage cut to the offset.

        UploadBusy where another request does not let go, UploadNotFound where it is not open.
        """
        hold = await self._take(upload_id, wish)
        try:
            yield hold
        except BaseException:
            hold.keeps = False
            raise
        finally:
            if not self._put_down(hold):
                await to_its_end(self._let_go(hold))

    @contextmanager
    def coming(self, upload_id: str) -> Iterator[None]:
        """Mark a request that will change an upload, from before it looks at it."""
        ended = asyncio.Event()
        comers = self._comers.setdefault(upload_id, set())
        comers.add(ended)
        try:
            yield
        finally:
            ended.set()
            comers.discard(ended)
            if not comers:
                self._comers.pop(upload_id, None)

    async def end_comers(self, upload_id: str) -> bool:
        """Have the requests that are coming end; return whether there was any. UploadBusy."""
        comers = list(self._comers.get(upload_id, ()))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        for ended in comers:
            while not ended.is_set():
                if loop.time() > deadline:
                    raise UploadBusy("Another request is at work on this upload.")
                if hold := self._holds.get(upload_id):
                    hold.want(Wish.AT_ONCE)
                await _wait_briefly(ended)
        return bool(comers)

    def find_idle(self, upload_id: str) -> Upload | None:
        """Return an upload that is kept: nobody else can have changed it."""
        hold = self._holds.get(upload_id)
        return hold.upload if hold is not None and hold.is_idle else None

    async def close(self) -> None:
        """Let go of what is kept."""
        for hold in [each for each in self._holds.values() if each.is_idle]:
            await self._cool(hold)

    async def _claim(self, upload_id: str, grip: Grip) -> Hold:
        try:
            hold = Hold(await self._rows.claim(upload_id))
            await self._store.truncate(upload_id, hold.upload.offset)
        except UploadNotFound:
            await to_its_end(self._leave(upload_id, grip))
            raise
        except BaseException:
            await to_its_end(self._store.release(upload_id))
            raise
        self._holds[upload_id] = hold
        self._watch()
        return hold

    async def _leave(self, upload_id: str, grip: Grip) -> None:
        """Let go of the stage of what is not open; one that was made for nothing goes."""
        if grip is Grip.MADE:
            await self._store.discard(upload_id)
        else:
            await self._store.release(upload_id)

    # ── between two requests ──

    def _pick_up(self, upload_id: str) -> Hold | None:
        """Return a hold that is kept."""
        hold = self._holds.get(upload_id)
        if hold is None or not hold.is_idle:
            return None
        self._wake(hold)
        hold.keeps = False
        return hold

    def _put_down(self, hold: Hold) -> bool:
        """Keep a hold for the next request; False where nothing is to be kept."""
        is_over = hold.upload.is_finished or hold.is_wanted
        if not hold.keeps or is_over or not self._keep_seconds:
            return False
        loop = asyncio.get_running_loop()
        hold.is_idle = True
        hold.timer = loop.call_later(self._keep_seconds, self._cool_soon, hold)
        return True

    @staticmethod
    def _wake(hold: Hold) -> None:
        hold.is_idle = False
        if hold.timer is not None:
            hold.timer.cancel()

    def _cool_soon(self, hold: Hold) -> None:
        task = asyncio.create_task(self._cool(hold))
        self._cooling.add(task)
        task.add_done_callback(self._cooling.discard)

    async def _cool(self, hold: Hold) -> None:
        """Let go of a hold that is kept, unless a request was faster."""
        if hold.is_idle:
            self._wake(hold)
            await to_its_end(self._let_go(hold))

    # ── those who want the same ──

    async def _take(self, upload_id: str, wish: Wish) -> Hold:
        """Take what is kept, or lock the stage; where another has it, tell it so."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        has_wished = False
        while (hold := self._pick_up(upload_id)) is None:
            if grip := await self._store.hold(upload_id):
                return await self._claim(upload_id, grip)
            if loop.time() > deadline:
                raise UploadBusy("Another request is at work on this upload.")
            hold = self._holds.get(upload_id)
            if hold is None and not has_wished:
                await self._rows.wish(upload_id, wish)
                has_wished = True
            await self._wait(hold, wish)
        return hold

    @staticmethod
    async def _wait(hold: Hold | None, wish: Wish) -> None:
        if hold is None:
            await asyncio.sleep(RETRY_SECONDS)
            return
        hold.want(wish)
        await _wait_briefly(hold.ended)

    async def _let_go(self, hold: Hold) -> None:
        try:
            if hold.upload.is_held:
                await self._rows.let_go(hold.upload)
        except FileServiceError as error:
            logger.warning("%s stays marked as held: %s", hold.upload.id, error)
        finally:
            del self._holds[hold.upload.id]
            await self._store.release(hold.upload.id)
            hold.ended.set()
            if not self._holds and self._watcher is not None:
                self._watcher.cancel()
                self._watcher = None  # it ends a moment later, and would pass for awake till then

    def _watch(self) -> None:
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._look_for_wishes())

    async def _look_for_wishes(self) -> None:
        """Pass on what other processes want, as long as anything is held."""
        while self._holds:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                wishes = await self._rows.find_wishes(list(self._holds))
            except FileServiceError as error:
                logger.info("wishes for uploads cannot be read: %s", error)
                continue
            for upload_id, wish in wishes.items():
                if hold := self._holds.get(upload_id):
                    hold.want(Wish(wish))
                    await self._cool(hold)


async def _wait_briefly(event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(RETRY_SECONDS):
            await event.wait()

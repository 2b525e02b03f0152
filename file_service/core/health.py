"""Whether files can be taken and served now."""

import asyncio

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.errors import NoRoom, Unavailable


class Health:
    """Asks every part the service rests on; `is_draining` is set once the process is stopping."""

    def __init__(self, store: BlobStore, catalogue: Catalogue) -> None:
        self._parts = (store, catalogue)
        self.is_draining = False

    async def check(self) -> None:
        """Raise Unavailable, naming every reason, unless files can be taken and served now."""
        reasons = ["The service is stopping."] if self.is_draining else []
        checks = (part.check() for part in self._parts)
        for outcome in await asyncio.gather(*checks, return_exceptions=True):
            if isinstance(outcome, Unavailable | NoRoom):
                reasons.append(str(outcome))
            elif outcome is not None:
                raise outcome
        if reasons:
            raise Unavailable(" ".join(reasons))

"""Whether files can be taken and served now."""

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.errors import Unavailable


class Health:
    """Asks every part the service rests on; `is_draining` is set once the process is stopping."""

    def __init__(self, store: BlobStore, catalogue: Catalogue) -> None:
        self._parts = (store, catalogue)
        self.is_draining = False

    async def check(self) -> None:
        """Raise Unavailable, naming every reason, unless files can be taken and served now."""
        reasons = ["The service is stopping."] if self.is_draining else []
        for part in self._parts:
            try:
                await part.check()
            except Unavailable as error:
                reasons.append(str(error))
        if reasons:
            raise Unavailable(" ".join(reasons))

"""What can go wrong, in the service's own words, each with a stable code; no HTTP."""

from collections.abc import Sequence


class FileServiceError(Exception):
    """A fault of the service's own; the log has more under the same request id.

    The base of all errors: `code` is stable, `title` is constant, str() is the detail. The first
    line of an error's docstring is what callers read of it at its problem type's address.
    """

    code = "internal"
    title = "The service failed"


def find_kinds() -> dict[str, type[FileServiceError]]:
    """Return every kind of error there is, by its code."""
    kinds = [FileServiceError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code: kind for kind in kinds}


class Malformed(FileServiceError):
    """A request that does not say what it wants in a way that can be understood."""

    code = "malformed"
    title = "The request is malformed"


class BadName(Malformed):
    """A file name that no file may have."""

    code = "bad-name"
    title = "The file name is not acceptable"


class CutShort(FileServiceError):
    """A body that ended, or broke, before its end."""

    code = "cut-short"
    title = "The body ended before it was complete"


class DigestMismatch(FileServiceError):
    """Bytes that are not those the sender says they are."""

    code = "digest-mismatched-values"
    title = "The digest does not match the content"

    def __init__(self, algorithm: str) -> None:
        super().__init__(f"The {algorithm} of what arrived is not the one that was sent with it.")


class DigestUnsupported(FileServiceError):
    """A digest of none of the algorithms the service knows: it could not be verified."""

    code = "digest-unsupported-algorithms"
    title = "The algorithms of the digest are not supported"


class DigestInvalid(FileServiceError):
    """A digest header that is no dictionary of byte sequences, or of the wrong length."""

    code = "digest-invalid-values"
    title = "The digest header is malformed"


class Stalled(FileServiceError):
    """A client that has sent nothing for too long."""

    code = "stalled"
    title = "The body stopped arriving"


class FileNotFound(FileServiceError):
    """No file has this id: unknown, deleted or malformed ids are told apart by nobody."""

    code = "file-not-found"
    title = "There is no such file"


class UploadNotFound(FileServiceError):
    """No upload has this id: unknown, cancelled or malformed ids are told apart by nobody."""

    code = "upload-not-found"
    title = "There is no such upload"


class UploadExpired(FileServiceError):
    """An unfinished upload that came to the end of its time; its bytes are gone."""

    code = "upload-expired"
    title = "The upload has expired"


class OffsetMismatch(FileServiceError):
    """Bytes for another place than where the upload goes on."""

    code = "mismatching-upload-offset"
    title = "The upload goes on elsewhere"

    def __init__(self, expected: int, provided: int) -> None:
        super().__init__(f"The upload goes on at byte {expected}, not at {provided}.")
        self.expected = expected
        self.provided = provided


class LengthMismatch(FileServiceError):
    """A length that contradicts what was declared before, or what has arrived."""

    code = "inconsistent-upload-length"
    title = "The length of the upload is inconsistent"


class UploadLost(FileServiceError):
    """A newer request has taken the upload over; what arrived before is kept."""

    code = "upload-taken-over"
    title = "Another request goes on with the upload"


class UploadBusy(FileServiceError):
    """Another request is at work on the upload and does not let go."""

    code = "upload-busy"
    title = "Another request is at work on the upload"


class ChecksumMismatch(FileServiceError):
    """Bytes of one request that do not have the checksum sent with them; they are forgotten."""

    code = "checksum-mismatch"
    title = "The checksum does not match the bytes"


class NotAppendable(FileServiceError):
    """An upload that is made of others, or finished: nothing can be added to it."""

    code = "not-appendable"
    title = "Nothing can be added to the upload"


class UnknownTusVersion(FileServiceError):
    """A request to an upload in a version of tus that the service does not speak, or in none."""

    code = "unknown-tus-version"
    title = "The version of tus is not supported"


class WrongMediaType(FileServiceError):
    """Bytes for an upload under another media type than its protocol has for them."""

    code = "wrong-media-type"
    title = "The media type is not that of bytes for an upload"


class NotRunnable(FileServiceError):
    """A file that a page asked for to run it, as a script or a style: stored files never run."""

    code = "not-runnable"
    title = "Stored files are not run"


class TooLarge(FileServiceError):
    """More bytes than a file, or a part of a request, may have."""

    code = "too-large"
    title = "The upload is too large"


class EncodedContent(FileServiceError):
    """An upload with a Content-Encoding: stored bytes are the bytes sent, never decoded ones."""

    code = "content-encoding"
    title = "Uploads with a content coding are not accepted"


class RangeNotSatisfiable(FileServiceError):
    """No range that was asked for lies within the file of `size` bytes."""

    code = "range-not-satisfiable"
    title = "The file has no such range"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes.")
        self.size = size


class PreconditionFailed(FileServiceError):
    """The file is not the one, or not as old, as the caller makes a condition."""

    code = "precondition-failed"
    title = "The file does not meet the request's conditions"


class UnknownExpectation(FileServiceError):
    """An Expect header that asks for something else than 100-continue."""

    code = "unknown-expectation"
    title = "The request expects what the service does not do"


class UnknownCoding(FileServiceError):
    """A Transfer-Encoding other than chunked alone: what the bytes mean cannot be known."""

    code = "unknown-transfer-coding"
    title = "The transfer coding is not supported"


class UnknownVersion(FileServiceError):
    """A version of HTTP other than 1.0 and 1.1."""

    code = "unknown-http-version"
    title = "The version of HTTP is not supported"


class NoRoom(FileServiceError):
    """The disk, its inodes or a quota is exhausted."""

    code = "no-room"
    title = "There is no room for the file"


class Unavailable(FileServiceError):
    """A part the service rests on does not answer; trying again later is right."""

    code = "unavailable"
    title = "The service cannot do this at the moment"


class CatalogueUnavailable(Unavailable):
    """The database is away, too slow or refuses to work."""

    code = "catalogue-unavailable"
    title = "The catalogue is not available"


class StoreUnavailable(Unavailable):
    """The folder of the blobs is away, read-only or broken."""

    code = "store-unavailable"
    title = "The blob store is not available"


class OutcomeUnknown(Unavailable):
    """The connection broke at COMMIT: the files of `file_ids` exist, all of them, or none."""

    code = "outcome-unknown"
    title = "Whether the file was stored is not known yet"

    def __init__(self, file_ids: Sequence[str], detail: str) -> None:
        super().__init__(detail)
        self.file_ids = list(file_ids)


class BlobMissing(FileServiceError):
    """A file whose bytes are absent, short or unreadable: trouble of ours, never a 404."""

    code = "blob-missing"
    title = "The bytes of the file cannot be read"


class StartupError(FileServiceError):
    """Why the service cannot start: one line for the person who started it."""

    code = "startup"
    title = "The service cannot start"

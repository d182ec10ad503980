"""A prefix of an S3 bucket. Endpoint and credentials come from the AWS_* variables alone.

An object appears whole or not at all, to everybody at once, and needs no flush. A request that is
answered with 5xx, late or not at all is tried again by obstore, with growing pauses (`MAX_RETRIES`
and what follows); one whose answer breaks off, here. When that is over the run ends with "try
again", and what was done stays done.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar

from bgscale.errors import BgscaleError, InputError, InterruptedRunError
from bgscale.places.keys import is_key
from bgscale.places.waiting import each
from bgscale.places.writer import partial_name

S3 = "s3://"
MAX_RETRIES = 8
FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.1, 10.0, 2
RETRY_TIMEOUT_S = 120.0
"""No further try begins later than this after the first."""
CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 30.0
"""An answer that stops for so long is given up, and asked for again."""
REQUEST_TIMEOUT_S = 300.0
READERS = 32
LISTED = 1000
"""Names that an answer to a listing has at most."""
FEW = 16
"""Sizes of so many objects are asked for one by one; of more the folders are listed."""
LARGEST_READ_BYTES = 256 * 2**20
BLOCK_BYTES = 1 << 20
MAX_BREAKS = 5
"""Answers that break off, until it is given up."""
_YES = ("true", "1", "yes", "on", "t", "y")
_TRANSIENT = ("408", "425", "429")
_NO_CREDENTIALS = "169.254."
"""Where credentials are asked for when no variable names any."""

T = TypeVar("T")


@lru_cache(maxsize=16)
def _opened(bucket: str, prefix: str, variables: frozenset[tuple[str, str]]) -> Any:
    """Return obstore's store, one a process: it keeps connections and credentials."""
    from obstore.store import S3Store

    return S3Store(
        bucket,
        prefix=prefix or None,
        retry_config={
            "max_retries": MAX_RETRIES,
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_PAUSE_S),
                "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
                "base": PAUSE_GROWTH,
            },
            "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
        },
        client_options={
            # obstore no longer looks at the variable where it is given options
            "allow_http": dict(variables).get("AWS_ALLOW_HTTP", "").casefold() in _YES,
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "read_timeout": timedelta(seconds=SILENCE_TIMEOUT_S),
            "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        },
    )


def opened(bucket: str, prefix: str) -> Any:
    """Return obstore's store of a prefix, or of the whole bucket; it tries again for a while.

    Endpoint and credentials come from the AWS_* variables.
    """
    # other credentials are another connection
    variables = frozenset((k, v) for k, v in os.environ.items() if k.startswith("AWS_"))
    return _opened(bucket, prefix, variables)


def explained(error: Exception, location: str) -> BgscaleError:
    """Return what an object store's error means to a run: bad input, or try again."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    status = re.search(r"status code: (\d{3})", text)
    refused = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
    refused |= status is not None and status[1][0] == "4" and status[1] not in _TRANSIENT
    # 501: a kind of request that the endpoint does not know
    refused |= status is not None and status[1] == "501"
    refused |= "builder error" in text or _NO_CREDENTIALS in text
    if refused:
        msg = f"{location}: {text} (endpoint and credentials are those of the AWS_* variables)"
        return InputError(msg)
    msg = f"{location} does not answer: {text}; what was done is kept: run again to go on"
    return InterruptedRunError(msg)


def pauses() -> Iterator[float]:
    """Yield how long to wait before a broken answer is asked for again, in seconds."""
    yield from (min(FIRST_PAUSE_S * PAUSE_GROWTH**i, LONGEST_PAUSE_S) for i in range(MAX_BREAKS))


def broke_off(error: Exception) -> bool:
    """Whether an answer had begun: obstore asks again only for what has not."""
    return "body error" in str(error) or "Error parsing XML" in str(error)


@contextmanager
def answers(location: str) -> Iterator[None]:
    """Within the block, errors of an object store are told as the run's own.

    Raises
    ------
    InputError
        It refuses: credentials, bucket, or what it does not know.
    FileExistsError
        What was to be made, or changed, is there already, or was changed by another.
    InterruptedRunError
        It did not answer, however often it was asked.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError) as error:
        raise FileExistsError(errno.EEXIST, "Object exists, or is another") from error
    except BaseError as error:
        raise explained(error, location) from None


class Bucket:
    """A prefix of a bucket.

    Parameters
    ----------
    location : str
        s3://bucket/prefix

    Raises
    ------
    InputError
        There is no bucket or no prefix in it, or obstore is absent.
    """

    readers = READERS

    def __init__(self, location: str) -> None:
        self.location = location
        bucket, _, prefix = location.removeprefix(S3).strip("/").partition("/")
        if not bucket or not is_key(prefix):
            msg = f"{location} is no place in a bucket; expected s3://bucket/prefix"
            raise InputError(msg)
        try:
            import obstore
        except ImportError:
            msg = f"{location}: s3:// needs obstore: pip install 'bgscale[s3]'"
            raise InputError(msg) from None
        self._obstore = obstore
        with answers(location):
            self.store = opened(bucket, prefix)

    def _asked(self, request: Callable[[], T]) -> T:
        """Return the answer to a request that may be made twice."""
        from obstore.exceptions import BaseError

        with answers(self.location):
            for pause in pauses():
                try:
                    return request()
                except BaseError as error:
                    if not broke_off(error):
                        raise
                time.sleep(pause)
            return request()

    def _got(self, key: str) -> tuple[bytes, str]:
        answer = self._obstore.get(self.store, key)
        if answer.meta["size"] > LARGEST_READ_BYTES:
            msg = f"{key} has more than {LARGEST_READ_BYTES} bytes: none of its kind has"
            raise OSError(msg)
        return bytes(answer.bytes()), str(answer.meta["e_tag"])

    def read(self, key: str) -> bytes | None:
        """Return a small file."""
        try:
            return self._asked(lambda: self._got(key))[0]
        except FileNotFoundError:
            return None

    def blocks(self, key: str) -> Iterator[bytes]:
        """Yield the content of a file, piece by piece."""
        with answers(self.location):
            for block in self._obstore.get(self.store, key).stream(min_chunk_size=BLOCK_BYTES):
                yield bytes(block)

    def _put(self, key: str, content: bytes, mode: Any) -> None:
        try:
            self._asked(lambda: self._obstore.put(self.store, key, content, mode=mode))
        except FileNotFoundError:
            msg = f"{self.location}: there is no such bucket"
            raise InputError(msg) from None

    def create(self, key: str, content: bytes) -> bool:
        """Make a file; False where there is one of other content already."""
        try:
            self._put(key, content, "create")
        except FileExistsError:
            # or it was made, and the answer was lost and asked for again
            return self.read(key) == content
        return True

    def replace(self, key: str, content: bytes) -> None:
        """Make a file, whatever was there."""
        self._put(key, content, "overwrite")

    def swap(self, key: str, old: bytes, new: bytes) -> bool:
        """Make a file in the place of one with the content `old`; False where it is another."""
        try:
            content, tag = self._asked(lambda: self._got(key))
        except FileNotFoundError:
            return False
        if content != old:
            return False
        try:
            self._put(key, new, {"e_tag": tag})
        except FileExistsError:
            return self.read(key) == new
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; it is no error where they are gone."""
        todo = list(keys)
        if todo:
            self._asked(lambda: self._obstore.delete(self.store, todo))

    def remove(self, key: str) -> None:
        """Remove all files below a folder."""
        top, others = self._by_depth(key)
        self.delete(top)
        self.delete(others)

    def move(self, key: str, to: str) -> None:
        """Copy all files below a folder to another one, then remove them.

        Files right in the folder are copied last and removed first: who is stopped in between
        leaves a folder that has them and is whole, never two of which one is not.
        """
        top, others = self._by_depth(key)

        def copy(name: str) -> None:
            target = to + name.removeprefix(key)
            self._asked(lambda: self._obstore.copy(self.store, name, target))

        each(copy, others, self.readers)
        each(copy, top, self.readers)
        self.delete(top)
        self.delete(others)

    def _by_depth(self, key: str) -> tuple[list[str], list[str]]:
        """Return the files right in a folder, and those further below."""
        top: list[str] = []
        others: list[str] = []
        for name in self.below(key):
            (others if "/" in name.removeprefix(f"{key}/") else top).append(name)
        return top, others

    def names(self, key: str) -> set[str]:
        """Return the names of the files right below a folder."""
        found = self._asked(lambda: self._obstore.list_with_delimiter(self.store, key))
        return {str(item["path"]).rsplit("/", 1)[-1] for item in found["objects"]}

    def below(self, key: str) -> Iterator[str]:
        """Yield the keys of all files below a folder."""
        yield from (name for name, _ in self._listed(key))

    def _listed(self, prefix: str | None) -> Iterator[tuple[str, int]]:
        last: list[str] = []

        def page() -> list[tuple[str, int]]:
            offset = last[-1] if last else None
            stream = self._obstore.list(self.store, prefix, offset=offset, chunk_size=LISTED)
            return [(str(item["path"]), int(item["size"])) for item in next(iter(stream), [])]

        more = True
        while more:
            found = self._asked(page)
            yield from found
            more = len(found) == LISTED
            last[:] = [name for name, _ in found[-1:]]

    def is_empty(self) -> bool:
        """Whether there is nothing below the prefix."""
        return next(self._listed(None), None) is None

    def sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Return the size of files; None where there is none, or the key leads out.

        Zarr keeps the chunks of an array below ``ARRAY/c``: that is one listing.
        """
        asked = list(keys)
        if len(asked) <= FEW:
            return dict(zip(asked, each(self._size, asked, READERS), strict=True))
        sizes: dict[str, int | None] = dict.fromkeys(asked)
        good = sorted((key for key in asked if is_key(key)), key=_folder)
        for folder, of_folder in groupby(good, key=_folder):
            wanted = set(of_folder)
            sizes |= {key: size for key, size in self._listed(folder or None) if key in wanted}
        return sizes

    def _size(self, key: str) -> int | None:
        if not is_key(key):
            return None
        try:
            return int(self._asked(lambda: self._obstore.head(self.store, key))["size"])
        except FileNotFoundError:
            return None

    def leads_out(self, key: str) -> bool:
        """Whether a key leads out of the prefix; there are no links in a bucket."""
        return not is_key(key)

    def flush(self, keys: Iterable[str]) -> None:
        """Do nothing: what the bucket has taken, it keeps."""

    def modified(self, key: str) -> float | None:
        """Return when a file was written, as the bucket's clock has it."""
        try:
            found = self._asked(lambda: self._obstore.head(self.store, key))
            return float(found["last_modified"].timestamp())
        except FileNotFoundError:
            return None

    def now(self) -> float:
        """Return what the bucket's clock says."""
        key = partial_name("clock", 0)
        self.replace(key, b"?")
        made = self.modified(key)
        self.delete([key])
        if made is None:
            msg = f"{self.location}: an object that was written is not there; run again to go on"
            raise InterruptedRunError(msg)
        return made

    def sweep(self, silent_s: float = 0.0) -> int:
        """Do nothing: what was not written to its end is never seen."""
        return 0


def _folder(key: str) -> str:
    """Return the array that a chunk belongs to, else the folder that a file is in."""
    array, found, _ = key.partition("/c/")
    return array if found else key.rpartition("/")[0]

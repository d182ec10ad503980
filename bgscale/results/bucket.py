"""What Zarr reads and writes in a bucket: its errors are told as the run's own, wherever they rise.

A lazy array is read long after it was opened; so the way to the bytes translates, not its callers.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

from obstore.exceptions import BaseError
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from bgscale.places import Bucket
from bgscale.places.bucket import answers, broke_off, pauses

T = TypeVar("T")


class BucketStore(ObjectStore):  # type: ignore[type-arg]
    """Zarr's store of objects, which raises InputError and InterruptedRunError.

    Parameters
    ----------
    store : obstore.store.S3Store
    read_only : bool
    """

    @property
    def _where(self) -> str:
        return f"s3://{self.store.config['bucket']}/{self.store.prefix}"

    async def _asked(self, request: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a request that may be made twice."""
        with answers(self._where):
            for pause in pauses():
                try:
                    return await request()
                except BaseError as error:
                    if not broke_off(error):
                        raise
                await asyncio.sleep(pause)
            return await request()

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or a part of it."""
        get = super().get
        return await self._asked(lambda: get(key, prototype, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        get, ranges = super().get_partial_values, list(key_ranges)
        return await self._asked(lambda: get(prototype, ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        exists = super().exists
        return await self._asked(lambda: exists(key))

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object."""
        put = super().set
        await self._asked(lambda: put(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object where there is none."""
        put = super().set_if_not_exists
        await self._asked(lambda: put(key, value))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        delete = super().delete
        await self._asked(lambda: delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects below a prefix."""
        delete = super().delete_dir
        await self._asked(lambda: delete(prefix))

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield what is right below a prefix."""
        listed = super().list_dir

        async def names() -> list[str]:
            return [name async for name in listed(prefix)]

        for name in await self._asked(names):
            yield name


def zarr_store(place: Bucket) -> BucketStore:
    """Return the store that Zarr writes."""
    return BucketStore(place.store)

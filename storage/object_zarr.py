"""An object store as zarr sees it: one request a chunk, and errors that name the object."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import obstore
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from storage.object_client import answered_async, client

if TYPE_CHECKING:
    from storage.object_storage import ObjectLocation


class ObjectZarrStore(ObjectStore[Any]):
    """zarr's own store for obstore. A chunk that is not there reads as its fill value: the reader must know it."""

    def __init__(self, place: "ObjectLocation", *, read_only: bool = False) -> None:
        super().__init__(client(place.uri, at_root=False), read_only=read_only)
        self.place = place

    def with_read_only(self, read_only: bool = False) -> Self:
        return type(self)(self.place, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        get = partial(super().get, key, prototype, byte_range)
        with self.place.naming_errors(key):
            return await answered_async(get)

    async def exists(self, key: str) -> bool:
        exists = partial(super().exists, key)
        with self.place.naming_errors(key):
            return await answered_async(exists)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await asyncio.to_thread(self.place.guard)  # which may ask the store
        data = client(self.place.uri, for_data=True)
        put = partial(obstore.put_async, data, self.place.key(key), value.as_buffer_like(), use_multipart=False)
        with self.place.naming_errors(key):
            await answered_async(put)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await asyncio.to_thread(self.place.create, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self.place.guard)
        delete = partial(super().delete, key)
        with self.place.naming_errors(key):
            await answered_async(delete)

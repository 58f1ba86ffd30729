"""A mailbox: anyone sends without waiting, one reads, and it closes once."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


class Inbox(list[T]):
    """
    Messages in the order in which they were sent.

    Never full: what is sent is bounded by what the run does. Sent to and read on one loop; a thread sends by way of
    ``loop.call_soon_threadsafe``. After :meth:`close`, sending does nothing: whoever is late is told nothing.
    """

    __slots__ = ("_is_closed", "_loop", "_reader")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._reader: asyncio.Future[None] | None = None
        self._is_closed = False

    def send_nowait(self, message: T) -> None:
        """Put *message* at the end and wake the reader."""
        if self._is_closed:
            return
        self.append(message)
        if self._reader is not None:
            self.wake()

    def wake(self) -> None:
        """Wake the reader although there may be no message."""
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def take(self, most: int) -> list[T]:
        """Return up to *most* messages, oldest first, without waiting."""
        taken = self[:most]
        del self[:most]
        return taken

    async def wait(self) -> None:
        """Wait until there is a message, or until woken."""
        if not self:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def close(self) -> None:
        """Forget what is in it and take nothing more."""
        self._is_closed = True
        self.clear()

    def __repr__(self) -> str:
        return f"<Inbox: {'closed' if self._is_closed else f'{len(self)} messages'}>"

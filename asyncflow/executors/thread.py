"""Plain functions, in daemon threads that belong to one engine."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from asyncflow.errors import EngineClosed
from asyncflow.interfaces import Call

_Done = Callable[[Any, BaseException | None], None]


class ThreadWork:
    """A call that waits for a thread, or is in one."""

    __slots__ = ("_pool", "call", "done", "is_taken")

    def __init__(self, pool: ThreadExecutor, call: Call, done: _Done) -> None:
        self._pool = pool
        self.call = call
        self.done = done
        self.is_taken = False

    def cancel(self) -> bool:
        """Take it out of the line if no thread has it yet; what runs runs to its end."""
        return self._pool.withdraw(self)


class ThreadExecutor:
    """
    Runs plain functions in threads, started as they are needed and used again.

    How many run at once is limited by the engine's permits, so that nothing counts as started which still waits for a
    thread. The threads are daemons: one that never comes back does not keep the process alive. They are not the loop's
    default pool, so tasks and the application never wait for each other's threads.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = 0
        self._idle = 0
        self._is_closed = False
        self._line: deque[ThreadWork] = deque()
        # Guards the four above; held for a few instructions only, by the loop and by the threads.
        self._changed = threading.Condition()

    def submit(self, call: Call, done: _Done) -> ThreadWork:
        """Give *call* to an idle thread, or to a new one."""
        work = ThreadWork(self, call, done)
        with self._changed:
            if self._is_closed:
                raise EngineClosed("the engine's threads are closed; nothing can be started in them any more")
            self._line.append(work)
            # Idle threads may all be spoken for by calls that are in line already.
            if self._idle < len(self._line):
                self._threads += 1
                thread = threading.Thread(target=self._serve, name=f"asyncflow-{self._threads}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more threads to give
                    self._threads -= 1
                    if not self._threads:
                        self._line.remove(work)
                        raise
            else:
                self._changed.notify()
        return work

    def withdraw(self, work: ThreadWork) -> bool:
        """Take *work* out of the line, if no thread has it yet; it ends as cancelled."""
        with self._changed:
            if work.is_taken:
                return False
            self._line.remove(work)
            work.is_taken = True
        self._loop.call_soon(work.done, None, asyncio.CancelledError())
        return True

    def __repr__(self) -> str:
        state = "closed, " if self._is_closed else ""
        return f"<ThreadExecutor: {state}{self._threads} threads, {self._idle} idle, {len(self._line)} calls waiting>"

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._line and not self._is_closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._line:
                    self._threads -= 1
                    return
                work = self._line.popleft()
                work.is_taken = True
            call = work.call
            value, error = None, None
            try:
                value = call.context.run(call.fn, *call.args, **call.kwargs)
            except BaseException as raised:
                error = raised
            self._report(work.done, value, error)
            # Let go before waiting: an idle thread must not keep a run's values alive.
            del work, call, value, error

    def _report(self, done: _Done, value: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(done, value, error)
        except RuntimeError:
            return  # The loop is closed; nobody is left to be told.

    async def close(self) -> None:
        """Let idle threads end. What still runs ends by itself; its report goes nowhere if the loop is gone."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

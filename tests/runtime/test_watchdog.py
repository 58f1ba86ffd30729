"""A body that blocks the loop is named with its line; one that was only stopped or starved is not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

import asyncflow as af
from asyncflow.runtime.watchdog import Watchdog


class Heard(logging.Handler):
    """Keeps the watchdog's lines, and lets whoever blocks the loop go on once there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[logging.LogRecord] = []
        self.go_on = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record)
        self.go_on.set()


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What the watchdog says."""
    handler, logger = Heard(), logging.getLogger("asyncflow.blocked")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("executor", ["loop", "inline"])
def test_a_body_that_blocks_the_loop_is_named_with_its_line(heard: Heard, executor: str) -> None:
    """Whoever reads the warning goes to that line."""
    if executor == "loop":

        @af.task(name="blocks")
        async def blocks() -> None:
            heard.go_on.wait()
    else:

        @af.task(name="blocks", executor="inline")
        def blocks() -> None:
            heard.go_on.wait()

    async def main() -> None:
        async with af.Engine(blocked_after=0.05) as engine:
            await engine.run(af.linear("one", blocks), run_id="r")

    asyncio.run(main())
    line = heard.lines[0].getMessage()
    assert "task 'blocks' of run 'r' is at " in line
    assert f"{__file__}:" in line
    assert ".blocks" in line
    assert (heard.lines[0].__dict__["run"], heard.lines[0].__dict__["path"]) == ("r", "blocks")


def test_a_block_is_told_once_and_a_stopped_process_not_at_all(heard: Heard) -> None:
    """Time that passed for nobody, as under SIGSTOP, must not look like somebody's fault."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        may_nap, napped = threading.Semaphore(0), threading.Semaphore(0)
        over = threading.Event()

        def nap(seconds: float) -> bool:
            napped.release()
            if not over.is_set():
                may_nap.acquire()
            return over.is_set()

        dog = Watchdog(0.1, nap=nap)
        dog.start()

        def block(naps: int) -> None:
            # Holds the loop while the watchdog takes so many naps, of whatever length.
            for _ in range(naps):
                napped.acquire()
                may_nap.release()

        block(4)
        assert heard.lines == []
        block(20)
        napped.acquire()
        assert len(heard.lines) == 1
        over.set()
        may_nap.release()
        await loop.run_in_executor(None, dog.stop)

    asyncio.run(main())


def test_an_engine_that_does_not_ask_for_it_has_no_watchdog() -> None:
    """What is off costs nothing."""

    async def main() -> None:
        async with af.Engine():
            assert not [each for each in threading.enumerate() if each.name == "asyncflow watchdog"]
        async with af.Engine(debug=True):
            assert [each for each in threading.enumerate() if each.name == "asyncflow watchdog"]
        assert not [each for each in threading.enumerate() if each.name == "asyncflow watchdog"]

    asyncio.run(main())
    with pytest.raises(af.DeclarationError, match="blocked_after"):
        af.Engine(blocked_after=0)

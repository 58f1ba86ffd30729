"""Live progress in a terminal, by rich; plain lines where there is no terminal."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from asyncflow import messages as m
from asyncflow.ids import is_below
from asyncflow.interfaces import Happening
from asyncflow.observers.log_lines import describe

if TYPE_CHECKING:
    from rich.live import Live

_HAS_RICH = importlib.util.find_spec("rich") is not None
_MOST_SHOWN = 12
_PLAIN_EVERY = 2.0


class _Run:
    """What is shown of one run."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self.began = time.monotonic()
        # Paths: a flow that runs again does some of it a second time.
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()
        self.reverted: set[str] = set()
        self.running: dict[str, tuple[float, str, float]] = {}  # path: fraction, message, since
        self.ending = ""

    def take(self, happening: Happening) -> None:
        path, event = happening.path, happening.event
        now = time.monotonic()
        match event:
            case m.AttemptStarted() | m.RevertStarted() | m.ReconcileStarted():
                is_revert = isinstance(event, m.RevertStarted)
                if not is_revert:
                    self.failed.discard(path)
                    self.reverted.discard(path)
                self.done.discard(path)
                self.running[path] = (0.0, "reverting" if is_revert else "", now)
            case m.Progressed(fraction=fraction, message=message):
                if path in self.running:
                    self.running[path] = (fraction, message or self.running[path][1], self.running[path][2])
            case m.AttemptSucceeded():
                self._over(path, self.done)
            case m.TaskFailed() | m.RevertGivenUp():
                self._over(path, self.failed)
            case m.ConditionAnswered(failure=failure) if failure is not None:
                self.failed.add(path)
            case m.RevertSucceeded():
                self._over(path, self.reverted)
            case m.TaskSkipped():
                self.skipped.add(path)
            case m.FlowStartedOver():
                self.skipped = {skipped for skipped in self.skipped if not is_below(skipped, path)}
            case m.AttemptFailed() | m.AttemptTimedOut() | m.AttemptCancelled() | m.AttemptLost() | m.RevertFailed():
                self.running.pop(path, None)
            case m.RunSuspended():
                self.ending = "SUSPENDED"
            case m.RunEnded(state=state):
                self.ending = state
            case _:
                pass

    def _over(self, path: str, those: set[str]) -> None:
        those.add(path)
        self.running.pop(path, None)

    def headline(self) -> str:
        seconds = time.monotonic() - self.began
        parts = [f"{len(self.done)} done", f"{len(self.running)} running"]
        for those, word in ((self.failed, "failed"), (self.skipped, "skipped"), (self.reverted, "reverted")):
            if those:
                parts.append(f"{len(those)} {word}")
        return f"{self.flow}  {', '.join(parts)}  {seconds:.1f} s  {self.ending}".rstrip()


class Console:
    """
    Shows each run's tasks as they go: live in a terminal where rich is installed (``pip install asyncflow-
    engine[cli]``), else a line now and then.

    Counts start at what this observer has seen, so a resumed run counts what is done since.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = sys.stderr if file is None else file
        self._runs: dict[str, _Run] = {}
        self._live: Live | None = None
        self._told = 0.0

    def __call__(self, happening: Happening, /) -> None:
        """Show one event."""
        run = self._runs.get(happening.run_id)
        if run is None:
            run = self._runs[happening.run_id] = _Run(happening.flow)
        run.take(happening)
        if _is_news(happening.event):
            is_repeated = isinstance(happening.event, m.TaskFailed) and happening.event.failure is None
            detail = "" if is_repeated else describe(happening)
            self._say(f"{happening.path or happening.flow}: {happening.kind} {detail}".rstrip())
        if run.ending:
            self._over(happening.run_id, run)
        elif self._is_terminal():
            self._refresh()
        elif time.monotonic() - self._told > _PLAIN_EVERY:
            self._told = time.monotonic()
            self._say(run.headline())

    def _is_terminal(self) -> bool:
        return self._file.isatty() and _HAS_RICH

    def _say(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._file, flush=True)

    def _refresh(self) -> None:
        if self._live is None:
            from rich.console import Console as Terminal
            from rich.live import Live

            self._live = Live(
                console=Terminal(file=self._file), get_renderable=self._picture, refresh_per_second=8, transient=True
            )
            self._live.start()

    def _picture(self) -> Any:
        from rich.text import Text

        lines: list[str] = []
        now = time.monotonic()
        for run in list(self._runs.values()):
            lines.append(run.headline())
            running = list(run.running.items())
            for path, (fraction, message, since) in running[:_MOST_SHOWN]:
                bar = f"{fraction:4.0%}" if fraction else "    "
                lines.append(f"  {bar}  {path}  {now - since:.1f} s  {message}"[:110])
            if len(running) > _MOST_SHOWN:
                lines.append(f"        and {len(running) - _MOST_SHOWN} more")
        return Text("\n".join(lines))

    def _over(self, run_id: str, run: _Run) -> None:
        del self._runs[run_id]
        if not self._runs and self._live is not None:
            self._live.stop()
            self._live = None
        print(run.headline(), file=self._file, flush=True)


def _is_news(event: m.Event) -> bool:
    """Whether an event has a line of its own."""
    if isinstance(event, m.ConditionAnswered):
        return event.failure is not None
    return isinstance(event, (m.AttemptFailed, m.AttemptTimedOut, m.TaskFailed, m.RevertFailed, m.ControllerAnswered))

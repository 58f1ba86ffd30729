"""Everything that happened, in a list, for tests."""

from __future__ import annotations

from asyncflow.interfaces import Happening


class Capture:
    """Keeps what it sees: ``happenings`` in order, ``kinds()`` and ``of(path)`` to ask about them."""

    def __init__(self) -> None:
        self.happenings: list[Happening] = []

    def __call__(self, happening: Happening, /) -> None:
        """Keep one event."""
        self.happenings.append(happening)

    def kinds(self) -> list[str]:
        """Return the kind of each event, in order."""
        return [happening.kind for happening in self.happenings]

    def of(self, path: str) -> list[str]:
        """Return the kind of each event of the task at *path*, in order."""
        return [happening.kind for happening in self.happenings if happening.path == path]

    def __repr__(self) -> str:
        return f"<Capture: {len(self.happenings)} events>"

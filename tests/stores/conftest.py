"""What tests of commits on the loop share."""

from __future__ import annotations

import pytest

from asyncflow.stores import on_loop


@pytest.fixture
def never_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit on the loop is called slow, and no sync, however busy this machine is."""
    monkeypatch.setattr(on_loop, "_BRIEF_SECONDS", 3600.0)
    monkeypatch.setattr(on_loop, "_QUICK_SECONDS", 3600.0)

"""What a watcher makes of a counter, without any process: its clock is the test's."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from asyncflow.stores.pulse import Watch


def test_a_watcher_that_was_stopped_itself_takes_nobody_for_dead(tmp_path: Path) -> None:
    """After a laptop's sleep both wake at once; one long gap between two looks proves nothing."""
    now = 0.0
    watch = Watch(clock=lambda: now)
    descriptor = os.open(tmp_path / "owners", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(descriptor, struct.pack("<Qd", 7, 10.0), 16)
        assert watch.look(descriptor, 1).seconds == 0.0
        now += 86400.0
        assert watch.look(descriptor, 1).seconds == 2.0
        for _ in range(3):
            now += 2.0
            assert not watch.look(descriptor, 1).is_too_long
        now += 2.0
        assert watch.look(descriptor, 1).is_too_long
        os.pwrite(descriptor, struct.pack("<Qd", 8, 10.0), 16)
        assert watch.look(descriptor, 1).seconds == 0.0
        assert not watch.look(descriptor, 2).is_too_long, "nobody has ever counted there"
    finally:
        os.close(descriptor)

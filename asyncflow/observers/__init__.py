"""
Observers that come with asyncflow: ``LogLines`` for standard logging, ``Console`` for a live terminal, ``Durations``
and ``Timestamps`` to measure, ``Capture`` for tests. Any callable that takes a
:class:`~asyncflow.interfaces.Happening` is one.
"""

from asyncflow.observers.capture import Capture
from asyncflow.observers.console import Console
from asyncflow.observers.durations import Durations, TaskDuration
from asyncflow.observers.log_lines import LogLines
from asyncflow.observers.timestamps import Timestamps

__all__ = ["Capture", "Console", "Durations", "LogLines", "TaskDuration", "Timestamps"]

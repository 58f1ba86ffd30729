"""
Observers that come with asyncflow: ``LogLines`` for standard logging, ``Console`` for a live terminal, ``Capture`` for
tests. Any callable that takes a :class:`~asyncflow.interfaces.Happening` is one.
"""

from asyncflow.observers.capture import Capture
from asyncflow.observers.console import Console
from asyncflow.observers.log_lines import LogLines

__all__ = ["Capture", "Console", "LogLines"]

"""A call that was over when its executor had taken it."""

from __future__ import annotations


class Over:
    """A call that is over: there is nothing to stop."""

    __slots__ = ()

    def cancel(self) -> bool:
        """Do nothing: it is over."""
        return False


OVER = Over()

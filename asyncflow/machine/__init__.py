"""
What happens next: events in, commands out. No await, no I/O, no clock and no user code.

``run`` decides for a whole run, with ``lifecycle`` for one task's next attempt and ``revert`` for the reverse order;
``replay`` folds a journal into the same machine that wrote it.
"""

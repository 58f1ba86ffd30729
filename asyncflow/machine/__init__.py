"""
What happens next: events in, commands out. No await, no I/O, no clock and no user code.

``run`` decides for a whole run. Its state is in ``ledger``; on that stand, each on the one before, ``calm`` (tasks that
only start and succeed), ``choices`` (conditions), ``adoption`` (another plan), ``flows`` (what concerns more than one
task) and ``intake`` (how a run begins and is taken up). ``lifecycle`` says what follows an attempt, ``revert`` keeps
the reverse order, ``control`` is a flow with a controller; ``replay`` folds a journal into the same machine that wrote
it.
"""

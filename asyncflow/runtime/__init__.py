"""
Making it happen: actors and the supervisor carry messages between the machine, which decides, and the world.

One ``supervisor`` a run; one ``actor`` a task that is under way; ``inbox`` between them. ``permits`` are shared by all
runs, ``values`` opens what the journal sealed, ``observe`` tells those who watch, ``handle`` is what the caller holds.
"""

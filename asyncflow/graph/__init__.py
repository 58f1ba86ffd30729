"""
What a flow is; nothing here runs.

- ``task``, ``options``, ``policy``, ``signature``, ``wants``, ``provides``: a unit of work, and what it asks and gives
- ``flow``, ``builder``, ``reference``, ``pattern``, ``layout``: tasks composed, by calling them or by name
- ``compile`` and its steps, ``place``, ``lookup``, ``sources``, ``wiring``, ``order``, ``types``, ``target``
- ``plan``, ``inputs``: the result, which machines run by
- ``record``, ``constant``, ``changes``: a plan in a journal, and what is different today
- ``find``: a flow by the name that a journal keeps of it
"""

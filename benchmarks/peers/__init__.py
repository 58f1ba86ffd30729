"""
What others cost for the same work, beside asyncflow in the same session.

    python -m benchmarks.peers                  # all of them: makes an environment for each; some ten minutes
    python -m benchmarks.peers by_hand dask     # some
    python -m benchmarks.peers --json FILE

Each peer is a module here, measured in a process and an environment of its own; then asyncflow is measured on what that
peer could bear, and on nothing else. Peers are used as their documentation has it for speed, each in one process, with
trivial bodies; ``ABOUT`` in each module says how. They are told to report nothing to anyone.
"""

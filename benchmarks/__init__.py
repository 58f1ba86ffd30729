"""
What asyncflow costs, beside what it could cost at least and beside what others cost.

    python -m benchmarks                    # all questions, a few minutes
    python -m benchmarks in_memory serving  # some
    python -m benchmarks --list

Each file in ``questions/`` asks one. Machines differ and run at several speeds, so what counts is a ratio: to a floor
that is measured in the same run, in turns with what it is compared with.
"""

"""
Wiring by name: linear, unordered and graph flows, nested at will.

Three tasks run side by side and feed a fourth: with a=1, b=2 and c=3 they give 1, 4 and 5, and the sum is 10.

    python examples/patterns.py
"""

import asyncio

import asyncflow as af


@af.task(provides="x")
async def take(a: int) -> int:
    return a


class Double(af.Task):
    """A class task: its requires come from the signature of ``execute``."""

    provides = "y"

    async def execute(self, b: int) -> int:
        return 2 * b


@af.task(provides="z", executor="inline")
def add(b: int, c: int) -> int:
    return b + c


@af.task(provides="total")
async def total(x: int, y: int, z: int) -> int:
    return x + y + z


# Side by side, then the sum.
side_by_side = af.linear("side-by-side", af.unordered("three", take, Double(), add), total)

# The same edges, found from the names: the order of the items says nothing.
by_name = af.graph("by-name", total, take, Double(), add)


async def main() -> None:
    async with af.Engine() as engine:
        for flow in (side_by_side, by_name):
            results = await engine.run(flow, {"a": 1, "b": 2, "c": 3})
            print(flow.name, results)
        # Only what `y` needs.
        print("target", await engine.run(by_name.target("double"), {"b": 21}))


if __name__ == "__main__":
    asyncio.run(main())

# Prints:
# side-by-side {'x': 1, 'y': 4, 'z': 5, 'total': 10}
# by-name {'total': 10, 'x': 1, 'y': 4, 'z': 5}
# target {'y': 42}

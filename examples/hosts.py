"""
Controllers and conditions: a service is installed on one host after another until one of them takes it.

    python examples/hosts.py
"""

import asyncio

import asyncflow as af

FREE = {"oslo": 0, "lima": 2, "kyoto": 64}


@af.task(provides="disk")
async def reserve(host: str) -> str:
    print(f"{host}: reserve a disk")
    return f"{host}-disk"


@reserve.revert
async def release(host: str) -> None:
    print(f"{host}: give the disk back")


@af.task(provides="service", retry=af.Retry(2, af.Fixed(0.01), on=(TimeoutError,)))
async def install(host: str, disk: str, size: int) -> str:
    if FREE[host] < size:
        raise OSError(f"{host} has {FREE[host]} GiB free, and {size} are needed")
    return f"service on {disk}"


@af.task(provides="mirror", when=lambda size: size > 32)  # a small service needs no mirror
async def add_mirror(service: str, size: int) -> str:
    return f"mirror of {service}"


@af.task(provides="address")
async def announce(service: str, mirror: str = "nobody") -> str:
    return f"{service}, mirrored by {mirror}"


# Each attempt has another host; what an attempt had reserved is given back before the next one begins.
boot = af.linear("boot", reserve, install, retry=af.ForEachInput("hosts", provides="host"))
deploy = af.linear("deploy", boot, add_mirror, announce)


async def main() -> None:
    async with af.Engine() as engine:
        found = await engine.run(deploy, {"hosts": list(FREE), "size": 8})
        print(found["address"])
        try:
            await engine.run(deploy, {"hosts": ["oslo", "lima"], "size": 8})
        except* OSError as failed:
            print(f"no host is left: {failed.exceptions[-1]}")


if __name__ == "__main__":
    asyncio.run(main())

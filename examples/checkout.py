"""
A saga: reserve, charge, ship. Shipping fails, so the charge is refunded and the reservation released, in that order.

    python examples/checkout.py
"""

import asyncio
from dataclasses import dataclass

import asyncflow as af


@dataclass(frozen=True)
class Receipt:
    order_id: int
    cents: int


@af.task
async def reserve(order_id: int) -> str:
    print(f"reserve goods for order {order_id}")
    return f"reservation-{order_id}"


@reserve.revert
async def release(order_id: int, outcome: af.Outcome[str]) -> None:
    print(f"release {outcome.value if isinstance(outcome, af.Success) else 'whatever was reserved'}")


@af.task(retry=af.Retry(3, af.Exponential(0.01), on=(ConnectionError,)), timeout=5.0)
async def charge(ctx: af.Context, order_id: int, reservation: str) -> Receipt:
    if ctx.attempt == 1:
        raise ConnectionError("the bank hung up")  # tried again: `on=` says so
    print(f"charge order {order_id}, attempt {ctx.attempt}, key {ctx.idempotency_key}")
    return Receipt(order_id, 4200)


@charge.revert
async def refund(order_id: int, outcome: af.Outcome[Receipt]) -> None:
    print(f"refund {outcome.value.cents if isinstance(outcome, af.Success) else 'whatever was charged'}")


@af.task
async def ship(receipt: Receipt) -> str:
    raise RuntimeError("the warehouse is on fire")


@af.flow
def checkout(order_id: int) -> str:
    reservation = reserve(order_id)
    return ship(charge(order_id, reservation))


async def main() -> None:
    async with af.Engine() as engine:
        try:
            await engine.run(checkout, {"order_id": 7}, run_id="order-7")
        except* RuntimeError as failed:
            assert isinstance(failed, af.RunFailed)
            print(f"failed: {failed.exceptions[0]}; everything undone: {failed.reverted}")


if __name__ == "__main__":
    asyncio.run(main())

# Prints:
# reserve goods for order 7
# charge order 7, attempt 2, key order-7/charge#1
# refund 4200
# release reservation-7
# failed: the warehouse is on fire; everything undone: True

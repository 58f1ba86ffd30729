"""What a type checker sees of builders: calls have the types of their tasks. Lines marked E must be errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import assert_type

from asyncflow.context import Context
from asyncflow.graph.flow import Flow, Pattern, as_flow, flow, graph, linear, unordered
from asyncflow.graph.policy import Exponential, Limit, Retry
from asyncflow.graph.signature import resource
from asyncflow.graph.task import FunctionTask, Task, task
from asyncflow.outcomes import Outcome


class Order: ...


class Receipt: ...


class Pool: ...


@task
async def load(order_id: int) -> Order: ...


@task
def price(order: Order) -> float: ...


@task(retry=Retry(4, Exponential(0.1, cap=5.0), on=(ConnectionError,)), timeout=30.0, limits=Limit("api", 5))
async def charge(order: Order, total: float, *, note: str = "") -> Receipt: ...


@charge.revert
async def refund(order: Order, outcome: Outcome[Receipt]) -> None: ...


@task
async def with_context(ctx: Context, order: Order) -> str: ...


@task(name="other")
def with_context_in_thread(ctx: Context, order: Order) -> str: ...


@task
def with_resource(order: Order, db: Pool = resource()) -> bool: ...


@task
def show(value: object) -> str: ...


@task
def show_anything(value: Any, width: int = 10) -> str: ...


@task
def split(order: Order) -> tuple[int, str]: ...


@task
async def forget() -> None: ...


@task
def total(*parts: float) -> float: ...


@flow
def checkout(order_id: int) -> Receipt:
    order = load(order_id)
    assert_type(order, Order)
    assert_type(price(order), float)
    assert_type(charge(order, price(order), note="x"), Receipt)
    assert_type(with_context(order), str)
    assert_type(with_context_in_thread(order=order), str)
    assert_type(with_resource(order), bool)
    assert_type(show(order), str)
    assert_type(show_anything(order, width=3), str)
    number, text = split(order)
    assert_type(number, int)
    assert_type(text, str)
    assert_type(total(1.0, price(order)), float)
    first = load.named("first").after(forget())(order_id)
    assert_type(first, Order)
    return charge(order, price(order))


@flow(timeout=5.0, provides="bill")
def outer(order_id: int, hurry: bool = False) -> tuple[Receipt, float]:
    receipt = checkout(order_id)
    assert_type(receipt, Receipt)
    return receipt, price(load(order_id))


@flow
def wrong(order_id: int) -> Receipt:
    load("7")  # E
    load(order_id, 3)  # E
    price(order_id)  # E
    charge(load(order_id))  # E
    charge(load(order_id), load(order_id))  # E
    with_context(price(load(order_id)))  # E
    checkout("7")  # E
    load.named(7)  # E
    load.with_options(retries=3)  # E
    load.with_options(timeout="long")  # E
    return load(order_id)  # E


@task(on_crash="ignore")  # E
def odd() -> None: ...


class Reserve(Task):
    provides = "reservation"
    limits = (Limit("shop", 2),)
    timeout = 3.0

    def __init__(self, shop: str) -> None:
        super().__init__(name=f"reserve-{shop}")
        self.shop = shop

    async def execute(self, order: Order) -> str:
        return self.shop

    async def revert(self, order: Order, outcome: Outcome[str]) -> None: ...


def run(flow: Flow[..., Any], inputs: Mapping[str, Any]) -> None: ...


def patterns() -> None:
    ship = linear("ship", unordered("prepare", Reserve("a"), price), charge, timeout=4.0)
    assert_type(ship, Pattern)
    assert_type(ship.named("other"), Pattern)
    assert_type(graph("g").add(load).link("load", load), Pattern)
    assert_type(as_flow(ship.add(load)), Flow[..., dict[str, Any]])
    assert_type(charge.named("x"), FunctionTask[..., Receipt]) if False else None
    run(checkout, {})
    run(ship, {})
    run(as_flow(Reserve("b")), {})
    ship.link(load)  # E

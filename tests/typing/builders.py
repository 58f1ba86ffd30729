"""What type checkers see of flows: a call in a builder has the type of its task. Each line marked E must be an error."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, TypeVar, assert_type

from asyncflow.context import Context
from asyncflow.graph.flow import Flow, flow
from asyncflow.graph.pattern import Pattern, as_flow, graph, linear, unordered
from asyncflow.graph.policy import Exponential, Limit, Retry
from asyncflow.graph.signature import resource
from asyncflow.graph.decorator import task
from asyncflow.graph.task import Task
from asyncflow.outcomes import Outcome

T = TypeVar("T")


class Order:
    number: int = 0


class Receipt:
    pass


class Pool:
    pass


@task
async def load(order_id: int) -> Order:
    return Order()


@task
def price(order: Order) -> float:
    return 1.0


@task(retry=Retry(4, Exponential(0.1, cap=5.0), on=(ConnectionError,)), timeout=30.0, limits=Limit("api", 5))
async def charge(order: Order, total: float, *, note: str = "") -> Receipt:
    return Receipt()


@charge.revert
async def refund(order: Order, outcome: Outcome[Receipt]) -> None:
    pass


@task
async def with_context(ctx: Context, order: Order) -> str:
    return ctx.path


@task(name="other")
def with_context_in_thread(ctx: Context, order: Order) -> str:
    return ctx.path


@task
def with_resource(order: Order, db: Pool = resource()) -> bool:
    return True


@task
def show(value: object) -> str:
    return ""


@task
async def annotate(order: Order, extra: dict[str, Any]) -> dict[str, Any]:
    return extra


@task
def split(order: Order) -> tuple[int, str]:
    return order.number, ""


@task
async def forget() -> None:
    pass


@task
def add_up(*parts: float) -> float:
    return sum(parts)


@flow
def checkout(order_id: int) -> Receipt:
    order = load(order_id)
    assert_type(order, Order)
    assert_type(order.number, int)
    assert_type(price(order), float)
    assert_type(charge(order, price(order), note="x"), Receipt)
    assert_type(with_context(order), str)
    assert_type(with_context_in_thread(order=order), str)
    assert_type(with_resource(order), bool)
    assert_type(show(order), str)
    assert_type(annotate(order, {}), dict[str, Any])
    number, text = split(order)
    assert_type(number, int)
    assert_type(text, str)
    assert_type(add_up(1.0, price(order)), float)
    assert_type(load.named("first").after(forget())(order_id), Order)
    return charge(order, price(order))


@flow(timeout=5.0, provides="bill")
def outer(order_id: int, hurry: bool = False) -> tuple[Receipt, float]:
    receipt = checkout(order_id)
    assert_type(receipt, Receipt)
    assert_type(checkout.after(receipt)(order_id), Receipt)
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
    load.after(forget())("7")  # E
    return load(order_id)  # E


load.with_options(on_crash="ignore")  # E


def enter(connection: sqlite3.Connection, total: float, *, note: str = "") -> int:
    return 1


@task
async def book(ctx: Context, total: float) -> int:
    return ctx.transaction(enter, total, note="paid")


@task
async def misbook(ctx: Context, total: float) -> str:
    ctx.transaction(enter, "a lot")  # E
    ctx.transaction(enter)  # E
    return ctx.transaction(enter, total)  # E


class Reserve(Task):
    provides = "reservation"
    limits = (Limit("shop", 2),)
    timeout = 3.0

    def __init__(self, shop: str) -> None:
        super().__init__(name=f"reserve-{shop}")
        self.shop = shop

    async def execute(self, order: Order) -> str:
        return self.shop

    async def revert(self, order: Order, outcome: Outcome[str]) -> None:
        pass


def run(flow: Flow[..., T], inputs: Mapping[str, Any]) -> T:
    raise NotImplementedError


def patterns() -> None:
    ship = linear("ship", unordered("prepare", Reserve("a"), price), charge, timeout=4.0)
    assert_type(ship, Pattern)
    assert_type(ship.named("other"), Pattern)
    assert_type(Reserve("b").named("c"), Reserve)
    assert_type(graph("g").add(load).link("load", load), Pattern)
    assert_type(run(checkout, {}), Receipt)
    assert_type(run(outer, {}), tuple[Receipt, float])
    assert_type(run(ship, {}), dict[str, Any])
    assert_type(run(outer.target("price"), {}), dict[str, Any])
    assert_type(run(as_flow(load), {}), Order)
    run(as_flow(Reserve("b")), {})
    run(load, {})  # E
    ship.link(load)  # E

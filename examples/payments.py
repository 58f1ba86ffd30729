"""
Paying once although the process is killed in the middle: at a service that knows keys, and in books of one's own.

    python examples/payments.py
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import asyncflow as af


def killed_at(moment: str) -> None:
    if os.environ.get("KILLED") == moment:
        os.kill(os.getpid(), signal.SIGKILL)


class PaymentService:
    """Somebody else's, with a file of its own: it charges once a key, and counts what it is asked for."""

    def __init__(self, folder: str = ".") -> None:
        self.db = sqlite3.connect(f"{folder}/service.db", isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS charges(key UNIQUE, card, cents, requests DEFAULT 1)")

    def charge(self, key: str, card: str, cents: int) -> str:
        again = "ON CONFLICT DO UPDATE SET requests = requests + 1"
        self.db.execute(f"INSERT INTO charges(key, card, cents) VALUES (?, ?, ?) {again}", (key, card, cents))
        return f"receipt for {cents}"

    def close(self) -> None:
        self.db.close()

    def report(self) -> str:
        [(charges, requests)] = self.db.execute("SELECT count(*), sum(requests) FROM charges")
        [(double,)] = self.db.execute("SELECT count(*) - count(DISTINCT card) FROM charges")
        return f"asked {requests} times, charged {charges}, double {double}"


@af.task
def charge(ctx: af.Context, card: str, cents: int, careful: bool) -> str:
    key = ctx.idempotency_key if careful else os.urandom(8).hex()  # the same in each attempt, or another each time
    with closing(PaymentService()) as service:
        receipt = service.charge(key, card, cents)
    killed_at("charged")  # the money has gone, and the journal does not know
    return receipt


def enter(connection: sqlite3.Connection, card: str, receipt: str) -> int:
    connection.execute("CREATE TABLE IF NOT EXISTS books(card, receipt)")
    connection.execute("INSERT INTO books VALUES (?, ?)", (card, receipt))
    killed_at("entered")  # the line is written, and not committed
    return int(connection.execute("SELECT count(*) FROM books").fetchone()[0])


@af.task
async def book(ctx: af.Context, card: str, receipt: str) -> int:
    return ctx.transaction(enter, card, receipt)  # in the commit that records this task's ending


@af.flow
def pay(card: str, cents: int, careful: bool) -> int:
    return book(card, charge(card, cents, careful))


async def live(careful: bool) -> None:
    async with af.Engine("runs.db") as engine:
        inputs = {"card": "4200", "cents": 995, "careful": careful}
        lines = await (engine.resume("pay-1", pay) if await engine.runs() else engine.run(pay, inputs, run_id="pay-1"))
        print(f"  then paid, and the books have {lines} line", flush=True)


def main() -> None:
    for careful in (False, True):
        print("with a key of its own for each execution:" if careful else "with another key each time:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for moment in ("charged", "entered", "never"):
                command = [sys.executable, Path(__file__).resolve(), str(careful)]
                life = subprocess.run(command, cwd=folder, env={**os.environ, "KILLED": moment}, check=False)
                if life.returncode == -signal.SIGKILL:
                    print(f"  killed when it had {moment}", flush=True)
            with closing(PaymentService(folder)) as service:
                print(f"  the service: {service.report()}")


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1] == "True")) if sys.argv[1:] else main()

# Prints:
# with another key each time:
#   killed when it had charged
#   killed when it had entered
#   then paid, and the books have 1 line
#   the service: asked 2 times, charged 2, double 1
# with a key of its own for each execution:
#   killed when it had charged
#   killed when it had entered
#   then paid, and the books have 1 line
#   the service: asked 2 times, charged 1, double 0

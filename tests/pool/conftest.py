"""What the pool's tests share: pools that are closed in the end, and gates that hold their workers meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dari.pool import Pool

PATIENCE = 60  # seconds until a wait that should end is a failure


def until(condition: Callable[[], object]) -> None:
    """Spin until it holds: for what only another thread can bring about, and no event tells."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


class Gate:
    """Jobs that run until it is opened: meanwhile their workers are held."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._entered = threading.Semaphore(0)

    def open(self) -> None:
        self._open.set()

    def wait(self) -> str:
        self._entered.release()
        assert self._open.wait(PATIENCE)
        return "through"

    def hold(self, pool: Pool, workers: int = 1) -> list[Any]:
        """Give when `workers` of the pool are held."""
        jobs = [pool.submit(self.wait) for _ in range(workers)]
        for _ in jobs:
            assert self._entered.acquire(timeout=PATIENCE)
        return jobs


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def make_pool(gate: Gate) -> Iterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def make(*args: Any, **options: Any) -> Pool:
        pool = Pool(*args, **options)
        pools.append(pool)
        return pool

    yield make
    gate.open()
    for pool in pools:
        assert pool.shutdown(cancel_futures=True, timeout=PATIENCE)


@pytest.fixture
def one(make_pool: Callable[..., Pool]) -> Pool:
    """A pool of one worker."""
    return make_pool(1)

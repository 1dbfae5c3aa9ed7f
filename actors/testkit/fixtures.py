"""Fixtures for pytest: `pytest_plugins = ["actors.testkit.fixtures"]` in conftest.py, or at the top of a test file.

stage         `actors.testkit.stage`; a path of a configuration is looked for beside the test file
virtual_time  makes time virtual, and is what an `anyio_backend` fixture of yours may return

An async test that asks for one of them is run on a loop with virtual time, without a mark and without another plugin.
Where AnyIO's or another plugin runs the test, it stays with that one's loop.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.testkit import staging
from actors.testkit.acting import Stage
from actors.testkit.virtual import run_virtually, virtual_backend

OURS = frozenset({"stage", "virtual_time"})


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """`async with stage(config, models, files) as s:` - see `actors.testkit.stage`."""

    @asynccontextmanager
    async def run(config: str | Path = "", *args: Any, **more: Any) -> AsyncIterator[Stage]:
        if isinstance(config, Path):
            config = request.path.parent / config
        async with staging.stage(config, *args, **more) as found:
            yield found

    return run


@pytest.fixture
def virtual_time() -> tuple[str, dict[str, Any]]:
    """Return the name and options of a loop with virtual time, as an `anyio_backend` fixture returns them."""
    return virtual_backend()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test that asks for one of our fixtures, where nobody else does."""
    names = set(pyfuncitem.fixturenames)
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or not names & OURS or "anyio_backend" in names:
        return None
    if pyfuncitem.get_closest_marker("asyncio") or pyfuncitem.get_closest_marker("trio"):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    run_virtually(partial(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True

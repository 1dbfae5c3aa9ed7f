"""Both event loops, with time that jumps; on trio tools are async functions, since its clock knows no threads."""

from typing import Any

import pytest

from actors.testkit import virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return virtual_backend(request.param)

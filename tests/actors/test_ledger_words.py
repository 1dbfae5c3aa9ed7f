"""What a person is told of a step that failed."""

import anyio
import pytest

from actors.ledger import told
from runtime.errors import LlmOverloaded

pytestmark = pytest.mark.anyio


async def test_what_a_step_failed_of_is_said_in_our_words() -> None:
    assert told(LlmOverloaded("cut")) == "cut"
    assert told(ValueError("odd")) == "ValueError: odd"
    caught: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as error:
            caught.append(error)
            raise
    assert [told(error) for error in caught] == ["it was cut off"]

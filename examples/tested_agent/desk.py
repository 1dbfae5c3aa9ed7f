"""The tools of a clerk, and an actor that counts money."""

from runtime.errors import RequestInvalid
from runtime.stateful import AgentState, StatefulActor, handles
from runtime.tools.functions import tool
from runtime.tools.tool import ToolContext
from schemas.agents import Say
from schemas.base import Request

INVOICES = {7: 25, 8: 900}
PAID: dict[str, int] = {}


@tool(effect="pure")
def invoice(number: int) -> str:
    """Look up what an invoice is over.

    number: the number of the invoice
    """
    return f"invoice {number} is over {INVOICES[number]}"


@tool(permission="ask", effect="idempotent")
async def pay(number: int, ctx: ToolContext) -> str:
    """Pay an invoice. A person is asked first."""
    PAID[ctx.key] = INVOICES[number]  # a bank that is given the same key twice pays once
    return f"paid {INVOICES[number]}"


class Take(Request[int], type="till.take", public=True, durable=True):
    """Take money out of the till."""

    amount: int


class Till(StatefulActor):
    """Knows how much there is."""

    class State(AgentState):
        """What is kept in the database."""

        money: int = 500

    state: State

    @handles
    def take(self, message: Take) -> int:
        """Take money; what is left below the limit is told."""
        if message.amount > self.state.money:
            raise RequestInvalid(f"there are only {self.state.money}")
        self.state.money -= message.amount
        if self.state.money < self.options.get("limit", 0):
            self.emit("low", money=self.state.money)
        return self.state.money

    @handles
    def said(self, message: Say) -> str:
        """Answer `understudy ask till ...`."""
        return f"There are {self.state.money}."

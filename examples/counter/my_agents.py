"""An actor of our own: it counts, keeps its total over restarts, and has a job done at every tenth."""

from runtime.errors import RequestInvalid
from runtime.stateful import AgentState, StatefulActor, handles
from schemas.agents import Say
from schemas.base import Request
from schemas.jobs import NewJob


class Add(Request[int], type="counter.add", public=True):
    """Count on; the answer is the new total. Asked directly: fast, and gone if the daemon dies meanwhile."""

    times: int = 1


class Save(Request[int], type="counter.save", public=True, durable=True):
    """The same as a job: once it is taken in, it takes effect exactly once, whatever happens to the daemon."""

    times: int = 1


class Break(Request[int], type="counter.break", public=True):
    """Crash on purpose, to see what that does."""


class Counter(StatefulActor):
    """Counts in steps of `options.step`."""

    class State(AgentState):
        """What is kept in the database; each field has a default."""

        total: int = 0

    state: State

    @handles
    def add(self, message: Add | Save) -> int:
        """Count on; the state, the job and the event are one commit."""
        if message.times < 1:
            raise RequestInvalid("times must be 1 or more")  # an answer to whoever asked, no crash
        before = self.state.total
        self.state.total += message.times * int(self.options.get("step", 1))
        if self.state.total // 10 > before // 10:
            self.submit(NewJob(kind="echo", args={"reached": self.state.total}))
            self.emit("milestone", total=self.state.total)
        return self.state.total

    @handles
    def said(self, message: Say) -> str:
        """Answer `understudy ask counter ...`."""
        return f"I am at {self.state.total}."

    @handles
    def crash(self, message: Break) -> int:
        """Change the state, then fail: the change is dropped with the crash."""
        self.state.total = -1
        raise RuntimeError("broken on purpose")

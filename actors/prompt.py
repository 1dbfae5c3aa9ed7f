"""What a model is asked: who the agent is, what of the conversation fits, and what was said now."""

from collections.abc import Sequence
from typing import Final

from runtime.stateful import AgentState
from schemas.agents import Chain, Say
from schemas.chat import ChatMessage, ChatRequest, ToolSpec
from schemas.config import AgentSettings

INTERRUPTED: Final = "This call was interrupted; its outcome is unknown."

SUMMARISE: Final = (
    "Summarise the conversation above for yourself in at most 200 words: facts, decisions, open questions, names and "
    "numbers that matter. Write nothing else."
)
SUMMARY: Final = "Summary of what was said before, for your information only:\n"


def persona(settings: AgentSettings, state: AgentState) -> str:
    """Return the system message: who the agent is, what it works on, and its rules last."""
    parts = [
        f"You are {settings.role}." if settings.role else "",
        f"Your goal: {settings.goal}" if settings.goal else "",
        settings.backstory,
        f"Current project: {state.current_project}" if state.current_project else "",
        f"Current goal: {state.current_goal}" if state.current_goal else "",
        f"Notes: {state.general_notes}" if state.general_notes else "",
        settings.instructions,
    ]
    return "\n".join(part for part in parts if part)


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def heard(said: Say, chain: Chain) -> ChatMessage:
    """Return what was said to an agent. Words of another agent are data, and say whose they are."""
    return user(f"[message from the agent {chain.path[-1]}]\n{said.text}" if chain.path else said.text)


def public(body: str) -> ChatMessage:
    """Return a kept message as anybody may have it: what is only for the model's provider is left out."""
    return ChatMessage.model_validate_json(body).model_copy(update={"native": None})


def repaired(history: Sequence[ChatMessage]) -> tuple[tuple[ChatMessage, ...], int]:
    """Return *history* as a provider takes it, and how much had to be put right: a call without a result gets one that
    says so, and a result without its call is left out.
    """
    line: list[ChatMessage] = []
    open_calls: dict[str, str] = {}
    mended = 0

    def close() -> None:
        nonlocal mended
        for call, name in open_calls.items():
            line.append(ChatMessage(role="tool", name=name, tool_call_id=call, content=INTERRUPTED, failed=True))
            mended += 1
        open_calls.clear()

    for message in history:
        if message.role == "tool":
            if open_calls.pop(message.tool_call_id or "", None) is None:
                mended += 1
                continue
        else:
            close()
            open_calls.update((call.id, call.name) for call in message.tool_calls)
        line.append(message)
    close()
    return tuple(line), mended


class Prompt:
    """The request of one turn: it grows by what the model says and what its tools answer.

    system and history stand still during a turn; `said` is what came since. No text of a tool, a document or another
    agent is ever in the system message.
    """

    def __init__(
        self, settings: AgentSettings, state: AgentState, history: Sequence[ChatMessage], summary: str
    ) -> None:
        self.settings = settings
        system = persona(settings, state)
        self._system = (ChatMessage(role="system", content=system),) if system else ()
        self._history = tuple(history)
        self._summary = (ChatMessage(role="user", content=SUMMARY + summary),) if summary else ()
        self.said: list[ChatMessage] = []

    def halve(self) -> bool:
        """Forget the older half of the history, because the model's window is smaller than thought; False where
        there is nothing left to forget.
        """
        if not self._history and not self._summary:
            return False
        self._summary = ()
        self._history = repaired(self._history[(len(self._history) + 1) // 2 :])[0]
        return True

    def request(
        self,
        tools: Sequence[ToolSpec] = (),
        *,
        tool_choice: str | None = None,
        schema: dict[str, object] | None = None,
        more: Sequence[ChatMessage] = (),
    ) -> ChatRequest:
        """Return what the model is asked now."""
        llm = self.settings.llm
        assert llm is not None
        return ChatRequest(
            model=llm.model,
            messages=(*self._system, *self._summary, *self._history, *self.said, *more),
            tools=tuple(tools),
            tool_choice=tool_choice,
            response_schema=schema,
            temperature=llm.temperature,
            max_tokens=llm.max_tokens,
            extra=llm.extra,
        )

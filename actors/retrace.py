"""A run that stands still, told by what is on record of it."""

from actors.calls import shown
from actors.prompt import heard, repaired, user
from actors.turn import Said
from runtime.tools.tool import Toolbox
from schemas.agents import Chain, Say
from schemas.chat import ChatMessage
from schemas.config import AgentSettings
from schemas.jobs import JobView


def retrace(run: JobView, settings: AgentSettings, toolbox: Toolbox) -> tuple[ChatMessage, ...]:
    """Return the messages of what a run of the built-in mind has done, each call with a result; those that a turn
    would keep which goes through the same record (`actors.turn`). Raises ValidationError where it is no run.
    """
    done = {step.name: step.output for step in run.steps if step.state == "done"}
    said = [heard(Say.model_validate(run.payload["message"]), Chain.model_validate(run.payload.get("chain") or {}))]
    number = 0
    while True:
        said += [user(args["message"]["text"]) for _, args in done.get(f"steer/{number}", ())]
        answer = done.get(f"model/{number}")
        if answer is None:
            return repaired(said)[0]
        said.append(Said.of(answer).message)
        steps = ((f"tool/{number}.{m}", call) for m, call in enumerate(said[-1].tool_calls))
        said += [shown(toolbox, settings, run.id, step, call, done[step]) for step, call in steps if step in done]
        said += [user(args["message"]["text"]) for _, args in done.get(f"steer/{number}.end", ())]
        number += 1

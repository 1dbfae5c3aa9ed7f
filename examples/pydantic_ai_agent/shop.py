"""An agent of Pydantic AI as an agent of ours. Its model is a script, so that it needs no key and no network."""

from pydantic_ai import Agent
from pydantic_ai.models.function import DeltaToolCall, FunctionModel

from runtime.backends.pydantic_ai import PydanticAIBackend


async def script(messages, info):
    """Stand in for a model: ask for the price of the last word, then tell it."""
    last = messages[-1].parts[-1]
    if last.part_kind == "tool-return":
        yield f"That is {int(last.content) / 100:.2f}, please."
    else:
        item = last.content.rstrip(".?!").split()[-1]
        yield {0: DeltaToolCall(name="till_price", json_args=f'{{"item": "{item}"}}', tool_call_id="1")}


# For production only this would change: Agent("openai:gpt-4.1-mini", instructions=...)
agent = Agent(FunctionModel(stream_function=script), instructions="You are a cashier. Answer in one sentence.")

cashier = PydanticAIBackend(agent)

"""`tools`: what a person decides about the tools of MCP servers."""

from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import json_option
from runtime.cli.send import reply_of
from runtime.cli.text import cell, fields, say, say_json


@click.group(
    cls=LazyGroup, lazy={"pin": ("runtime.cli.tools", "pin", "Accept the tools of an MCP server as they are now.")}
)
def tools() -> None:
    """Accept the tools of an MCP server as they are."""


@click.command()
@click.argument("server")
@json_option
def pin(server: str, as_json: bool) -> None:
    """Accept the tools of the MCP server SERVER as they are now.

    What a server says its tools are is pinned when it is first seen; tools that have changed since are kept from agents
    until a person has looked at them and pins them anew.
    """
    body = {"type": "tool.pin", "message": {}}
    reply = reply_of(daemon.post(f"/v1/actors/{daemon.segment(f'mcp:{server}')}/ask", body, subject=server))
    if as_json:
        say_json(reply)
        return
    say(f"the tools of {cell(server)} are accepted as they are")
    if isinstance(reply, dict) and reply:
        say(fields((f"  {cell(name)}", _shown(value)) for name, value in reply.items()))


def _shown(value: Any) -> str:
    return ", ".join(cell(one) for one in value) if isinstance(value, list) else cell(value)

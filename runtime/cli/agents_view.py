"""How an agent looks: the whole of it."""

from collections.abc import Iterator
from typing import Any

from runtime.cli.runs_view import spent
from runtime.cli.text import cell, dump, escape, fields, money, when


def model(agent: dict[str, Any]) -> str:
    """Return which model an agent speaks with, or the class that it is."""
    return "/".join(part for part in (agent.get("provider"), agent.get("model")) if part) or agent.get("actor") or ""


def detail(agent: dict[str, Any]) -> str:
    """Return everything about an agent, and the commands for what waits."""
    return fields((*_persona(agent), *_means(agent), *_work(agent), *_state(agent)))


def _persona(agent: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "name", agent["name"]
    yield "status", f"{agent['status']} ({agent['state']})"
    yield ("quarantined" if agent["state"] == "quarantined" else "reason"), agent.get("reason")
    yield "role", agent.get("role")
    yield "goal", agent.get("goal")
    yield "backstory", agent.get("backstory")
    yield "model", model(agent)
    yield "temperature", agent.get("temperature")


def _means(agent: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "tools", ", ".join(agent.get("tools", ()))
    yield "missing tools", _pairs(agent.get("missing_tools"))
    yield "permissions", _pairs(agent.get("permissions"))
    yield "workdir", agent.get("workdir")
    yield "when busy", agent.get("when_busy")
    yield "budget", _budget(agent.get("budget") or {})
    yield "spent today", _today(agent)
    yield "actor", agent.get("actor")
    yield "defined in", agent.get("origin")


def _pairs(found: dict[str, str] | None) -> str | None:
    return "\n".join(f"{escape(name)}: {escape(word)}" for name, word in found.items()) if found else None


def _budget(limits: dict[str, float]) -> str | None:
    return ", ".join(f"{cell(name).replace('_', ' ')} {limit:,g}" for name, limit in limits.items()) or None


def _today(agent: dict[str, Any]) -> str | None:
    used = agent.get("spent_today")
    if not used:
        return None
    limits = agent.get("budget") or {}
    left = []
    if (most := limits.get("day_cost")) is not None:
        left.append(f"{money(max(0, round(most * 1_000_000) - used.get('cost', 0)))} of cost")
    if (most := limits.get("day_tokens")) is not None:
        tokens = used.get("input_tokens", 0) + used.get("output_tokens", 0)
        left.append(f"{max(0, int(most) - tokens):,} tokens")
    return spent(used) + (f"; left: {' and '.join(left)}" if left else "")


def _work(agent: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "pending", agent["pending"]
    yield "runs", "\n".join(f"understudy runs show {escape(run)}" for run in agent.get("runs", ()))
    waiting = agent.get("approvals", ())
    yield "approvals", "\n".join(f"understudy approvals show {escape(approval)}" for approval in waiting)
    yield "conversations", ", ".join(agent.get("conversations", ()))


def _state(agent: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "mailbox", agent["mailbox"]
    yield "restarts", agent["restarts"]
    yield "incarnation", agent.get("incarnation")
    yield "heartbeat", when(agent.get("last_heartbeat_at"))
    yield "last error", agent.get("last_error")
    yield "saved", dump(agent["saved"], pretty=True) if agent.get("saved") else None
    yield "version", f"{agent['state_version']} of the saved state" if agent.get("saved") else None

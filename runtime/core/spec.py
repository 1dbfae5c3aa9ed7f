"""The supervision tree as data: what a child is, how it is started, restarted and stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runtime.policies import RestartLimit

if TYPE_CHECKING:
    from runtime.core.actor import Actor

Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One actor. `shutdown` and `start_timeout` are in seconds, `mailbox` is in messages.

    permanent
        always restarted; one that stops itself too often is treated like one that crashes too often.
    transient
        restarted after a crash only.
    temporary
        never restarted; its name is free again when it ends.
    """

    id: str
    factory: Callable[[], Actor]
    restart: Restart = "permanent"
    shutdown: float = 5.0
    start_timeout: float = 20.0
    mailbox: int = 1000


@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """Children in start order and what happens to the others when one crashes. `shutdown` bounds the whole branch."""

    id: str
    children: tuple[ChildSpec | SupervisorSpec, ...] = ()
    strategy: Strategy = "one_for_one"
    on_exhausted: Literal["quarantine", "escalate"] = "escalate"
    limit: Callable[[], RestartLimit] = RestartLimit
    shutdown: float | None = None

"""The daemon itself: hello, health, status, the tree of actors, and what may be asked of it as a whole."""

from typing import Any, Literal

from pydantic import Field

from schemas.agents import Lifecycle
from schemas.base import Ack, Message, Millis, Model, Request

Health = Literal["starting", "ok", "degraded", "safe_mode", "draining"]


class Hello(Model):
    """Who answers on the socket."""

    product: str = "understudy"
    version: str
    api: dict[str, int] = Field(description="min and max of the API versions spoken")
    pid: int
    started_at: Millis
    features: tuple[str, ...] = ()


class HealthView(Model):
    """Whether the daemon does its work, and if not, why."""

    health: Health
    reasons: tuple[str, ...] = ()
    loop_lag_ms: float = 0.0
    blocked: dict[str, Any] | None = Field(default=None, description="the actor and message that block the loop")


class StatusView(Model):
    """One screen: what runs, what waits, what is wrong. `uptime` is in seconds."""

    pid: int
    version: str
    uptime: float
    health: Health
    reasons: tuple[str, ...] = ()
    home: str
    config: str
    boot: str
    durability: str
    agents: dict[str, int]
    workers: dict[str, int]
    queues: dict[str, dict[str, int]]
    repairs: dict[str, int] = Field(
        default_factory=dict,
        description="how often what had to be put right since the start; nothing where all is well",
    )
    loop_lag_ms: float
    blocked: dict[str, Any] | None = None


class ActorView(Model):
    """A cell as `ps` shows it, with those below it. Ages are in seconds."""

    name: str
    kind: Literal["supervisor", "actor"]
    state: Lifecycle
    restarts: int
    incarnation: int
    mailbox: int
    handled: int
    oldest: float | None = Field(default=None, description="age of the oldest waiting message")
    doing: str | None = Field(default=None, description="the type of the message being handled")
    doing_for: float | None = None
    reason: str | None = None
    children: tuple["ActorView", ...] = ()


class Shutdown(Request[Ack], type="system.shutdown", public=True):
    """Stop the daemon in order; with `now`, without waiting for running work."""

    now: bool = False


class Reloaded(Model):
    """What a reload did."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = Field(default=(), description="settings that only a new start applies")
    read_anew: bool = Field(default=False, description="whether code had changed and was loaded anew")
    missing_tools: tuple[str, ...] = Field(default=(), description="functions that agents name and that are not there")


class Reload(Request[Reloaded], type="system.reload", public=True):
    """Read the configuration again; on any mistake the running one stays."""


class Happened(Message, type="system.happened", overflow="drop_oldest"):
    """Something happened to an actor; the keeper of the store writes it down."""

    kind: str
    subject: str
    data: dict[str, Any]

"""Events: what happened, as kept in the database and replayed to whoever asks."""

from typing import Any

from pydantic import Field

from schemas.base import Millis, Model


class Event(Model):
    """Something that happened. Events of one commit carry rising offsets; they hold ids and small facts, never
    payloads.

    `offset` is an opaque cursor for replay; None for what is told live and not kept (a token, a progress mark).
    `type` is dotted (`job.completed`, `agent.quarantined`); `subject` is what it happened to (a job's id, an actor's
    name).
    """

    offset: int | None = None
    at: Millis
    type: str = Field(max_length=64)
    subject: str = Field(max_length=128)
    data: dict[str, Any] = Field(default_factory=dict)


class StreamPart(Model):
    """One part of a stream, in the order it is sent; exactly one `done` or `error` ends a stream.

    `kind` is the event name on the wire: accepted, started, token, reasoning, progress, log, event, lagged, done,
    error.
    """

    kind: str
    data: dict[str, Any] = Field(default_factory=dict)
    id: int | None = None

"""How a fault travels: one shape for the socket, for a failed job and between actors."""

from typing import Any, Literal

from pydantic import Field

from schemas.base import Model

ErrorClass = Literal["transient", "rate_limited", "timeout", "permanent", "cancelled", "lost", "dependency", "bug"]
"""Whose doing a failed attempt was; the retry policy reads this and nothing else."""


class Problem(Model):
    """An error as told to others (RFC 9457): what happened, whether to try again, and what to do next.

    `code` is one of `schemas.codes.CODES`; `detail` is a sentence for a person; `data` holds facts a program may use
    and never a secret.
    """

    code: str
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    hint: str = ""
    retryable: bool = False
    retry_after_ms: int | None = Field(default=None, ge=0)
    request_id: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)

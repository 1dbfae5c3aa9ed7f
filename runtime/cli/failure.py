"""What goes wrong, as a person reads it: what happened, why, and the next command; and the exit code for scripts."""

import sys
from typing import Any, Final

from runtime.cli.text import cell, escape, paint
from schemas.codes import CODES, EXIT_DENIED, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_TEMPORARY

_BY_STATUS: Final = {403: EXIT_DENIED, 404: EXIT_NOT_FOUND, 429: EXIT_TEMPORARY, 503: EXIT_TEMPORARY}
_EMPTY_HINTS: Final = (
    *("See the detail.", "See `data.known`."),
    *("Mend what `data.errors` names.", "`data.errors` names what is wrong."),
)


class Failure(Exception):
    """An end of the command that is told in one to three lines on stderr.

    `exit` is the exit code; `problem` is the daemon's code for it where there is one, `data` what it told programs;
    `bare` leaves the word `error:` out, for what is no error of the command (a daemon that is down, a cancelled
    question).
    """

    def __init__(
        self, what: str, why: str = "", hint: str = "", *, code: int = EXIT_FAILED, bare: bool = False
    ) -> None:
        super().__init__(what)
        self.what, self.why, self.hint, self.exit, self.bare = what, why, hint, code, bare
        self.problem = ""
        self.data: dict[str, Any] = {}

    def render(self) -> str:
        """Return the lines for stderr, safe for a terminal."""
        lines = [("" if self.bare else paint("error:", "red", sys.stderr) + " ") + escape(self.what)]
        lines += [f"  why: {escape(line)}" for line in self.why.splitlines() if line.strip()]
        if self.hint:
            lines.append(f"  next: {escape(self.hint)}")
        return "\n".join(lines)


class Interrupted(Failure):
    """The person pressed Ctrl-C; says what that did, on a line of its own below the `^C` of the terminal."""

    def render(self) -> str:
        """Return the lines for stderr, safe for a terminal."""
        return ("\n" if sys.stderr.isatty() else "") + super().render()


def from_problem(problem: dict[str, Any], *, subject: str = "") -> Failure:
    """Turn a problem of the daemon into a failure; *subject* is the id or name that its hint speaks of."""
    code = str(problem.get("code") or "internal")
    entry = CODES.get(code)
    status = problem.get("status")
    what = str(problem.get("title") or (entry.title if entry else code))
    given = problem.get("data")
    data = given if isinstance(given, dict) else {}
    failure = Failure(
        what,
        _why(what, problem, data),
        _hint(str(problem.get("hint") or (entry.hint if entry else "")), subject, data),
        code=entry.exit if entry else _BY_STATUS.get(status if isinstance(status, int) else 0, EXIT_FAILED),
    )
    failure.problem, failure.data = code, data
    return failure


def _why(what: str, problem: dict[str, Any], data: dict[str, Any]) -> str:
    detail = str(problem.get("detail") or "")
    lines = [] if detail == what else [detail]
    lines += [
        line
        for error in (*_list(data, "errors"), *_list(data, "mistakes"))
        if (line := _mistake(error)).rstrip(".") not in detail
    ]
    known = ", ".join(cell(name) for name in _list(data, "known"))
    if known and not detail.endswith(f": {known}"):
        lines.append(f"known: {known}")
    if problem.get("code") == "internal" and problem.get("request_id"):
        lines.append(f"request id: {problem['request_id']}")
    return "\n".join(lines)


def _list(data: dict[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    return value if isinstance(value, list) else []


def _mistake(error: Any) -> str:
    if not isinstance(error, dict):
        return cell(error)
    if "file" in error:
        place = f"{error['file']}:{error.get('line', 0)}:{error.get('column', 0)}"
        hint = f" ({error['hint']})" if error.get("hint") else ""
        return f"{place}: {error.get('message', '')}{hint}"
    loc = error.get("loc")
    where = ".".join(str(step) for step in loc) if isinstance(loc, list) else cell(loc)
    return f"{where}: {error.get('msg', '')}"


def _hint(hint: str, subject: str, data: dict[str, Any]) -> str:
    if hint in _EMPTY_HINTS:
        return ""
    for name in ("known", "errors", "oldest", "limit"):
        if name in data:
            hint = hint.replace(f"See `data.{name}`; ", "").replace(f"`data.{name}`", cell(data[name]))
    for placeholder in (" ID`", " ID ", " NAME`"):
        if subject:
            hint = hint.replace(placeholder, placeholder.replace("ID", subject).replace("NAME", subject))
    return hint[:1].upper() + hint[1:] if hint.startswith("define") else hint

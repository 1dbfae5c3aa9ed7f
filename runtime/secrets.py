"""Secrets: a type that shows nothing, references that lead to one, and the redactor that keeps them out of text."""

import base64
import hmac
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import quote, quote_plus

from runtime.errors import SecretUnavailable
from schemas.config import SECRET_SCHEMES

MASK: Final = "[secret]"
MAX_SECRET: Final = 64 * 1024
SHORTEST: Final = 4
"""Text of fewer characters is not redacted: it would be found in every other word."""


class Secret:
    """A value that no `repr`, `str`, format, log or pickle shows; `reveal()` gives it where it is used."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value. Hand it on, never keep it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret()"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not copied out of the process")


def resolve(reference: str, environ: Mapping[str, str]) -> Secret:
    """Return the secret that *reference* names: `env:NAME` from *environ*, `file:/path` without its last line end.

    Raises SecretUnavailable, which never quotes what might be a secret. Reads the file in the calling thread.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "env" and rest:
        return _from_environment(rest, environ)
    if scheme == "file" and rest:
        return _from_file(rest)
    if scheme in SECRET_SCHEMES and rest:
        raise SecretUnavailable(f"{scheme}: is not supported yet; use env:NAME or file:/path", scheme=scheme)
    raise SecretUnavailable("this is no reference to a secret; write env:NAME or file:/path")


def _from_environment(name: str, environ: Mapping[str, str]) -> Secret:
    # A key that was pasted behind env: must not be told again, so only what can be a variable's name is shown.
    shown = name if re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name) else "that is named"
    if not environ.get(name):
        state = "empty" if name in environ else "not set"
        raise SecretUnavailable(f"the environment variable {shown} is {state}", scheme="env")
    return Secret(environ[name])


def _from_file(path: str) -> Secret:
    def refused(reason: str) -> SecretUnavailable:
        return SecretUnavailable(f"{path}: {reason}", scheme="file", file=path)

    if not path.startswith("/"):
        raise SecretUnavailable("the file of a secret is named by its whole path: file:/path", scheme="file")
    try:
        # Not blocking, or a named pipe would hold up the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise refused(error.strerror or "cannot be opened") from None
    try:
        if (reason := _unfit(os.fstat(descriptor), path)) is not None:
            raise refused(reason)
        raw = os.read(descriptor, MAX_SECRET + 1)
    finally:
        os.close(descriptor)
    try:
        value = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise refused("is not text in UTF-8") from None
    if not value or len(raw) > MAX_SECRET:
        raise refused("is empty" if not value else "is larger than 64 KiB")
    return Secret(value)


def _unfit(found: os.stat_result, path: str) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_uid not in (0, os.getuid()):
        return f"belongs to uid {found.st_uid}"
    if found.st_mode & 0o077:
        return f"others may read or write it; run: chmod 600 {path}"
    return None


class Redactor:
    """Replaces known secrets in text and structures, also where they are base64, URL-encoded or escaped.

    Secrets of fewer than four characters are left alone. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def register(self, secret: Secret) -> None:
        """Know *secret* from now on."""
        value = secret.reveal()
        found = {form for form in spellings(value) if len(form) >= SHORTEST}
        # A traceback or a log viewer shows a key file line by line.
        found.update(line for line in value.splitlines() if len(line) >= 16)
        self._forms = self._forms | found
        self._pattern = re.compile("|".join(map(re.escape, longest_first(self._forms)))) if self._forms else None

    def text(self, text: str) -> str:
        """Return *text* with every known secret replaced by `[secret]`."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub(MASK, text)

    def apply(self, value: Any) -> Any:
        """Return *value* with the text in it redacted: strings, bytes, and the keys and values of what holds them.

        Other objects are returned as they are; turn them into text first.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode("latin-1")).encode("latin-1")
        if isinstance(value, Mapping):
            return {self.apply(key): self.apply(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            items = [self.apply(inner) for inner in value]
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return type(value)(*items)
            return next(kind for kind in (list, tuple, set, frozenset) if isinstance(value, kind))(items)
        return value


def longest_first(forms: Iterable[str]) -> list[str]:
    """Return *forms* so that none is found where a longer one is."""
    return sorted(forms, key=len, reverse=True)


def spellings(value: str) -> list[str]:
    """Return how *value* may look in text, the longest first."""
    raw = value.encode()
    plain = {value, repr(value)[1:-1], raw.hex(), raw.hex().upper()}
    # As JSON, and as JSON of a `repr`, which is how an object comes out of the log.
    plain |= {json.dumps(form, ensure_ascii=pure)[1:-1] for form in plain for pure in (True, False)}
    urls = {quote(value), quote(value, safe=""), quote_plus(value)}
    urls |= {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), url) for url in urls}
    latin = {raw.decode("latin-1")}  # bytes are redacted in this form
    return longest_first(plain | urls | latin | _in_pages(plain) | _base64_forms(raw))


_TAGS: Final = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_PAGES: Final = (
    {"/": "\\/"},
    *(
        {letter: template % ord(letter) for letter in some}
        for template in ("\\u%04x", "\\u%04X")
        for some in ("<>&", "<>&'\"")
    ),
    _TAGS,
    *(_TAGS | {'"': "&quot;", "'": apostrophe} for apostrophe in ("'", "&#x27;", "&#39;", "&apos;")),
    _TAGS | {'"': "&#34;", "'": "&#39;", "+": "&#43;"},
)
"""What programs write in place of letters, in HTML and in JSON that is to be safe within it."""


def _in_pages(forms: set[str]) -> set[str]:
    tables = [str.maketrans(table) for table in _PAGES]
    return {form.translate(table) for form in forms for table in tables}


def _base64_forms(raw: bytes) -> set[str]:
    """Return what is constant of *raw* in base64, wherever it begins in the encoded text (`Basic user:secret`)."""
    forms = set()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw).decode()
        # Characters that also hold bits of a neighbour are left out, else the form would match only at the end.
        first = -(-shift * 8 // 6)
        last = (shift + len(raw)) * 8 // 6
        whole = encoded[first:last]
        if len(whole) >= 8:
            forms |= {whole, whole.replace("+", "-").replace("/", "_")}
    return forms

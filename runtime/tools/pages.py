"""Makes text of HTML in one pass: a page that is made to be hard to read takes no longer than another."""

import html
import re
from typing import Final

# Possessive throughout: nothing here is ever tried a second way.
TAG: Final = re.compile(r"""</?([a-zA-Z][^\s/>]*+)((?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+)>""")
BEGIN: Final = re.compile(r"<(?:[a-zA-Z!?]|/[a-zA-Z]?)")
"""What makes a `<` more than a letter; with `</` and no name it is a remark, like `<!` and `<?`."""
SPACE: Final = re.compile(r"\s+")
MANY: Final = re.compile(r"\n{3,}")

RAW: Final = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "iframe", "noembed", "noframes")
}
"""Elements that hold no markup, by what ends them; none is for reading."""
HIDDEN: Final = frozenset({"noscript", "template", "svg"})
BREAKS: Final = frozenset(
    {"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "pre"}
)


def readable(page: str) -> str:
    """Return what a page says, without its markup."""
    reader, at = _Reader(page), 0
    while at < len(page):
        begin = page.find("<", at)
        end = len(page) if begin < 0 else begin
        reader.say(page[at:end])
        at = end if end == len(page) else reader.mark(end)
    lines = (" ".join(line.split()) for line in "".join(reader.said).split("\n"))
    return MANY.sub("\n\n", "\n".join(lines)).strip()


class _Reader:
    def __init__(self, page: str) -> None:
        self.said: list[str] = []
        self._page = page
        self._hidden = 0
        self._head = False

    def say(self, text: str) -> None:
        """Take the next words."""
        if text and not self._hidden and not self._head:
            self.said.append(SPACE.sub(" ", _plain(text)))

    def mark(self, at: int) -> int:
        """Take the markup that begins at *at*; return where it ends. What never ends goes on to the end of the page."""
        page = self._page
        if page.startswith("<!--", at):
            return self._after(page.find("-->", at + 2), 3)
        begin = BEGIN.match(page, at)
        if begin is None:
            self.say("<")
            return at + 1
        if begin[0][1] in "!?" or begin[0] == "</":
            return self._after(page.find(">", at), 1)
        tag = TAG.match(page, at)
        if tag is None:
            return len(page)
        name = tag[1].lower()
        if begin[0].startswith("</"):
            self._close(name)
        elif name in RAW:
            end = RAW[name].search(page, tag.end())
            return end.start() if end else len(page)
        else:
            self._open(name, alone=tag[2].endswith("/"))
        return tag.end()

    def _after(self, found: int, length: int) -> int:
        return len(self._page) if found < 0 else found + length

    def _open(self, name: str, *, alone: bool) -> None:
        if name == "head":
            self._head = True
        elif name == "body" or name in BREAKS:  # a head need not be closed
            self._head = False
        if name in HIDDEN:
            self._hidden += not alone
        elif name in BREAKS and not self._hidden:
            self.said.append("\n")

    def _close(self, name: str) -> None:
        if name == "head":
            self._head = False
        elif name in HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif name in BREAKS and not self._hidden:
            self.said.append("\n")


def _plain(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # the number of a letter with thousands of digits
        return text

"""Rules that every store goes by alike: what an approval covers, and which notes fit some words."""

from collections.abc import Iterable, Sequence

from runtime.store.port import ApprovalRow, NoteRow, UseApproval


def why_not(row: ApprovalRow | None, change: UseApproval) -> str | None:
    """Return why an approval may not be used as *change* asks; None: it may."""
    if row is None:
        return "there is none of this id"
    if (row.job, row.step) != (change.fence.id, change.step):
        return "it is for another call"
    if row.tool != change.tool:
        return "it is for another tool"
    if row.status not in ("allowed", "used"):
        return f"it is {row.status}"
    if (row.edited_digest or row.digest) != change.digest:
        return "it is for other arguments"
    if row.status == "allowed" and row.expires_at <= change.now:
        return "it has expired"
    return None


def best(notes: Iterable[NoteRow], words: Sequence[str], limit: int) -> tuple[NoteRow, ...]:
    """Return at most *limit* of *notes*, which come newest first: those with most of *words* in their key or text, of
    equals the newest; without words the newest. (Not by SQLite, which knows the letter cases of English alone.)
    """
    wanted = {word.casefold() for word in words} - {""}
    found = list(notes)
    if wanted:
        counted = [(sum(word in _text(note) for word in wanted), note) for note in found]
        counted.sort(key=_count, reverse=True)
        found = [note for count, note in counted if count]
    return tuple(found[:limit])


def _text(note: NoteRow) -> str:
    return f"{note.key}\n{note.text}".casefold()


def _count(pair: tuple[int, NoteRow]) -> int:
    return pair[0]

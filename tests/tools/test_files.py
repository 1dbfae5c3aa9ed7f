"""The file tools: what they do, and that no path, link or race leads them out of the folder."""

import dataclasses
import itertools
import os
import random
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ToolError, ToolInvalid
from runtime.tools import files, searching
from runtime.tools.files import MAX_LISTED, MAX_READ, MAX_WRITE, file_tools
from runtime.tools.searching import MAX_FOUND
from runtime.tools.tool import ToolContext

SECRET = "nobody may read this"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    return folder


async def call(name: str, ctx: ToolContext, **arguments: Any) -> str:
    made = file_tools()[name]
    return (await made.run(ctx, made.check(arguments))).text


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# -- what they do ------------------------------------------------------------------------------------------------------


async def test_what_is_written_is_read_and_listed(ctx: ToolContext, workdir: Path) -> None:
    assert await call("files.write", ctx, path="a/b/c.txt", text="grüße\n") == "wrote 8 bytes to a/b/c.txt"
    assert (workdir / "a/b/c.txt").read_text() == "grüße\n"
    assert await call("files.read", ctx, path="./a//b/c.txt") == "grüße\n"
    await call("files.write", ctx, path="a/z", text="")
    assert await call("files.list", ctx, path="a") == "b/\nz 0"
    assert await call("files.list", ctx) == "a/"
    assert await call("files.list", ctx, path="a/b") == "c.txt 8"
    assert below(workdir) == {"a", "a/b", "a/b/c.txt", "a/z"}


async def test_writing_replaces_all_and_keeps_who_may_run_it(ctx: ToolContext, workdir: Path) -> None:
    script = workdir / "run.sh"
    script.write_text("a long text that was there")
    script.chmod(0o750)
    await call("files.write", ctx, path="run.sh", text="short")
    assert script.read_text() == "short"
    assert script.stat().st_mode & 0o7777 == 0o750


async def test_a_file_is_read_by_parts(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "f").write_text("0123456789")
    assert await call("files.read", ctx, path="f", offset=2, limit=3) == "234\n[5 more bytes from offset 5]"
    assert await call("files.read", ctx, path="f", offset=8) == "89"
    assert await call("files.read", ctx, path="f", offset=100) == ""


async def test_letters_are_not_cut_in_two(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "f").write_text("aüb€c😀d")
    parts, offset = [], 0
    while True:
        part, _, more = (await call("files.read", ctx, path="f", offset=offset, limit=4)).partition("\n[")
        parts.append(part)
        if not more:
            break
        offset = int(more.removesuffix("]").rpartition(" ")[2])
    assert parts == ["aüb", "€c", "😀", "d"]
    assert await call("files.read", ctx, path="f", offset=1, limit=1) == "\ufffd\n[11 more bytes from offset 2]"


async def test_one_call_reads_and_writes_so_much_and_no_more(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "f").write_bytes(b"x" * (MAX_READ + 7))
    text = await call("files.read", ctx, path="f", limit=10 * MAX_READ)
    assert text == "x" * MAX_READ + f"\n[7 more bytes from offset {MAX_READ}]"
    await call("files.write", ctx, path="f", text="y" * MAX_WRITE)
    with pytest.raises(ToolError, match=f"{MAX_WRITE + 2} bytes"):
        await call("files.write", ctx, path="f", text="ä" * (MAX_WRITE // 2 + 1))
    assert (workdir / "f").stat().st_size == MAX_WRITE


async def test_a_full_folder_is_listed_in_part(ctx: ToolContext, workdir: Path) -> None:
    for number in range(MAX_LISTED + 2):
        (workdir / f"{number:05}").touch()
    lines = (await call("files.list", ctx)).splitlines()
    assert (len(lines), lines[0], lines[-1]) == (MAX_LISTED + 1, "00000 0", "[2 more]")


async def test_an_empty_folder_says_so(ctx: ToolContext) -> None:
    assert await call("files.list", ctx) == "(nothing is in it)"


async def test_names_that_are_no_text_are_told_as_text(ctx: ToolContext, workdir: Path) -> None:
    (workdir / os.fsdecode(b"a\xff")).write_text("find me")
    (workdir / "b\nc").write_text("find me")
    listed, found = await call("files.list", ctx), await call("files.search", ctx, words="find")
    assert listed == "a\ufffd 7\nb\ufffdc 7"
    assert found == "a\ufffd:1: find me\nb\ufffdc:1: find me"


async def test_lines_are_found_with_their_place(ctx: ToolContext, workdir: Path, outside: Path) -> None:
    (workdir / "a/.git").mkdir(parents=True)
    (workdir / "a/one").write_text("nothing\n  the WORD (x\n")
    (workdir / "a/.git/two").write_text("word")
    (workdir / "three").write_text("a word")
    (workdir / "binary").write_bytes(b"word\0")
    (workdir / "link").symlink_to(outside)
    (workdir / "file").symlink_to(outside / "secret")
    os.mkfifo(workdir / "pipe")
    assert await call("files.search", ctx, words="word") == "a/one:2: the WORD (x\nthree:1: a word"
    assert await call("files.search", ctx, words="WORD (", path="a") == "a/one:2: the WORD (x"
    assert await call("files.search", ctx, words="nobody") == "nothing was found"
    with pytest.raises(ToolError, match="no words"):
        await call("files.search", ctx, words="")


async def test_words_are_found_whatever_the_case_of_their_letters(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "a.txt").write_text("die Straße (x+)\nDIE STRASSE\n", encoding="utf-8")
    assert await call("files.search", ctx, words="die strasse") == "a.txt:1: die Straße (x+)\na.txt:2: DIE STRASSE"
    assert await call("files.search", ctx, words="(X+)") == "a.txt:1: die Straße (x+)"


async def test_a_search_ends_when_it_has_enough(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "a").mkdir()
    for name in ("a/1", "b"):
        (workdir / name).write_text("x\n" * 150)
    lines = (await call("files.search", ctx, words="x")).splitlines()
    assert len(lines) == MAX_FOUND + 1
    assert "may be more" in lines[-1]


async def test_a_search_looks_into_so_many_files(
    ctx: ToolContext, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "MAX_SEARCHED", 3)
    for name in "abcd":
        (workdir / name).write_bytes(b"\0")  # those that are no text count too
    (workdir / "e").write_text("here")
    assert await call("files.search", ctx, words="here") == "[there may be more; look in a smaller folder]"


async def test_a_search_reads_so_much(ctx: ToolContext, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MAX_BYTES", 10)
    for name, text in {"a": "here", "b": "not this", "c": "here"}.items():
        (workdir / name).write_text(text)
    assert (await call("files.search", ctx, words="here")).splitlines() == [
        "a:1: here",
        "[there may be more; look in a smaller folder]",
    ]


async def test_exactly_as_many_lines_as_are_shown_are_all(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "f").write_text("x\n" * MAX_FOUND)
    lines = (await call("files.search", ctx, words="x")).splitlines()
    assert (len(lines), lines[-1]) == (MAX_FOUND, f"f:{MAX_FOUND}: x")


async def test_lines_are_counted_as_editors_do(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "f").write_bytes("a\u2028b\x0cc\r\nhere\r\n".encode())
    assert await call("files.search", ctx, words="here") == "f:2: here"
    assert await call("files.search", ctx, words="^here$", regex=True) == "f:2: here"


# -- regular expressions -----------------------------------------------------------------------------------------------


async def test_an_expression_is_looked_for(ctx: ToolContext, workdir: Path, outside: Path) -> None:
    (workdir / "a").mkdir()
    (workdir / "a/grüße").write_text("one 1\ntwo 22\nTHREE 3ä\n")
    (workdir / "b").write_text("four 44")
    (workdir / "link").symlink_to(outside)
    assert await call("files.search", ctx, words=r"\d\d", regex=True) == "a/grüße:2: two 22\nb:1: four 44"
    assert await call("files.search", ctx, words="three", regex=True) == "nothing was found"
    assert await call("files.search", ctx, words="(?i)three.*ä$", regex=True, path="a") == "a/grüße:3: THREE 3ä"
    assert await call("files.search", ctx, words="nobody|four", regex=True) == "b:1: four 44"


@pytest.mark.parametrize(
    ("words", "path", "told"),
    [
        ("(", ".", "no regular expression"),
        ("a{99999999999999999999}", ".", "no regular expression"),
        ("", ".", "no words"),
        ("x", "..", "leads out"),
        ("x", "/etc", "absolute"),
        ("x", "link", "is a link"),
        ("x", "none", "there is no 'none'"),
        ("x", "\ud800", "a path is text"),
    ],
)
async def test_what_is_wrong_with_an_expression_is_told(
    words: str, path: str, told: str, ctx: ToolContext, workdir: Path, outside: Path
) -> None:
    (workdir / "link").symlink_to(outside)
    with pytest.raises(ToolError, match=told):
        await call("files.search", ctx, words=words, path=path, regex=True)


async def test_any_text_may_be_an_expression(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "f").write_text("here")
    for words in ("\ud800", "a\0b", "ü\n"):
        assert await call("files.search", ctx, words=words, regex=True) == "nothing was found"


async def test_an_expression_that_never_ends_is_ended(
    ctx: ToolContext, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SEARCH_TIME", 0.5)
    (workdir / "f").write_text("a" * 100)
    with pytest.raises(ToolError, match=r"longer than 0\.5 s"):
        await call("files.search", ctx, words="(a+)+b", regex=True)


async def test_the_folder_has_no_say_in_how_it_is_searched(
    ctx: ToolContext, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "re", "runtime", "sitecustomize"):
        (workdir / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", str(workdir))
    monkeypatch.setenv("PYTHONSTARTUP", str(workdir / "re.py"))
    assert "re.py:1" in await call("files.search", ctx, words="op.n", regex=True)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("files.search", {"words": "x" * 1001}),
        ("files.search", {"words": "x", "regex": "yes"}),
        ("files.read", {}),
        ("files.read", {"path": 3}),
        ("files.read", {"path": "f", "offset": -1}),
        ("files.read", {"path": "f", "offset": 1e300}),
        ("files.write", {"path": "f"}),
        ("files.list", {"path": "f", "more": 1}),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolInvalid):
        file_tools()[name].check(arguments)


def test_what_may_be_done_again() -> None:
    effects = {name: made.effect for name, made in file_tools().items()}
    assert effects == {
        "files.read": "pure",
        "files.write": "idempotent",
        "files.list": "pure",
        "files.search": "pure",
    }


# -- nothing leads out -------------------------------------------------------------------------------------------------


async def every(ctx: ToolContext, path: str, folder: str | None = None) -> None:
    """Have each tool refuse *path*, or those that take a folder *folder*."""
    with pytest.raises(ToolError):
        await call("files.read", ctx, path=path)
    with pytest.raises(ToolError):
        await call("files.write", ctx, path=path, text="x")
    with pytest.raises(ToolError):
        await call("files.list", ctx, path=folder or path)
    with pytest.raises(ToolError):
        await call("files.search", ctx, words="x", path=folder or path)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//etc/passwd",
        "../outside/secret",
        "a/../../outside/secret",
        "a/..",
        "..",
        "a\0b",
        "\ud800",
        "x/" * 65 + "y",
    ],
)
async def test_a_path_that_leads_out_is_refused(path: str, ctx: ToolContext, workdir: Path, outside: Path) -> None:
    (workdir / "a").mkdir()
    await every(ctx, path)
    assert (outside / "secret").read_text() == SECRET
    assert below(workdir) == {"a"}


@pytest.mark.parametrize("path", ["", ".", "./", "a"])
async def test_a_folder_is_no_file(path: str, ctx: ToolContext, workdir: Path) -> None:
    (workdir / "a").mkdir()
    with pytest.raises(ToolError):
        await call("files.read", ctx, path=path)
    with pytest.raises(ToolError):
        await call("files.write", ctx, path=path, text="x")
    assert below(workdir) == {"a"}


async def test_links_are_not_followed(ctx: ToolContext, workdir: Path, outside: Path) -> None:
    (workdir / "file").symlink_to(outside / "secret")
    (workdir / "folder").symlink_to(outside)
    (workdir / "nowhere").symlink_to(outside / "new")
    for path in ("file", "folder/secret", "nowhere"):
        await every(ctx, path)
    for path in ("folder", "folder/."):
        with pytest.raises(ToolError, match="is a link"):
            await call("files.list", ctx, path=path)
    assert await call("files.list", ctx) == (
        "file (a link, not followed)\nfolder (a link, not followed)\nnowhere (a link, not followed)"
    )
    assert (outside / "secret").read_text() == SECRET
    assert below(outside) == {"secret"}


async def test_the_folder_itself_may_be_behind_a_link(ctx: ToolContext, workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(workdir)
    (workdir / "f").write_text("here")
    assert await call("files.read", dataclasses.replace(ctx, workdir=tmp_path / "way"), path="f") == "here"


async def test_a_parent_that_is_swapped_meanwhile_leads_nowhere(ctx: ToolContext, workdir: Path, outside: Path) -> None:
    """A folder takes turns with a link to the outside; whatever a call meets, it is the inside or a refusal."""
    (workdir / "inside").mkdir()
    (workdir / "inside/secret").write_text("mine")
    (workdir / "link").symlink_to(outside)
    (workdir / "inside").rename(workdir / "door")
    over, strays = threading.Event(), itertools.count()

    def move(what: Path, to: Path) -> None:
        while True:
            try:
                what.replace(to)
                return
            except OSError:  # a write has made a folder where the door was missing
                to.rename(workdir / f"stray{next(strays)}")

    def swap() -> None:
        while not over.is_set():
            move(workdir / "door", workdir / "inside")
            move(workdir / "link", workdir / "door")
            move(workdir / "door", workdir / "link")
            move(workdir / "inside", workdir / "door")
            over.wait(random.random() / 1000)  # out of step with the calls, so that they meet both

    thread = threading.Thread(target=swap)
    thread.start()
    served = refused = number = 0
    try:
        while number < 300 or not served or not refused:
            number += 1
            try:
                assert files.read(workdir, {"path": "door/secret"}) == "mine"
                served += 1
                files.write(workdir, {"path": f"door/new{number % 5}", "text": "x"})
                assert "nobody" not in searching.search(workdir, {"words": "nobody"})
            except (ToolError, OSError):
                refused += 1
    finally:
        over.set()
        thread.join()
    assert below(outside) == {"secret"}
    assert not [name for name in below(workdir) if name.endswith(".new")]


@pytest.mark.parametrize("moment", range(3))
async def test_a_swap_between_two_steps_leads_nowhere(
    moment: int, ctx: ToolContext, workdir: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder, the parent or the file becomes a link to the outside just before it is opened."""
    (workdir / "a/b").mkdir(parents=True)
    (workdir / "a/b/secret").write_text("mine")
    (outside / "b").mkdir()
    (outside / "b/secret").write_text(SECRET)
    real, step = os.open, ("a", "b", "secret")[moment]

    def swapped(path: Any, *more: Any, **named: Any) -> int:
        if path == step:
            monkeypatch.undo()
            what = workdir / "/".join(("a", "b", "secret")[: moment + 1])
            what.rename(workdir / "old")
            what.symlink_to((outside, outside / "b", outside / "secret")[moment])
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(ToolError, match="is a link"):
        files.read(workdir, {"path": "a/b/secret"})
    with pytest.raises(ToolError, match=r"is a link|no ordinary file"):
        files.write(workdir, {"path": "a/b/secret", "text": "x"})
    assert (outside / "secret").read_text() == (outside / "b/secret").read_text() == SECRET


async def test_what_is_no_ordinary_file_is_refused(ctx: ToolContext, workdir: Path) -> None:
    os.mkfifo(workdir / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(workdir / "sock"))
    names = ["pipe", "sock"]
    if os.geteuid() == 0:
        try:
            os.mknod(workdir / "null", 0o600 | 0o020000, os.makedev(1, 3))
            names.append("null")
        except PermissionError:
            pass
    for name in names:
        with pytest.raises(ToolError):
            await call("files.read", ctx, path=name)
        with pytest.raises(ToolError, match="no ordinary file"):
            await call("files.write", ctx, path=name, text="x")
    assert await call("files.search", ctx, words="x") == "nothing was found"
    assert below(workdir) == set(names)


async def test_a_binary_file_is_no_text(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "f").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(ToolError, match="no text file"):
        await call("files.read", ctx, path="f")
    (workdir / "f").write_bytes(b"ok \xff")
    assert await call("files.read", ctx, path="f") == "ok \ufffd"


async def test_what_is_not_there_is_told(ctx: ToolContext, workdir: Path) -> None:
    (workdir / "file").touch()
    for path, told in (("a/b", "no 'a'"), ("file/b", "'file'"), ("x" * 300, "too long")):
        with pytest.raises(ToolError, match=told):
            await call("files.read", ctx, path=path)
    for path in ("file/b", "x" * 300, "x" * 300 + "/y"):
        with pytest.raises(ToolError):
            await call("files.write", ctx, path=path, text="")


@pytest.mark.parametrize("path", [".git/config", ".git/hooks/pre-commit", "a/.GIT/config", ".git"])
async def test_what_git_would_run_is_not_written(path: str, ctx: ToolContext, workdir: Path) -> None:
    with pytest.raises(ToolError, match="what git keeps"):
        await call("files.write", ctx, path=path, text="x")
    assert below(workdir) == set()
    await call("files.write", ctx, path=".gitignore", text="x")
    assert below(workdir) == {".gitignore"}


async def test_a_long_name_is_written(ctx: ToolContext, workdir: Path) -> None:
    name = "ü" * 127
    await call("files.write", ctx, path=name, text="x")
    assert below(workdir) == {name}


async def test_another_name_of_a_file_keeps_what_it_had_when_the_file_is_written(
    ctx: ToolContext, workdir: Path, outside: Path
) -> None:
    (workdir / "linked").hardlink_to(outside / "secret")
    await call("files.write", ctx, path="linked", text="mine")
    assert (workdir / "linked").read_text() == "mine"
    assert (outside / "secret").read_text() == SECRET


@pytest.mark.parametrize("step", ["fsync", "rename"])
async def test_a_write_that_fails_leaves_what_was_there(
    step: str, ctx: ToolContext, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "f").write_text("old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ToolError, match="No space left"):
        await call("files.write", ctx, path="f", text="new")
    assert (workdir / "f").read_text() == "old"
    assert below(workdir) == {"f"}


async def test_no_descriptor_is_left(ctx: ToolContext, workdir: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("nobody tells which descriptors are open")
    (workdir / "a/b").mkdir(parents=True)
    (workdir / "a/b/f").write_text("x\n" * 300)

    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    await call("files.list", ctx)
    before = count()
    for path in ("a/b/f", "a/b/none", "a/none/f", "a"):
        try:
            await call("files.read", ctx, path=path)
        except ToolError:
            continue
    await call("files.search", ctx, words="x")
    assert count() == before


STEPS = st.sampled_from(
    ["..", ".", "", "a", "link", "file", "secret", "~", "\\..", "..\0", "\u2025", "/etc", "é", "\udcff"]
)


@settings(max_examples=150, deadline=None)
@given(path=st.lists(STEPS, max_size=6).map("/".join) | st.text(max_size=20))
def test_no_path_leads_out(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp() / "no_path"
    root, outside = base / "work", base / "outside"
    if not base.exists():
        (root / "a").mkdir(parents=True)
        outside.mkdir()
        (outside / "secret").write_text(SECRET)
        (base / "secret").write_text(SECRET)
        (root / "link").symlink_to(outside)
        (root / "a/link").symlink_to("../../outside")
        (root / "file").symlink_to(outside / "secret")
    for work, more in (
        (files.read, {}),
        (files.write, {"text": "mine"}),
        (files.listing, {}),
        (searching.search, {"words": SECRET}),
    ):
        try:
            said = work(root, {"path": path, **more})
        except (ToolError, OSError):
            continue
        assert SECRET not in said
        assert "secret 20" not in said
    assert below(base) - {name for name in below(base) if name.startswith("work")} == {
        "outside",
        "outside/secret",
        "secret",
    }
    assert (outside / "secret").read_text() == (base / "secret").read_text() == SECRET

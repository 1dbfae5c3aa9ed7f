"""The git tools on real repositories, friendly and hostile."""

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ToolError, ToolInvalid
from runtime.tools.git import git_tools
from runtime.tools.tool import ToolContext

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")

WHO = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
PLAIN = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"]}


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, env=WHO | PLAIN, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    """Make a repository of two commits, with a file that has changed since."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "one.txt").write_text("first\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "begin")
    (folder / "two.txt").write_text("second\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "go on")
    (folder / "one.txt").write_text("changed\n")
    return folder


@pytest.fixture
def repo(workdir: Path) -> Path:
    return repository(workdir)


async def call(name: str, ctx: ToolContext, **arguments: Any) -> str:
    made = git_tools()[name]
    return (await made.run(ctx, made.check(arguments))).text


async def call_all(ctx: ToolContext) -> None:
    """Call every tool, as it goes: some of what is hostile stops git itself."""
    for name in git_tools():
        try:
            await call(name, ctx)
        except ToolError:
            continue


# -- what they tell ----------------------------------------------------------------------------------------------------


async def test_a_repository_in_the_folder_is_read(ctx: ToolContext, repo: Path) -> None:
    assert await call("git.status", ctx) == "## main\n M one.txt\n"
    assert "-first\n+changed\n" in await call("git.diff", ctx)
    assert "+second\n" in await call("git.diff", ctx, revision="HEAD~1")
    log = (await call("git.log", ctx)).splitlines()
    assert [line.rpartition("a@b: ")[2] for line in log] == ["go on", "begin"]
    assert len((await call("git.log", ctx, count=1)).splitlines()) == 1
    assert len((await call("git.log", ctx, path="one.txt", revision="main")).splitlines()) == 1
    shown = await call("git.show", ctx)
    assert "    go on\n" in shown
    assert "+second\n" in shown
    assert "+first\n" in await call("git.show", ctx, revision="HEAD~1", path="./one.txt")


async def test_with_nothing_changed_there_is_nothing_to_tell(ctx: ToolContext, repo: Path) -> None:
    git(repo, "checkout", "-q", "one.txt")
    assert await call("git.diff", ctx) == "(nothing)"


async def test_a_path_is_no_pattern_and_no_revision(ctx: ToolContext, repo: Path) -> None:
    assert await call("git.log", ctx, path="*.txt") == "(nothing)"
    with pytest.raises(ToolError):
        await call("git.show", ctx, revision="one.txt")
    with pytest.raises(ToolError, match="leads out"):
        await call("git.diff", ctx, path="../x")


async def test_what_git_does_not_know_is_told_in_its_words(ctx: ToolContext, repo: Path) -> None:
    with pytest.raises(ToolError, match="nowhere"):
        await call("git.log", ctx, revision="nowhere")


@pytest.mark.parametrize(
    "revision", ["-p", "--output=x", "--", "", "HEAD:one.txt", "a b", "a\nb", "a;b", ":/go", "x" * 300]
)
@pytest.mark.parametrize("name", ["git.diff", "git.log", "git.show"])
def test_what_is_no_revision_is_refused(name: str, revision: str) -> None:
    with pytest.raises(ToolInvalid, match="revision"):
        git_tools()[name].check({"revision": revision})


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 101}, {"count": "1"}, {"more": 1}, {"path": 1}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolInvalid):
        git_tools()["git.log"].check(arguments)


# -- only its own ------------------------------------------------------------------------------------------------------


async def test_a_linked_file_within_the_folder_is_no_stray(ctx: ToolContext, repo: Path) -> None:
    (repo / ".git" / "linked").symlink_to(repo / "one.txt")
    assert "go on" in await call("git.log", ctx)


@pytest.mark.parametrize("what", ["HEAD", "config", "packed-refs", "index", "shallow", "info/grafts", "refs/heads/x"])
async def test_a_link_of_the_repository_leads_nowhere(what: str, ctx: ToolContext, repo: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("hunter2 the password\nsecond line\n")
    link = repo / ".git" / what
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    for name in git_tools():
        with pytest.raises(ToolError) as caught:
            await call(name, ctx, **({"revision": "x"} if what.endswith("x") and name != "git.status" else {}))
        assert "hunter2" not in str(caught.value)
        assert "second line" not in str(caught.value)


@pytest.mark.parametrize("what", ["objects", "refs/heads"])
async def test_a_linked_folder_of_the_repository_leads_nowhere(
    what: str, ctx: ToolContext, repo: Path, tmp_path: Path
) -> None:
    other = repository(tmp_path / "other")
    shutil.rmtree(repo / ".git" / what)
    (repo / ".git" / what).symlink_to(other / ".git" / what)
    for name in git_tools():
        with pytest.raises(ToolError, match="leads out of your folder"):
            await call(name, ctx)


async def test_objects_of_another_repository_are_not_read(ctx: ToolContext, repo: Path, tmp_path: Path) -> None:
    other = repository(tmp_path / "other")
    (repo / ".git" / "objects" / "info").mkdir(exist_ok=True)
    (repo / ".git" / "objects" / "info" / "alternates").write_text(f"{other / '.git' / 'objects'}\n")
    with pytest.raises(ToolError, match="git repack -a -d"):
        await call("git.show", ctx, revision=git(other, "rev-parse", "HEAD"))


async def test_a_repository_of_too_many_files_is_not_looked_through(
    ctx: ToolContext, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.tools.git.MAX_LOOKED", 10)
    with pytest.raises(ToolError, match="git gc"):
        await call("git.log", ctx)


async def test_a_file_that_the_configuration_includes_is_not_quoted(
    ctx: ToolContext, repo: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.txt").write_text("hunter2 the password\n")
    with (repo / ".git" / "config").open("a") as file:
        file.write(f"[include]\npath = {tmp_path / 'outside.txt'}\n")
    for name in git_tools():
        with pytest.raises(ToolError) as caught:
            await call(name, ctx)
        assert "outside" not in str(caught.value)


async def test_files_that_the_configuration_names_are_not_read(ctx: ToolContext, repo: Path, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("SECRET NAME <a@b>\n")
    (tmp_path / "ignored").write_text("new.txt\n")
    git(repo, "config", "mailmap.file", str(tmp_path / "names"))
    git(repo, "config", "core.excludesFile", str(tmp_path / "ignored"))
    (repo / "new.txt").write_text("new")
    assert "SECRET" not in await call("git.show", ctx)
    assert "new.txt" in await call("git.status", ctx)


async def test_a_repository_above_the_folder_is_not_read(ctx: ToolContext, workdir: Path) -> None:
    repository(workdir.parent)
    for name in git_tools():
        with pytest.raises(ToolError, match="no repository"):
            await call(name, ctx)


async def test_a_folder_that_is_none_is_told(ctx: ToolContext) -> None:
    with pytest.raises(ToolError, match="repository"):
        await call("git.status", ctx)


@pytest.mark.parametrize("how", ["file", "link", "worktree", "common"])
async def test_a_repository_that_lies_elsewhere_is_not_read(
    how: str, ctx: ToolContext, workdir: Path, tmp_path: Path
) -> None:
    other = repository(tmp_path / "other")
    if how == "file":
        (workdir / ".git").write_text(f"gitdir: {other}/.git\n")
    elif how == "link":
        (workdir / ".git").symlink_to(other / ".git")
    elif how == "worktree":
        repository(workdir)
        git(workdir, "config", "core.worktree", str(other))
    else:
        repository(workdir)
        (workdir / ".git/commondir").write_text(f"{other}/.git\n")
    for name in git_tools():
        with pytest.raises(ToolError, match="no repository"):
            await call(name, ctx)


async def test_a_repository_further_down_is_not_seen_from_the_top(ctx: ToolContext, workdir: Path) -> None:
    repository(workdir / "inner")
    with pytest.raises(ToolError):
        await call("git.status", ctx)
    inner = dataclasses.replace(ctx, workdir=workdir / "inner")
    assert "one.txt" in await call("git.status", inner)


# -- hostile configuration ---------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path, marker: Path) -> Path:
    """A program that leaves a mark and hands on what it reads."""
    path = tmp_path / "evil.sh"
    path.write_text(f"#!/bin/sh\ntouch {marker}\nexec cat\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


HOSTILE: dict[str, dict[str, str]] = {
    "core.fsmonitor": {"core.fsmonitor": "PROGRAM"},
    "diff.external": {"diff.external": "PROGRAM"},
    "a diff driver": {"diff.evil.command": "PROGRAM"},
    "textconv": {"diff.evil.textconv": "PROGRAM"},
    "clean": {"filter.evil.clean": "PROGRAM", "filter.evil.required": "true"},
    "process": {"filter.evil.process": "PROGRAM", "filter.evil.required": "true"},
    "a filter with a strange name": {"filter.e=v.il.clean": "PROGRAM"},
    "pager": {"core.pager": "PROGRAM", "pager.log": "PROGRAM", "pager.diff": "PROGRAM", "pager.show": "PROGRAM"},
    "signatures": {"gpg.program": "PROGRAM", "log.showSignature": "true", "format.pretty": "%G? %s"},
    "an alias": {"alias.status": "!PROGRAM", "alias.log": "!PROGRAM", "alias.rev-parse": "!PROGRAM"},
    "hooks": {"core.hooksPath": "FOLDER"},
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_nothing_that_a_repository_names_is_run(
    what: str, ctx: ToolContext, repo: Path, program: Path, marker: Path
) -> None:
    if what == "signatures":
        signed = git(repo, "cat-file", "commit", "HEAD").replace(
            "\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n", 1
        )
        (repo / ".git/signed").write_text(signed + "\n")
        git(repo, "update-ref", "HEAD", git(repo, "hash-object", "-t", "commit", "-w", ".git/signed"))
    name = "e=v.il" if "strange" in what else "evil"
    hooks = program.parent / "hooks"
    hooks.mkdir()
    for hook in ("post-index-change", "fsmonitor-watchman", "post-checkout", "reference-transaction"):
        shutil.copy(program, hooks / hook)
        shutil.copy(program, repo / ".git/hooks" / hook)
    (repo / ".gitattributes").write_text(f"* diff={name} filter={name}\n")
    (repo / ".git/info").mkdir(exist_ok=True)
    (repo / ".git/info/attributes").write_text(f"*.txt diff={name} filter={name}\n")
    for key, value in HOSTILE[what].items():
        git(repo, "config", key, value.replace("PROGRAM", str(program)).replace("FOLDER", str(hooks)))
    os.utime(repo / "one.txt", (1, 1))
    os.utime(repo / "two.txt", (1, 1))
    await call_all(ctx)
    assert not marker.exists()


async def test_an_included_file_is_no_way_round(ctx: ToolContext, repo: Path, program: Path, marker: Path) -> None:
    (repo / "more").write_text(f'[filter "evil"]\n\tclean = {program}\n')
    git(repo, "config", "include.path", "../more")
    (repo / ".gitattributes").write_text("* filter=evil\n")
    os.utime(repo / "two.txt", (1, 1))
    await call_all(ctx)
    assert not marker.exists()


async def test_a_filter_whose_name_is_no_text_is_no_way_round(
    ctx: ToolContext, repo: Path, program: Path, marker: Path
) -> None:
    with (repo / ".git/config").open("ab") as config:
        config.write(b'[filter "e\xff"]\n\tclean = ' + str(program).encode() + b"\n")
    (repo / ".gitattributes").write_bytes(b"* filter=e\xff\n")
    os.utime(repo / "two.txt", (1, 1))
    with pytest.raises(ToolError, match="no text"):
        await call("git.status", ctx)
    await call_all(ctx)
    assert not marker.exists()


async def test_so_many_filters_that_some_are_not_seen_are_no_way_round(
    ctx: ToolContext, repo: Path, program: Path, marker: Path
) -> None:
    with (repo / ".git/config").open("a") as config:
        for number in range(1300):
            name = "evil" if number == 650 else f"{'😀' * 20}{number}"
            config.write(f'[filter "{name}"]\n\tclean = {program}\n')
    (repo / ".gitattributes").write_text("* filter=evil\n")
    os.utime(repo / "two.txt", (1, 1))
    with pytest.raises(ToolError, match="configuration is"):
        await call("git.status", ctx)
    await call_all(ctx)
    assert not marker.exists()


async def test_a_folder_that_looks_like_what_git_keeps_is_none(ctx: ToolContext, workdir: Path, marker: Path) -> None:
    """Files that an agent may write are no repository: what it names would be run."""
    for name in ("objects", "refs"):
        (workdir / name).mkdir()
    (workdir / "HEAD").write_text("ref: refs/heads/main\n")
    (workdir / "config").write_text(f"[core]\n\tworktree = .\n\tfsmonitor = touch {marker}\n")
    for name in git_tools():
        with pytest.raises(ToolError):
            await call(name, ctx)
    assert not marker.exists()


async def test_no_colours_are_told(ctx: ToolContext, repo: Path) -> None:
    for key in ("color.ui", "color.status", "color.diff", "color.branch", "column.ui"):
        git(repo, "config", key, "always")
    for name in git_tools():
        assert "\x1b" not in await call(name, ctx)


async def test_a_repository_inside_as_a_submodule_is_not_entered(
    ctx: ToolContext, repo: Path, program: Path, marker: Path
) -> None:
    inner = repository(repo / "inner")
    git(inner, "checkout", "-q", "one.txt")
    git(repo, "-c", "advice.addEmbeddedRepo=false", "add", "inner")
    git(repo, "commit", "-q", "-m", "a submodule")
    (repo / ".gitmodules").write_text('[submodule "inner"]\n\tpath = inner\n\turl = ./inner\n\tignore = none\n')
    for key, value in (("filter.evil.clean", str(program)), ("core.fsmonitor", str(program))):
        git(inner, "config", key, value)
    (inner / ".gitattributes").write_text("* filter=evil\n")
    os.utime(inner / "two.txt", (1, 1))
    git(repo, "config", "diff.submodule", "diff")
    await call_all(ctx)
    assert not marker.exists()


async def test_what_is_missing_is_not_fetched(ctx: ToolContext, repo: Path, program: Path, marker: Path) -> None:
    blob = git(repo, "rev-parse", "HEAD:two.txt")
    (repo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.url": f"ext::{program}",
        "remote.origin.promisor": "true",
        "protocol.ext.allow": "always",
        "protocol.file.allow": "always",
    }.items():
        git(repo, "config", key, value)
    await call_all(ctx)
    git(repo, "config", "remote.origin.url", str(repo))
    git(repo, "config", "remote.origin.uploadpack", str(program))
    await call_all(ctx)
    assert not marker.exists()


async def test_the_tests_would_notice(repo: Path, program: Path, marker: Path) -> None:
    git(repo, "config", "filter.evil.clean", str(program))
    (repo / ".gitattributes").write_text("* filter=evil\n")
    git(repo, "status")
    assert marker.exists()

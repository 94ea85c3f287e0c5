"""What a process has given up it does not get back, and all else goes on."""

import grp
import os
import pwd
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig import NOBODY, REPOSITORY, as_nobody, for_strangers, needs
from trio_amped import privileges
from trio_amped.privileges import User, check_log, check_user, find_user, landlock_version

pytestmark = needs("nobody")

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
BEGIN = """
import os, sys
from trio_amped import privileges

def outcome(path, flags=os.O_RDONLY):
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.strerror
    return "opened"
"""


def run(
    program: str, *arguments: object, wrap: Callable[[list[str]], list[str]] = for_strangers
) -> list[str]:
    """The lines that a program of its own writes, which may give up the rights of root."""
    argv = [sys.executable, "-c", BEGIN + textwrap.dedent(program), *map(str, arguments)]
    answer = subprocess.run(
        wrap(argv),
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stderr
    return answer.stdout.splitlines()


# ---------------------------------------------------------------- who a user is


def test_a_name_has_the_groups_of_its_user() -> None:
    entry = pwd.getpwnam("nobody")
    assert find_user("nobody") == User(
        "nobody",
        entry.pw_uid,
        entry.pw_gid,
        tuple(os.getgrouplist("nobody", entry.pw_gid)),
    )


def test_a_group_takes_the_place_of_the_first() -> None:
    gid = grp.getgrnam("daemon").gr_gid
    user = find_user("nobody:daemon")
    assert (user.uid, user.gid) == (pwd.getpwnam("nobody").pw_uid, gid)
    assert gid in user.groups


def test_numbers_need_no_entry() -> None:
    assert find_user("4711:4712") == User("4711:4712", 4711, 4712, (4712,))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "user '' does not exist"),
        (":daemon", "user '' does not exist"),
        ("no such", "user 'no such' does not exist"),
        ("-1", "user '-1' does not exist"),
        ("4294967295", "user '4294967295' does not exist"),
        ("99999999999999999999", "user '99999999999999999999' does not exist"),
        ("000000000009999999999", "user '000000000009999999999' does not exist"),
        ("nobody:000000000009999999999", "the group '000000000009999999999' does not exist"),
        ("\u0664\u0664", "user '\u0664\u0664' does not exist"),
        ("nobody:", "the group '' does not exist"),
        ("nobody:no such", "the group 'no such' does not exist"),
        ("4711", "user 4711 is in no group that is known: name one, 4711:GROUP"),
        ("root", "user root has all rights: name another one"),
        ("0:4711", "user 0 has all rights: name another one"),
    ],
)
def test_who_cannot_serve(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        find_user(text)


def test_a_user_that_may_not_read_the_program(tmp_path: Path) -> None:
    """It is found out before there is any worker."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    [said] = run(
        """
        privileges.__file__ = sys.argv[1] + "/package/privileges.py"
        try:
            privileges.check_user(privileges.find_user("nobody"))
        except ValueError as error:
            print(error)
        """,
        closed,
    )
    assert said == (
        f"--user nobody may not read {sys.base_prefix} and {closed}/package: "
        "install Python and this package where that user may"
    )


def test_a_program_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ValueError, match=r"--user nobody: cannot start /no/such/python: .*No such"):
        check_user(find_user("nobody"))


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "is_refused"),
    [
        (0, 0, 0o755, False),
        (0, 60, 0o775, False),  # a group of others
        (NOBODY, 0, 0o500, True),  # who can give the right to write back
        (0, 50, 0o775, True),
        (0, 51, 0o775, True),
        (0, 0, 0o757, True),
    ],
)
def test_who_may_write_the_folder_of_a_log(
    uid: int, gid: int, mode: int, is_refused: bool, tmp_path: Path
) -> None:
    """Or one above, or those to which a link leads."""
    user, folder, link = User("me", NOBODY, 50, (50, 51)), tmp_path / "folder", tmp_path / "link"
    (folder / "inside").mkdir(parents=True)
    os.chown(folder, uid, gid)
    folder.chmod(mode)
    link.symlink_to(folder / "log")
    for path in (folder / "log", folder / "inside" / "log", link):
        if is_refused:
            with pytest.raises(ValueError, match=f"^--access-log: user me may write {folder}, and"):
                check_log(user, path)
        else:
            check_log(user, path)


def test_a_log_below_a_sticky_folder(tmp_path: Path) -> None:
    """What is root's stays in it, but who comes first can be anybody."""
    user, shared = User("me", NOBODY, 50, (50,)), tmp_path / "shared"
    (shared / "roots").mkdir(parents=True)
    shared.chmod(0o1777)
    check_log(user, shared / "roots" / "log")
    check_log(user, shared / "none" / "log")
    with pytest.raises(ValueError, match=f"^--access-log: user me may write {shared}, and could"):
        check_log(user, shared / "log")


# ---------------------------------------------------------------- another user


def test_nothing_is_left_of_the_rights_of_root() -> None:
    said = run(
        """
        privileges.become(privileges.find_user("nobody"))
        print(os.getresuid(), os.getresgid(), os.getgroups())
        for line in open("/proc/self/status"):
            if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs")):
                print(*line.split())
        print(outcome("/etc/shadow"))
        print(outcome("/proc/self/fdinfo/0"))  # the path gate reads these
        for call in (os.setuid, os.setgid, lambda _: os.setgroups([0])):
            try:
                call(0)
            except OSError as error:
                print(error.strerror)
        """
    )
    none = "0" * 16
    assert said == [
        f"({NOBODY}, {NOBODY}, {NOBODY}) ({NOBODY}, {NOBODY}, {NOBODY}) [{NOBODY}]",
        *(f"{name}: {none}" for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")),
        "NoNewPrivs: 1",
        "Permission denied",
        "opened",
        *["Operation not permitted"] * 3,
    ]


def test_only_root_can_have_somebody_else_serve() -> None:
    said = run(
        """
        try:
            privileges.check_user(privileges.find_user("daemon"))
        except ValueError as error:
            print(error)
        """,
        wrap=as_nobody,
    )
    assert said == ["--user: only root can have somebody else serve; start it as root"]


# ---------------------------------------------------------------- confined


@needs("landlock")
@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_nothing_else_is_opened_by_anybody(helpers: str, tmp_path: Path) -> None:
    """Neither here, nor by a helper, which opens any path for a program."""
    folders = [tmp_path / name for name in ("root", "releases", "elsewhere")]
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_bytes(b"content")
    said = run(
        """
        import trio
        from trio_amped.config import Config
        from trio_amped.disk.local import open_disk
        from trio_amped.semantics.listing import View
        from trio_amped.stats import Stats

        helpers, *places = sys.argv[1:]
        privileges.confine(places[:2])
        paths = [*(place + "/file" for place in places), "/etc/passwd"]
        for path in paths:
            print(outcome(path), outcome(path, os.O_WRONLY))
        try:
            os.mkdir(places[0] + "/new")
        except OSError as error:
            print(error.strerror)

        config = Config(root=places[0], helpers=helpers, listing=True)

        async def main():
            async with open_disk(config, Stats()) as disk:
                for path in paths:
                    try:
                        disk.close(await disk.open_anywhere(os.fsencode(path)))
                    except OSError as error:
                        print(error.strerror)
                    else:
                        print("opened")
                disk.close((await disk.list(b"", View.select(None, False))).file)
                print("listed")

        trio.run(main)
        """,
        helpers,
        *folders,
    )
    denied = "Permission denied"
    assert said == [
        *[f"opened {denied}"] * 2,
        *[f"{denied} {denied}"] * 2,
        denied,
        *["opened"] * 2,
        *[denied] * 2,
        "listed",
    ]


def test_a_kernel_without_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "_landlock_create_ruleset", lambda *_: -1)
    assert landlock_version() == 0
    with pytest.raises(ValueError, match=r"^--confine needs Landlock"):
        privileges.check_confinement()

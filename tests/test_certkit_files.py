"""Files: private from their first moment, whole or not at all, never overwritten; and what is read says why
it is not."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailsvc.certkit.files import (
    LARGEST,
    PRIVATE,
    PUBLIC,
    current_reader,
    locked,
    make_folder,
    name_it,
    read,
    replace_all,
    write_new,
)
from mailsvc.errors import AlreadyExists, MailsvcError


class FileCase(SynchronousTestCase):
    """A folder of its own, and a umask that hides nothing."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def set_umask(self, mask: int) -> None:
        self.addCleanup(os.umask, os.umask(mask))


class WriteTests(FileCase):
    """`write_new` and `make_folder`."""

    def test_modes_are_exact_under_any_umask(self) -> None:
        """With umask 000 nothing becomes readable, with 077 what is public stays public."""
        for mask in (0o000, 0o077, 0o777):
            self.set_umask(mask)
            private, public, folder = (self.folder / f"{name}{mask}" for name in ("key", "chain", "folder"))
            write_new(private, b"k", PRIVATE)
            write_new(public, b"c", PUBLIC)
            self.assertTrue(make_folder(folder))
            self.assertEqual(
                [stat.S_IMODE(path.stat().st_mode) for path in (private, public, folder)], [0o600, 0o644, 0o700]
            )

    def test_nothing_is_overwritten(self) -> None:
        """A file or a link that has the name is left as it is, and so is what the link points to."""
        path, target, link = self.folder / "key", self.folder / "target", self.folder / "link"
        path.write_bytes(b"old")
        link.symlink_to(target)
        for name in (path, link):
            self.assertIn("exists already", str(self.assertRaises(AlreadyExists, write_new, name, b"new", PRIVATE)))
        self.assertEqual(path.read_bytes(), b"old")
        self.assertFalse(target.exists())

    def test_a_file_system_without_hard_links(self) -> None:
        """The name is claimed first and then moved over: a name that is taken is still refused."""

        def no_links(old: Path, new: Path) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        for name, text in (("one", b"1"), ("two", b"2")):
            write_new(self.folder / name, text, PRIVATE)
        name_it(self.folder / "one", self.folder / "key", no_links)
        self.assertRaises(FileExistsError, name_it, self.folder / "two", self.folder / "key", no_links)
        self.assertEqual((self.folder / "key").read_bytes(), b"1")
        self.assertEqual(stat.S_IMODE((self.folder / "key").stat().st_mode), 0o600)

    def test_no_temporary_file_stays_behind(self) -> None:
        """Neither after success nor after failure."""
        write_new(self.folder / "key", b"k", PRIVATE)
        self.assertRaises(AlreadyExists, write_new, self.folder / "key", b"k", PRIVATE)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["key"])

    def test_a_folder_that_is_missing_is_named(self) -> None:
        """The sentence has the path and what to look at."""
        error = self.assertRaises(MailsvcError, write_new, self.folder / "no" / "key", b"k", PRIVATE)
        self.assertIn(f"{self.folder}/no/key: cannot be written (No such file or directory)", str(error))

    def test_a_folder_that_cannot_be_made_is_named(self) -> None:
        """A file that stands in the way is not removed."""
        (self.folder / "file").write_bytes(b"")
        error = self.assertRaises(MailsvcError, make_folder, self.folder / "file" / "sub")
        self.assertIn("cannot make this folder", str(error))

    def test_a_folder_that_exists_keeps_its_mode(self) -> None:
        """It is somebody's choice."""
        self.folder.chmod(0o750)
        self.assertFalse(make_folder(self.folder))
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o750)


class ReplaceTests(FileCase):
    """`replace_all` and `locked`."""

    def test_all_or_none(self) -> None:
        """Files that exist and that do not get content and mode; when one cannot be filled, nothing has changed."""
        folder = Path(self.mktemp())
        folder.mkdir()
        old, new = folder / "old", folder / "new"
        old.write_bytes(b"1")
        replace_all([(old, b"2", PRIVATE), (new, b"3", PUBLIC)])
        self.assertEqual((old.read_bytes(), new.read_bytes()), (b"2", b"3"))
        self.assertEqual([stat.S_IMODE(each.stat().st_mode) for each in (old, new)], [PRIVATE, PUBLIC])
        missing = folder / "no" / "file"
        self.assertRaises(MailsvcError, replace_all, [(old, b"4", PRIVATE), (missing, b"5", PUBLIC)])
        self.assertEqual(old.read_bytes(), b"2")
        self.assertEqual(sorted(each.name for each in folder.iterdir()), ["new", "old"])

    def test_a_link_is_replaced_not_followed(self) -> None:
        """What it leads to stays as it was."""
        folder = Path(self.mktemp())
        folder.mkdir()
        target, link = folder / "target", folder / "link"
        target.write_bytes(b"1")
        link.symlink_to("target")
        replace_all([(link, b"2", PRIVATE)])
        self.assertEqual((target.read_bytes(), link.read_bytes(), link.is_symlink()), (b"1", b"2", False))

    def test_one_at_a_time(self) -> None:
        """While a folder is held nobody else gets it; afterwards somebody does."""
        folder = Path(self.mktemp())
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        with locked(folder):
            self.assertRaises(BlockingIOError, fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ReadTests(FileCase):
    """`read`: bytes with the facts about their file, or a sentence."""

    def test_a_file_comes_with_its_mode_and_owner(self) -> None:
        """Through a link, those of the file itself."""
        write_new(self.folder / "key", b"text", PRIVATE)
        (self.folder / "link").symlink_to("key")
        source = read(self.folder / "link")
        self.assertEqual((source.data, source.problem, source.mode), (b"text", None, 0o600))
        self.assertEqual(source.uid, current_reader().uid)
        self.assertNotIn("text", repr(source))

    def test_what_cannot_be_read_says_why(self) -> None:
        """Missing, a dangling link, a folder, a FIFO without a writer, a path through a file, far too
        long."""
        os.mkfifo(self.folder / "fifo")
        (self.folder / "dangling").symlink_to("gone")
        (self.folder / "huge").write_bytes(b"x" * (LARGEST + 1))
        for name, said in (
            ("missing", "does not exist"),
            ("dangling", "is a link to gone, which does not exist"),
            (".", "is not a regular file"),
            ("fifo", "is not a regular file"),
            ("huge/below", "does not exist"),
            ("huge", "is longer than 1 MiB"),
        ):
            source = read(self.folder / name)
            self.assertIsNone(source.data)
            self.assertIn(said, source.problem or "")

    def test_a_file_of_another_user_says_so(self) -> None:
        """The cure is chown, not chmod."""
        path = self.folder / "key"
        write_new(path, b"text", PRIVATE)
        path.chmod(0)
        if os.geteuid() == 0:
            pid = os.fork()  # a process of its own, because root reads everything
            if pid == 0:
                os.setgid(65534)
                os.setuid(65534)
                os._exit("make that user its owner" not in (read(path).problem or ""))
            self.assertEqual(os.waitpid(pid, 0)[1], 0)
        else:
            self.assertIn("make that user its owner", read(path).problem or "")

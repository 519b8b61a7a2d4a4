"""Output files: atomic replacement, a trial before a long run, and whether two paths name one file."""
import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Identity: TypeAlias = tuple[Any, ...]

__all__ = ["check_writable", "find_overlap", "identity", "open_in_place", "release", "write_atomically"]

MAX_LINKS = 40  # as Linux
MAX_NAME = 255  # bytes of a file name on nearly every file system
ABANDONED_AFTER = 86_400  # seconds without a write

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_CREATE |= getattr(os, "O_BINARY", 0)
#: What a file system answers that cannot flush; a flush that failed is EIO, ENOSPC or EDQUOT.
_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_CANNOT_FLUSH_FOLDER = {*_CANNOT_FLUSH, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}


def write_atomically(path: "str | os.PathLike[str]", content: "bytes | Sequence[bytes | memoryview]") -> None:
    """Replace path by a file with this content: at any moment path is the whole old file or the whole new one.

    content: bytes, or several pieces of them.  A link is followed, and the mode of an existing file is kept. Raises
    OSError, with path as its filename, where the file cannot be written; the old file is then untouched. Only where
    the folder's entry could not be flushed (EIO, a full disk) is the new file already in place.
    """
    path = os.fsdecode(path)
    try:
        target, found = _destination(path)
        _remove_leftovers(target)
        with _Temporary(target, found) as temporary:
            with open(temporary.fd, "wb", closefd=False) as file:
                for piece in [content] if isinstance(content, bytes) else content:
                    file.write(piece)
            _flush(temporary.fd)
            temporary.publish()
        _flush_folder(os.path.dirname(target) or ".")
    except OSError as error:
        if error.errno is None:
            raise
        # Name the file that was meant, not the temporary one.
        raise OSError(error.errno, error.strerror, path) from None


def check_writable(path: "str | os.PathLike[str]", in_place: bool = False) -> None:
    """Raise OSError now, rather than after an hour of training, if path cannot be written.

    Does what the write will do: creates the temporary file, and removes it. in_place: the file will be opened rather
    than replaced.
    """
    path = os.fsdecode(path)
    target, found = _destination(path)
    where = path
    try:
        if in_place and found is not None:
            os.close(os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)))
            return
        folder = os.path.dirname(target) or "."
        if found is not None and os.name == "posix" and not _may_replace(found, os.stat(folder), os.geteuid()):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        where = folder
        with _Temporary(target, found):
            pass
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise OSError(error.errno, error.strerror, where if refused else path) from None


def open_in_place(path: "str | os.PathLike[str]", alone: bool = False) -> int:
    """Open a file to append to, created if there is none; returns its descriptor. Raises OSError, as `check_writable`.

    alone: raise it as well if the file is open so elsewhere already: two that truncate it would destroy what each other writes.
    `release` before the file is closed.
    """
    path = os.fsdecode(path)
    target, _ = _destination(path)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(target, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    if alone and _lock(descriptor) is False:
        os.close(descriptor)
        raise OSError(errno.EBUSY, "Another run writes to it", path)
    return descriptor


def release(descriptor: int) -> None:
    """Let others open a file that `open_in_place` opened alone, even if a forked process still holds the descriptor."""
    try:
        from fcntl import LOCK_UN, flock

        flock(descriptor, LOCK_UN)
    except (ImportError, OSError):
        pass


def identity(path: "str | os.PathLike[str] | int") -> "Identity":
    """Return what a path, or an open file's descriptor, is: equal for two paths of one file, however they are spelled.

    An existing file is its device and inode, so links, hard links and `/proc/self/fd/N` are seen through. One that does
    not exist yet is its folder and its name.
    """
    path = path if isinstance(path, int) else os.fsdecode(path)
    found = _stat(path)
    if found is not None and found.st_ino:
        return found.st_dev, found.st_ino
    if isinstance(path, int):  # a descriptor of no file
        return (path,)
    try:
        target = _follow(path)[0]
    except OSError:
        target = path
    folder = os.path.dirname(target) or "."
    held = _stat(folder)
    if held is None or not held.st_ino:
        return os.path.normcase(os.path.realpath(target)), ""
    return held.st_dev, held.st_ino, os.path.basename(target), folder


def find_overlap(
    outputs: "Sequence[tuple[str, str]]", others: "Sequence[tuple[str, str | int]]"
) -> "tuple[tuple[str, str], tuple[str, str | int]] | None":
    """Return the first (output, other) of which both are one file; None if there is none.

    other is one of others or an earlier output.

    Each is (what to call it, path or descriptor).
    """
    seen = [(identity(path), (name, path)) for name, path in others]
    for output in outputs:
        found = identity(output[1])
        for earlier, other in seen:
            if _same(found, earlier):
                return output, other
        seen.append((found, output))
    return None


def _same(one: "Identity", other: "Identity") -> bool:
    if len(one) == len(other) == 4:
        (*place, name, folder), (*other_place, other_name, _) = one, other
        if place != other_place:
            return False
        return name == other_name or (_folded(name) == _folded(other_name) and _ignores_case(folder))
    return one == other


def _folded(name: str) -> str:
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", name).casefold())


def _ignores_case(folder: str) -> bool:
    """Return whether names in folder that differ in case are one file."""
    try:
        with _Temporary(os.path.join(folder, "case")) as temporary:
            name = os.path.basename(temporary.name or "")
            return os.path.lexists(os.path.join(folder, name.upper()))
    except OSError:
        return False


def _stat(path: "str | int") -> "os.stat_result | None":
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _destination(path: str) -> "tuple[str, os.stat_result | None]":
    """Return (the path to write, links followed; the stat of the regular file there, or None). Raises OSError."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, "The name of the file is empty", path)
    target, found = _follow(path)
    folder, name = os.path.split(target)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
    if not os.path.isdir(folder or "."):
        raise FileNotFoundError(errno.ENOENT, "No such folder", folder)
    if found is None and name in ("", ".", ".."):
        raise FileNotFoundError(errno.ENOENT, "No such folder", path)
    if found is None:
        if target != path and os.path.exists(path) and not os.path.lexists(target):
            raise OSError(errno.EINVAL, "Not a regular file", path)  # a pipe or a deleted file, through /proc
        return target, None
    if not stat.S_ISREG(found.st_mode):  # to replace /dev/null would be the end of it
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return target, found


def _follow(path: str) -> "tuple[str, os.stat_result | None]":
    """Return (path with its links followed, its lstat or None). The folders on the way are left to the system."""
    target = path
    for _ in range(MAX_LINKS):
        try:
            found = os.lstat(target)
        except FileNotFoundError:
            return target, None
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        if not stat.S_ISLNK(found.st_mode):
            return target, found
        folder = os.path.dirname(target)
        if os.name == "posix" and not _may_follow(found, os.stat(folder or "."), os.geteuid()):
            raise PermissionError(errno.EACCES, "A link that another user has put there is not followed", path)
        target = os.path.join(folder, os.readlink(target))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _may_follow(link: os.stat_result, folder: os.stat_result, user: int) -> bool:
    """The rule of Linux's protected_symlinks, which resolving a path ourselves would circumvent."""
    return not folder.st_mode & stat.S_IWOTH or link.st_uid in (user, folder.st_uid, 0)


def _may_replace(old: os.stat_result, folder: os.stat_result, user: int) -> bool:
    """Whether the sticky bit of a folder lets this user move a file over old."""
    return not folder.st_mode & stat.S_ISVTX or user in (old.st_uid, folder.st_uid, 0)


class _Temporary:
    """A new file beside target, open and locked; inside `with`, and removed at its end unless published.

    Its name cannot be guessed, and no existing file is opened. The lock (flock) shows
    `_remove_leftovers` of any thread or process that the file is in use; the system drops it when the process ends.
    """

    name: "str | None" = None
    fd = -1

    def __init__(self, target: str, found: "os.stat_result | None" = None) -> None:
        self.target, self.mode = target, None if found is None else stat.S_IMODE(found.st_mode)

    def __enter__(self) -> "_Temporary":
        try:
            self._create()
            if self.name is not None and self.mode is not None:
                self._set_mode(self.name, self.mode)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._discard()

    def _create(self) -> None:
        folder, prefixes = os.path.dirname(self.target), _prefixes(self.target)
        for _ in range(1000):
            # Known before the file exists: an interrupt may come as soon as it does.
            self.name = os.path.join(folder, f"{prefixes[0]}{_host()}-{os.urandom(8).hex()}.tmp")
            try:
                self.fd = os.open(self.name, _CREATE, 0o666 if self.mode is None else 0o600)
            except FileExistsError:
                self.name = None
                continue
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG or len(prefixes) == 1:
                    raise
                prefixes = prefixes[1:]
                continue
            if _lock(self.fd) is not False and os.path.lexists(self.name):
                return
            # Before the lock was ours, another save took the file for a leftover, and removes it.
            self.name = None
            self._close()
        raise OSError(errno.EAGAIN, "Cannot create a temporary file", self.target)

    def _set_mode(self, name: str, mode: int) -> None:
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(self.fd, mode)
            else:
                os.chmod(name, mode)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):  # some file systems know no modes
                raise

    def publish(self) -> None:
        """Move it to target."""
        if os.name != "posix":  # an open file cannot be moved there
            self._close()
        os.replace(self.name or "", self.target)
        self.name = None

    def _discard(self) -> None:
        try:
            if self.name is not None:
                os.unlink(self.name)
        except OSError:
            pass
        self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _lock(descriptor: int) -> "bool | None":
    """Return True: locked; False: another process has locked it; None: there are no locks here."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        return None
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _prefixes(target: str) -> "list[str]":
    """Return how the names of temporary files beside target begin; the second is for names that would be too long."""
    from hashlib import blake2b

    name = os.path.basename(target)
    encoded = os.fsencode(name)
    short = f"{blake2b(encoded, digest_size=8).hexdigest()}."
    return [f"{name}.", short] if len(encoded) + 32 <= MAX_NAME else [short]


def _host() -> str:
    """Return 8 hexadecimal digits for the running kernel: processes with the same see each other's locks."""
    from hashlib import blake2b

    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            found = file.read()
    except OSError:
        found = b""
    return blake2b(found or os.fsencode(getattr(os, "uname", lambda: ["", ""])()[1]), digest_size=4).hexdigest()


def _remove_leftovers(target: str) -> None:
    """Remove the temporary files that killed processes have left beside target.

    One is left over if no process holds its lock. Other kernels that share the folder may not see our locks nor we theirs:
    of theirs only files that are unchanged for a day are removed.
    """
    if os.name != "posix":
        return
    folder, prefixes, host = os.path.dirname(target), tuple(_prefixes(target)), _host()
    try:
        entries = [name for name in os.listdir(folder or ".") if name.startswith(prefixes) and name.endswith(".tmp")]
    except OSError:
        return
    for entry in entries:
        middle = entry[len(next(prefix for prefix in prefixes if entry.startswith(prefix))) : -len(".tmp")]
        if len(middle) == 25 and middle[8] == "-" and not set(middle[:8] + middle[9:]) - set("0123456789abcdef"):
            _remove_leftover(os.path.join(folder, entry), middle[:8] == host)


def _remove_leftover(name: str, same_host: bool) -> None:
    import time

    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = -1
    try:
        try:
            descriptor = os.open(name, os.O_RDWR | flags)  # NFS locks only what may be written
        except PermissionError:
            descriptor = os.open(name, os.O_RDONLY | flags)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _lock(descriptor):
            return
        old = time.time() - found.st_mtime > ABANDONED_AFTER
        # Its owner may have published it meanwhile: then there is nothing of this name.
        if (same_host or old) and os.path.samestat(found, os.lstat(name)):
            os.unlink(name)
    except OSError:
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _flush(descriptor: int, tolerated: "set[int]" = _CANNOT_FLUSH) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in tolerated:
            raise


def _flush_folder(folder: str) -> None:
    """Flush the entry of a file that is in place. A folder that cannot be flushed is not an error; a flush that fails is."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EIO:
            raise
        return
    try:
        _flush(descriptor, _CANNOT_FLUSH_FOLDER)
    finally:
        os.close(descriptor)

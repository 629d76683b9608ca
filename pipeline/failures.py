"""How a command that cannot go on ends: one line that fits a screen, and an exit code.

This is the one place where an exception becomes text. Control characters are escaped, so that a
name in a message can neither break the line nor move the cursor, and what is long is cut in the
middle, where a path or a list is least missed.
"""

import errno
import unicodedata
from dataclasses import dataclass
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.memory import is_out_of_memory

EXIT_USER_ERROR: Final = 2
EXIT_UNEXPECTED: Final = 70
"""An exception that no one foresaw; the number that `sysexits.h` has for it."""
EXIT_INTERRUPTED: Final = 130

LONGEST_LINE: Final = 600
"""Characters of a refusal."""
_KEPT_AT_END: Final = 200
_SHOWN_CATEGORIES: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that are escaped: control, format, surrogate, unassigned, line separators."""

_HINTS: Final = {
    errno.ENOSPC: "the disk is full: free some space and repeat the command",
    errno.EDQUOT: "the quota of the disk is used up: free some space and repeat the command",
    errno.EFBIG: "larger than a file may be there",
    errno.EACCES: "permission denied: choose a place that this user may use",
    errno.EPERM: "not permitted: choose a place that this user may use",
    errno.EROFS: "read-only: choose a place that can be written",
    errno.EMFILE: "too many open files: raise the limit with ulimit -n 65536",
    errno.ENFILE: "too many open files on this machine",
    errno.EISDIR: "a folder, expected a file",
    errno.ENOTDIR: "a file, expected a folder",
    errno.EEXIST: "exists already",
    errno.ENOENT: "no such file or folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a loop of links",
    errno.EIO: "the disk reports an error",
    errno.ENXIO: "no such device",
    errno.EBUSY: "in use by something else",
    errno.ESTALE: "gone from the network drive",
    errno.ETXTBSY: "in use by something else",
    errno.EINVAL: "the system refuses the operation on this file",
    errno.ENODEV: "the system refuses the operation on this file",
    errno.EOPNOTSUPP: "the system refuses the operation on this file",
}
"""What the system may refuse through no fault of the program."""
_MEMORY_HINT: Final = "not enough memory; see docs/troubleshooting.md#out-of-memory-full-disk"


@dataclass(frozen=True)
class Failure:
    """What to print, without the program's name, and the exit code."""

    line: str
    code: int


def failure_of(error: Exception) -> Failure:
    """Return how a command ends that `error` stopped."""
    if isinstance(error, UserError):
        return Failure(one_line(str(error)), EXIT_USER_ERROR)
    if isinstance(error, OSError) and error.errno in _HINTS:
        return Failure(one_line(_describe_os_error(error)), EXIT_USER_ERROR)
    if is_out_of_memory(error):
        details = one_line(str(error), limit=_KEPT_AT_END)
        text = f"{_MEMORY_HINT} ({details})" if details else _MEMORY_HINT
        return Failure(text, EXIT_USER_ERROR)
    details = one_line(f"{type(error).__name__}: {error}", limit=LONGEST_LINE - _KEPT_AT_END)
    return Failure(
        f"unexpected {details}; `rulka-pipeline --debug …` shows where it happened", EXIT_UNEXPECTED
    )


def _describe_os_error(error: OSError) -> str:
    assert error.errno is not None
    hint = _HINTS[error.errno]
    return hint if error.filename is None else f"{_name(error.filename)}: {hint}"


def _name(file: object) -> str:
    return file.decode("utf-8", "replace") if isinstance(file, bytes) else str(file)


def one_line(text: str, *, limit: int = LONGEST_LINE) -> str:
    """Return `text` as one line: control characters escaped, and cut in the middle if it is long.

    Args:
        text: anything.
        limit: characters of the result, 3 or more.
    """
    if len(text) > 4 * limit:  # an escape has up to 10 characters, so this is not the last cut
        text = f"{text[: 2 * limit]}…{text[-2 * limit :]}"
    line = escape(text.strip(), keep="")
    if len(line) <= limit:
        return line
    tail = min(_KEPT_AT_END, limit // 3)
    return f"{line[: limit - tail - 1]}…{line[-tail:]}"


def escape(text: str, *, keep: str = "\n") -> str:
    r"""Return `text` with an escape such as `\x1b` in place of each control character.

    Args:
        text: anything.
        keep: control characters that stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if letter in keep or not _is_control(letter) else _escaped(letter) for letter in text
    )


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _SHOWN_CATEGORIES


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii")

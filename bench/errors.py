"""The errors that a user can act on, and the words that help."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST = 1000
MANY = 40  # more names than this are not listed in a sentence


class BenchError(Exception):
    """A problem told in one sentence: the thing, the value, and the nearest right one."""


class UsageError(BenchError):
    """One or more problems with what was asked for, found before anything was written.

    Args:
        problems: one sentence each; all of them are reported at once.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Fault(BenchError):
    """Something in a stored file that does not hold.

    Args:
        file: the file or folder that shows it.
        line: counted from 1; None where the whole file is meant.
        reason: the sentence without the file.
        errno: the system's number for it, where it is the system's.
    """

    def __init__(self, file: Path, line: int | None, reason: str, errno: int | None = None) -> None:
        self.file, self.line, self.reason, self.errno = file, line, reason, errno
        super().__init__(f"{file}{'' if line is None else f', line {line}'}: {reason}")


def as_fault(error: BenchError, file: Path) -> Fault:
    """An error as something of a file that does not hold."""
    return error if isinstance(error, Fault) else Fault(file, None, str(error).removeprefix(f"{file}: "))


class Diverged(BenchError):
    """The loss or the weights stopped being finite numbers; such a model is never certified."""


class Interrupted(BenchError):
    """A signal asked the run to stop; what was finished is on disk.

    Args:
        signal_number: the signal, so that the exit code can be 128 + its number.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by signal {signal_number}")


def clipped(text: str) -> str:
    """A sentence that quotes what came from outside, cut where that is endless."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, otherwise the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(names) > MANY:
        return f"; there are {len(names)}, such as {', '.join(names[:3])}"
    return f"; there is {', '.join(names)}" if names else "; there is none"


def unknown(what: str, word: str | None, known: Iterable[str]) -> list[str]:
    """A sentence on a word that is not among those that are known; none where it is, or where there is no word."""
    return [] if word is None or word in known else [f"{what} {word} is unknown{nearest(word, known)}"]


def nearest_folder(folder: Path) -> str:
    """For a folder that is not there: the one with the closest name where it would be, as the end of a sentence; empty if none is close."""
    above = next((above for above in folder.absolute().parents if above.is_dir()), folder)
    first, *rest = folder.absolute().relative_to(above).parts
    try:
        with os.scandir(above) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return ""
    for name in difflib.get_close_matches(first, names, n=3):
        if (found := above.joinpath(name, *rest)).is_dir():
            return f"; did you mean {str(found if folder.is_absolute() else os.path.relpath(found))!r}?"
    return ""


def lies_here(name: str) -> str:
    """For a name that is not known: that a file of this name lies in the working folder, as the end of a sentence; empty if none does."""
    file = f"{name}.py"
    return f"; {file} lies here: give --plugin {file}" if os.sep not in name and os.path.isfile(file) else ""  # noqa: PTH113 - any text may come


def counted(count: float, unit: str, form: str = "") -> str:
    """A number and what it counts: `1 cell`, `0 cells`, `2 noisy copies`; `form` is the number's, such as `,`."""
    units = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"{count:{form}} {unit if count == 1 else units}"

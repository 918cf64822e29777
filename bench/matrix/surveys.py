"""Surveys in the folder of a run: each a file of its own, written as it is counted, so that an interruption costs no more than a chunk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import BenchError
from bench.files import claims, disk
from bench.files.writing import write_atomically
from bench.spec import canonical
from bench.store.surveys import file_name, line, read
from bench.store.work import Work
from bench.train.surveys import CHUNK, Counting, Question


class Files:
    """Keeps the surveys of the run that this process holds; a `bench.train.surveys.Keeper`.

    Args:
        progress: told of images that are done, and of how many.
        check: raises if this process is to stop.

    Attributes:
        before: called before a survey is counted, with everything that the training is as it will be asked again.
    """

    def __init__(self, work: Work, progress: Callable[[int, int], None], check: Callable[[], None]) -> None:
        self.work, self.progress, self.check = work, progress, check
        self.before: Callable[[], None] = lambda: None

    def keep(self, question: Question, places: range, count: Counting) -> tuple[list[Mapping[int, int]], str]:
        """See `bench.train.surveys.Keeper`."""
        path = self.work.run.path / file_name(question.survey, question.epoch)
        asked: dict[str, Any] = vars(question)
        said: dict[str, Any] | None = None
        votes: list[Mapping[int, int]] = []
        if path.exists():
            with contextlib.suppress(BenchError):  # then it is counted anew
                said, votes = read(path, places)
        if said != asked:
            votes = []
        if len(votes) < len(places):
            self.before()
            del votes[len(votes) // CHUNK * CHUNK :]
            text = canonical(asked) + "\n" + "".join(map(line, places, votes))
            write_atomically(path, text.encode())
            end = len(text.encode())
            for chunk in count(len(votes)):
                self.check()
                added = "".join(map(line, places[len(votes) :], chunk)).encode()
                claims.guard(path)
                with path.open("r+b") as file:
                    file.seek(end)
                    file.write(added)
                    file.flush()
                    os.fsync(file.fileno())
                end += len(added)
                votes += chunk
                self.progress(len(votes), len(places))
        return votes, disk.sha256(path)

    def recall(self, survey: str, epoch: int, places: range, sha256: str) -> tuple[list[Mapping[int, int]], int]:
        """See `bench.train.surveys.Keeper`."""
        path = self.work.run.path / file_name(survey, epoch)
        if not path.exists() or disk.sha256(path) != sha256:
            raise BenchError(f"{path} is not the survey that the checkpoint was trained with; --rerun all starts over")
        said, votes = read(path, places)
        return votes, said["copies"]

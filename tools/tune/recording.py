"""A runner that writes down every event, and answers from an earlier journal what was already measured."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from types import TracebackType
from typing import Self

from tools.tune.journal import Entry, JournalWriter
from tools.tune.model import Compiled, CompileJob, ConfirmJob, Event, Job, Runner, ScreenJob


class RecordingRunner:
    """Wraps a runner. Events are appended to every writer before anyone sees them.

    earlier: what a killed run had measured; such a job is answered at once, and not written again. Compilations are
    done anew: they fill the compiler's cache, which may be gone, and cost nothing where it is not.
    """

    def __init__(self, inner: Runner, writers: Iterable[JournalWriter], earlier: Iterable[Entry] = ()) -> None:
        self._inner = inner
        self._writers = tuple(writers)
        self._known: dict[Hashable, deque[Event]] = defaultdict(deque)
        self._before_s = 0.0
        for entry in earlier:
            self._before_s = max(self._before_s, entry.clock_s)
            if not isinstance(entry.event, Compiled):
                self._known[_key(entry.event.job)].append(entry.event)
        self._answered: deque[Event] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()

    @property
    def clock_s(self) -> float:
        return self._inner.clock_s

    @property
    def seconds_in_all(self) -> float:
        """Of the runs before and this one."""
        return self._before_s + self._inner.clock_s

    @property
    def compile_slots(self) -> int:
        return self._inner.compile_slots

    def submit(self, job: Job) -> None:
        known = None if isinstance(job, CompileJob) else self._known.get(_key(job))
        if known:
            self._answered.append(known.popleft())
        else:
            self._inner.submit(job)

    def wait(self) -> Event:
        if self._answered:
            return self._answered.popleft()
        event = self._inner.wait()
        for writer in self._writers:
            writer.append(event, self.seconds_in_all)
        return event


def _key(job: ScreenJob | ConfirmJob) -> Hashable:
    """When to give up depends on what was measured first, which a second run may see in another order."""
    if isinstance(job, ScreenJob):
        return job.num_tokens, job.shape, job.config
    return job

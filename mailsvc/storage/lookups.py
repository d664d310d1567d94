"""Short questions to the database, answered together: what group commit is for writing, for reading.

A read of its own costs a thread's waking and several turns at the interpreter's lock, which is more than the query
itself takes, and a busy service asks three questions for each message.  `Lookups` gathers those of one turn of the
reactor and puts them as one read.  A service with nothing else to do asks no later for it: a turn is over at once.

It is for questions that an index answers in microseconds.  What may take longer (opening a maildrop, parts of messages)
has a read of its own, so that nobody waits for the reading of somebody else.

The hardest idea: one question's error must not become another's.  So after an error each question is put again, alone;
it may be, because reading changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from mailsvc.storage.rows import Cursor
from mailsvc.storage.store import Reader

P = ParamSpec("P")
T = TypeVar("T")

_Question = tuple[Callable[[Cursor], Any], Deferred[Any]]

AT_ONCE = 32
"""Questions of one read at most; others go to the next thread."""


class Lookups:
    """A `Reader` for short questions; `store` answers them."""

    def __init__(self, store: Reader, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._asked: list[_Question] = []

    def read(self, fn: Callable[Concatenate[Cursor, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(txn, ...)` on a snapshot that is not older than this call."""
        done: Deferred[T] = Deferred()
        self._asked.append((partial(_applied, fn, args, kwargs), done))
        if len(self._asked) == 1:
            self._clock.callLater(0, self._put)
        return done

    def _put(self) -> None:
        asked, self._asked = self._asked, []
        for first in range(0, len(asked), AT_ONCE):
            self._ask(asked[first : first + AT_ONCE])

    def _ask(self, questions: Sequence[_Question]) -> None:
        read = self._store.read(_answers, [question for question, _ in questions])
        read.addCallbacks(self._answered, self._failed, callbackArgs=(questions,), errbackArgs=(questions,))

    def _answered(self, answers: Sequence[Any], questions: Sequence[_Question]) -> None:
        for answer, (_, done) in zip(answers, questions, strict=True):
            done.callback(answer)

    def _failed(self, failure: Failure, questions: Sequence[_Question]) -> None:
        if len(questions) == 1:
            questions[0][1].errback(failure)
            return
        for question in questions:
            self._ask([question])


def _applied(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], txn: Cursor) -> T:
    return fn(txn, *args, **kwargs)


def _answers(txn: Cursor, questions: Sequence[Callable[[Cursor], Any]]) -> list[Any]:
    return [question(txn) for question in questions]

"""What can go wrong, told apart by whose fault it is and by whether it may heal.

`str(error)` is always the sentence that a person reads: it names the thing and the cure, and holds no secret.
Whoever speaks to a peer turns the *type* into a code: a `TemporaryFailure` is 4xx or `-ERR [SYS/TEMP]`, never
5xx, because a failure of ours must not make a sender give up (RFC 5321 section 4.2.1). Errors of one package
(an address that does not parse, say) live in that package and derive from `MailsvcError`.
"""

from __future__ import annotations

from collections.abc import Sequence


class MailsvcError(Exception):
    """Something that we foresaw; `str(error)` is the sentence that the user reads."""


class StartRefused(MailsvcError):
    """The service will not start, for every reason in `problems`; `str(error)` is one reason a line.

    All of them are collected before this is raised, so that a postmaster mends a setup in one round.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        if isinstance(problems, str):
            raise TypeError("StartRefused takes a sequence of sentences, not one string")
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigurationRefused(StartRefused):
    """The configuration has mistakes; each problem names the setting and the cure."""


class NotFound(MailsvcError):
    """The account, domain or message that was named does not exist (exit status 1 on the command line)."""


class AlreadyExists(MailsvcError):
    """What should be added is there already (exit status 1 on the command line)."""


class TemporaryFailure(MailsvcError):
    """It did not work now and may work later: 4xx in SMTP, `-ERR [SYS/TEMP]` in POP3 (RFC 3206)."""


class StorageFailure(TemporaryFailure):
    """The database could not do it now: locked, full, read-only, or an I/O error."""


class MailboxFull(TemporaryFailure):
    """A message would fill a mailbox beyond its quota (`452 4.2.2`); it may be emptied before the sender gives up."""


class LoginRefused(MailsvcError):
    """The name or the password is wrong; never says which, so that nobody can learn which names exist."""

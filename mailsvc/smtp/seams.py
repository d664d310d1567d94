"""Where the SMTP server ends and others begin: what it asks of them, as small Protocols (DESIGN section 3).

The server knows the dialogue.  Who gets mail (`Directory`), whether a client may go on (`Gate` and its `Guard`), who
somebody is (`Authenticator`), as whom somebody may send (`Senders`) and what is worth telling later (`Journal`) is
decided elsewhere; `mailsvc.service` passes the objects that fit, `mailsvc.smtp.defaults` has one of each that decides
as little as possible.

The hardest idea: every question carries a `Client`, a value that says all that is known of who asks at that moment.
Nobody behind a seam holds the session itself, so nobody can change it, and a test needs no connection.

An answer that may take time is an ``Awaitable``; the server takes no further command until it is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

from mailsvc.directory.program import Ended
from mailsvc.directory.tables import Pipe, Program
from mailsvc.mail.address import Address
from mailsvc.mail.channel import TLSFacts
from mailsvc.mail.envelope import Envelope
from mailsvc.mail.reply import Reply
from mailsvc.relay.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that may hand in mail without a login, by its certificate: a relay client, its row id and label."""

    id: int
    label: str


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end, as far as it is known now.

    ``session``: a random number, the same for all that happens in one connection.  ``listener``: the mode's name.
    ``peer``: IP address or "local".  ``helo``: its claim, "" before.  ``login``/``account``: who has authenticated and
    the row id, None before.  ``credential``/``changed``: by what, see `mailsvc.accounts.realm.AccountId`.  ``machine``:
    what sends without a login.
    """

    session: int
    listener: str
    peer: str
    helo: str = ""
    tls: TLSFacts | None = None
    login: Address | None = None
    account: int | None = None
    credential: str = ""
    changed: float | None = None
    machine: Machine | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this is a user or a machine of ours."""
        return self.login is not None or self.machine is not None


# -- who gets mail ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a recipient leads: row ids of accounts, programs, addresses elsewhere, or the reply that refuses it.

    ``remotes``: for a recipient elsewhere that is itself.  ``beyond_quota``: what is stored for it is stored also when
    an account is full (postmaster, abuse).  ``bounces_only``: it takes mail with the null sender and no other.
    """

    accounts: tuple[int, ...] = ()
    refusal: Reply | None = None
    programs: tuple[Pipe, ...] = ()
    beyond_quota: bool = False
    remotes: tuple[Address, ...] = ()
    bounces_only: bool = False


class Directory(Protocol):
    """Knows where an address leads."""

    def resolve(self, address: Address, client: Client, size: int = 0) -> Awaitable[Destination]:
        """Where ``address``, as RCPT named it, leads.  Fails with `mailsvc.errors.TemporaryFailure`: 451.

        ``size``: the octets that MAIL declared, 0 for none; an account's quota may be too small for them.
        """


class Programs(Protocol):
    """Runs programs that get mail."""

    def run(
        self, program: Program, environment: Mapping[str, str], prefix: bytes, message: IO[bytes]
    ) -> Awaitable[Ended]:
        """Give ``prefix`` and then ``message``, from its beginning, to the program.  Never fails."""


# -- on to other servers -----------------------------------------------------------------------------------------------


class FirstOutcomes(Awaitable[Sequence[tuple[str, Outcome]] | None], Protocol):
    """The recipients and why they are refused, when all are for good; None in every other case."""

    def cancel(self) -> None:
        """Nobody can be told any more."""


class Outward(Protocol):
    """Sends on what was stored for recipients elsewhere."""

    def wake(self) -> None:
        """Something was stored that may be due."""

    def first_outcomes(self, message_id: int, recipients: int, seconds: float) -> FirstOutcomes:
        """What becomes of a message that was just stored for so many recipients, within so many seconds.

        To be called before `wake`.  When it tells of refusals, the message is gone and nobody else tells its sender.
        """


# -- may this go on ---------------------------------------------------------------------------------------------------


class Guard(Protocol):
    """Watches one session.  A `Reply` is what the client gets instead; one with ``closes`` ends the session."""

    def greeting(self, client: Client) -> Awaitable[Reply | None]:
        """Before the 220; it may take its time.  A refusal always ends the session."""

    def spoke_early(self, client: Client, octets: int) -> Reply | None:
        """So many octets were there before our first word (never asked inside implicit TLS)."""

    def command(self, client: Client, verb: str, argument: str) -> Awaitable[Reply | None]:
        """Before a command that the session table allows; ``argument`` is not parsed yet."""

    def recipient(self, client: Client, address: Address) -> Awaitable[Reply | None]:
        """Before the directory is asked for ``address``."""

    def answered(self, client: Client, verb: str, answer: Reply) -> Reply | None:
        """``answer`` was given to ``verb`` ("" for a line without one, "." for the end of a body).

        What is returned is said behind it and ends the session.
        """

    def ended(self, client: Client) -> None:
        """The connection is gone; called exactly once."""


class Gate(Protocol):
    """Watches all sessions."""

    def admit(self, client: Client) -> Guard | Reply:
        """A guard for a connection that has just been made, or the reply that turns it away (its guard is not needed).

        In implicit TLS the reply cannot be said, and the connection is cut.
        """


# -- who is it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Challenge:
    """A 334: ``data`` before base64."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A 235.  ``login``: the account's address, ``account`` its row id.  ``mechanism`` for the record.

    ``credential`` and ``changed``: see `mailsvc.accounts.realm.AccountId`.
    """

    login: Address
    account: int
    mechanism: str = ""
    credential: str = ""
    changed: float | None = None


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """``answer`` is what the client gets; ``name`` (who it wanted to be) and ``why`` are for the record."""

    answer: Reply
    name: str
    why: str = field(default="wrong name or password")


class Exchange(Protocol):
    """One AUTH command, from its initial response to its end."""

    def step(self, response: bytes | None) -> Awaitable[Challenge | LoggedIn | LoginFailed]:
        """The client's next response, decoded; None when AUTH came without an initial one.

        Not called again after `LoggedIn` or `LoginFailed`.  Fails with `mailsvc.errors.TemporaryFailure`: 454.
        """

    def cancel(self) -> None:
        """The client has given up or is gone: let go of what is waited for.  Harmless at any time."""


class Channel(Protocol):
    """What SASL may ask of the connection under it."""

    def exporter(self, label: bytes, length: int) -> bytes | None:
        """Keying material of the TLS session (RFC 9266: label ``EXPORTER-Channel-Binding``); None without TLS."""


class Authenticator(Protocol):
    """Knows who somebody is (RFC 4954, RFC 4422)."""

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """The names for EHLO, in the order of preference."""

    def begin(self, mechanism: str, client: Client, channel: Channel) -> Exchange | None:
        """An exchange by ``mechanism`` (upper case), or None when it is not offered: 504."""


class Machines(Protocol):
    """Knows which machines may hand in mail without a login."""

    def recognise(self, client: Client) -> Awaitable[Machine | None]:
        """The machine that ``client`` is, by its certificate; asked at each MAIL where a login is needed and there is
        none.  Fails with `mailsvc.errors.TemporaryFailure`: 451."""


class Senders(Protocol):
    """Knows as whom an account or a machine may send; asked only when there is one."""

    def at_mail(self, client: Client, reverse_path: Address | None) -> Awaitable[Reply | None]:
        """The refusal of MAIL FROM, or None.  Fails with `mailsvc.errors.TemporaryFailure`: 451."""

    def at_end(self, client: Client, header: bytes) -> Awaitable[Reply | None]:
        """The refusal of a message with this header block, or None.  Fails likewise."""


class ChannelMemory(Protocol):
    """Knows what protection a sender's messages had before; asked for servers that bring mail, not for users."""

    def at_mail(self, client: Client, reverse_path: Address | None) -> Awaitable[Reply | None]:
        """The refusal of a message with less of it, or None.  Fails with `mailsvc.errors.TemporaryFailure`: 451."""

    def accepted(self, client: Client, reverse_path: Address | None) -> None:
        """A message was committed; must not fail and not take time."""


# -- what is told later -----------------------------------------------------------------------------------------------


class Journal(Protocol):
    """Hears of everything that happens in a session; must not fail and not take time."""

    def connected(self, client: Client) -> None:
        """A connection was admitted."""

    def turned_away(self, client: Client, why: str) -> None:
        """A connection was not."""

    def secured(self, client: Client) -> None:
        """A handshake was completed; ``client.tls`` tells."""

    def handshake_failed(self, client: Client, why: str) -> None:
        """A handshake was begun and not completed; `disconnected` follows."""

    def disconnected(self, client: Client, why: str) -> None:
        """The connection is gone."""

    def injection(self, client: Client, octets: int) -> None:
        """So many octets stood behind STARTTLS in clear."""

    def logged_in(self, client: Client, mechanism: str) -> None:
        """A login succeeded; ``client.login`` tells."""

    def login_failed(self, client: Client, mechanism: str, failed: LoginFailed) -> None:
        """A login was refused."""

    def recipient_refused(self, client: Client, sender: str, address: Address, answer: Reply) -> None:
        """A recipient of a message from ``sender`` was refused."""

    def message_refused(self, client: Client, envelope: Envelope, size: int, answer: Reply) -> None:
        """A message was refused at its end; ``size`` in octets as far as it came."""

    def refused(self, client: Client, what: str, why: str) -> None:
        """Anything else was refused ("session", "MAIL", ...)."""

    def answered(self, client: Client, verb: str, answer: Reply) -> None:
        """``verb`` ("" for a line without one) was answered with an error, of which more may have been told before."""

    def noted(self, client: Client, text: str) -> None:
        """Something was found out about the client, in a sentence of ours, that refused nothing by itself."""

    def accepted(self, client: Client, envelope: Envelope, trace_id: str, size: int) -> None:
        """A message was committed (its event row is the intake's: it stands in the same transaction)."""

    def unavailable(self, client: Client, what: str, error: Exception) -> None:
        """Something that may heal kept us from ``what``: the client was told to try again."""

    def defect(self, client: Client, error: BaseException) -> None:
        """Our own mistake, with its traceback."""

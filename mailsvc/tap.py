"""`twistd mailsvc`: its options, and a start that either works or says in sentences why not.

The options are the settings of `mailsvc.config` that have one; what they configure is assembled in
`service.py`.

The hardest idea: twistd shows a traceback for whatever goes wrong in a start, and a daemon has no terminal
any more when its service starts. So the service is wrapped in a `Start`, which keeps a copy of the terminal
from before the fork, writes each problem of a `StartRefused` there as a line of its own, and ends the
process with status 1.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.logger import Logger
from twisted.python import usage

from mailsvc import __version__
from mailsvc.config import SETTINGS, Configuration, load
from mailsvc.errors import StartRefused
from mailsvc.surroundings import surroundings

_log = Logger()


def _listener(name: str) -> Callable[[Options, str], None]:
    """An option that may be given more than once, with its help from the table of settings."""

    def given(self: Options, endpoint: str) -> None:
        self.endpoints.setdefault(f"listen.{name}", []).append(endpoint)

    setting = SETTINGS[f"listen.{name}"]
    default = f"[default: {_words(setting.default)}, as root: {_words(setting.root)}]"
    given.__doc__ = f"{setting.help} May be given more than once. {default}"
    return given


def _words(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _parameter(name: str, default: str | None = None) -> list[object]:
    setting = SETTINGS[name]
    shown = _words(setting.default) if default is None else default
    return [name, None, None, f"{setting.help} [default: {shown}]"]


class Options(usage.Options):
    """What may stand behind `twistd mailsvc`."""

    synopsis = "[options]"
    longdesc = (
        "Takes mail in by SMTP, keeps it in an SQL database, and hands it out by POP3, all of it over TLS. "
        "First make certificates and a user: `mailsvc certs init certs/ --hostname NAME`, "
        "`mailsvc user add USER@DOMAIN`. Then, in the foreground: "
        "`twistd -n --pidfile= mailsvc --certs certs/`. "
        "All other settings stand in the configuration file: `mailsvc config describe` prints one."
    )
    optParameters = [
        _parameter("certs"),
        _parameter("database", "$MAILSVC_DATABASE, else emaildb.sqlite3"),
        ["config", None, None, "Configuration file (TOML); options override it. [default: $MAILSVC_CONFIG]"],
        _parameter("hostname", "this machine's full name"),
        _parameter("tls"),
    ]
    compData = usage.Completions(
        optActions={
            "certs": usage.CompleteDirs(),
            "database": usage.CompleteFiles("*.sqlite3"),
            "config": usage.CompleteFiles("*.toml"),
            "tls": usage.CompleteList(["required", "optional"]),
        }
    )

    opt_smtp = _listener("smtp")
    opt_submission = _listener("submission")
    opt_submissions = _listener("submissions")
    opt_lmtp = _listener("lmtp")
    opt_pop3 = _listener("pop3")
    opt_pop3s = _listener("pop3s")
    opt_metrics = _listener("metrics")
    opt_recipients = _listener("recipients")

    def __init__(self) -> None:
        self.endpoints: dict[str, list[str]] = {}
        super().__init__()

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"mailsvc {__version__}")
        raise SystemExit(0)

    def parseArgs(self, *extra: str) -> None:
        if extra:
            raise usage.UsageError(f"`{extra[0]}` is not expected here; mailsvc takes options only")

    def settings(self) -> dict[str, object]:
        """What was given, by the settings' names; None for what was not."""
        plain = {name: self[name] for name in ("certs", "database", "hostname", "tls")}
        return plain | self.endpoints


def configuration(options: Options) -> Configuration:
    """What is in force for these options; remarks go to the log. Raises ConfigurationRefused."""
    file = options["config"] or os.environ.get("MAILSVC_CONFIG") or None
    in_force = load(file, options.settings(), surroundings(), os.environ)
    for remark in in_force.remarks:
        _log.warn("{remark}", remark=remark)
    return in_force.configuration


class Start(MultiService):
    """Starts its services, or says on the terminal why not and ends the process with status 1.

    `terminal` is a file descriptor of its own, closed when the start is over. `twistd` is what twistd's options
    hold, to do its cleaning up: it does that after exceptions, which it shows, and not after SystemExit.
    A service that raises StartRefused has released what it took (ports, threads) itself.
    """

    def __init__(self, terminal: int, twistd: Mapping[str, Any]) -> None:
        super().__init__()
        self._terminal = terminal
        self._twistd = twistd
        # Not under nohup, which says that the terminal does not matter.
        minds = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._has_terminal = bool(twistd.get("nodaemon", True)) and minds and has_terminal()

    @contextmanager
    def told(self, started: bool) -> Iterator[None]:
        """Turn StartRefused into lines and SystemExit; `started`: twistd has its pidfile and its log."""
        try:
            yield
        except StartRefused as refused:
            tell(self._terminal, refused.problems)
            if started:
                self._leave(refused.problems)
            raise SystemExit(1) from None

    def _leave(self, problems: Sequence[str]) -> None:
        """Do what twistd does after an exception: remove the pidfile, and tell the parent of a daemon.

        The parent waits for a word on a pipe whose writing end it holds open itself, so silence is for ever.
        """
        pipe = self._twistd.get("statusPipe")
        if pipe is not None:
            for problem in problems:  # in the foreground the log is on the terminal that has just been told
                _log.critical("{problem}", problem=problem)
        if self._twistd.get("pidfile"):
            with suppress(OSError):
                os.unlink(self._twistd["pidfile"])
        if pipe is not None:
            os.write(pipe, b"1 the start was refused for the reasons above")

    def privilegedStartService(self) -> None:
        with self.told(started=True):
            super().privilegedStartService()

    def startService(self) -> None:
        with self.told(started=True):
            super().startService()
        os.close(self._terminal)

    def stopService(self) -> Deferred[Any]:
        """Stop in order; a second signal meanwhile ends what is still open at once.

        Twisted's own handler would stop the reactor a second time, which ends in a traceback.
        """
        handlers = {number: signal.signal(number, self._hurry) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore(result: Any) -> Any:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            return result

        return maybeDeferred(super().stopService).addBoth(restore)

    def hung_up(self, number: int, frame: object) -> None:
        """SIGHUP, which would end the process at once: look at the certificates anew; or stop in order, when it says
        that the terminal is gone that we were started from in the foreground."""
        from twisted.internet import reactor

        if self._has_terminal and not has_terminal():
            IReactorFromThreads(reactor).callFromThread(IReactorCore(reactor).stop)
        else:
            IReactorFromThreads(reactor).callFromThread(self.reload)

    def reload(self) -> None:
        """Let each service that can look at its certificates anew."""
        _log.info("SIGHUP: looking at the certificates; other settings need a restart")
        for service in self:
            getattr(service, "reload", lambda: None)()

    def _hurry(self, number: int, frame: object) -> None:
        from twisted.internet import reactor

        for service in self:
            IReactorFromThreads(reactor).callFromThread(getattr(service, "hurry", lambda: None))


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def tell(terminal: int, problems: Sequence[str]) -> None:
    """Write each problem as a line of its own; a terminal that is gone changes nothing."""
    lines = "".join(f"mailsvc: {line}\n" for problem in problems for line in problem.splitlines())
    with suppress(OSError):
        os.write(terminal, lines.encode("utf-8", "backslashreplace"))


def _terminal() -> int:
    """A descriptor of its own for what standard error is; that is opened when whoever has started us has closed it."""
    try:
        return os.dup(2)
    except OSError:
        # The next connection would get its number, and what a library says on standard error.
        while os.open(os.devnull, os.O_RDWR) < 2:
            pass
        return os.dup(2)


def makeService(options: Options) -> Start:
    """The whole service for `twistd mailsvc`; a start that is refused ends the process with status 1."""
    start = Start(_terminal(), options.parent or {})
    with start.told(started=False):
        settled = configuration(options)
        # here, not at the top: by now `--reactor` has chosen one, and `--help` need not load the service
        from twisted.internet import reactor

        from mailsvc.service import make_service

        start.addService(make_service(settled, reactor))
        signal.signal(signal.SIGHUP, start.hung_up)
    return start

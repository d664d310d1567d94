"""The shape of the code: imports point down only, what is pure stays pure, and no secret lies in the tree.

The levels are those of the design (docs/architecture): a module may import what is on a lower level; on its
own level only what is in its own package, or, among the pure ones of level 1, each other. Every module has a
level: one that is new fails here until somebody has decided where it belongs.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import mailsvc

ROOT = Path(mailsvc.__file__).resolve().parent.parent

GROUND = -1
LEVELS: dict[int, str] = {
    GROUND: "mailsvc mailsvc.errors",
    0: "mailsvc.config.* mailsvc.mail.*",
    1: """
        mailsvc.wire.lines
        mailsvc.smtp.modes mailsvc.smtp.commands mailsvc.smtp.session mailsvc.smtp.recipients
        mailsvc.smtp.extensions mailsvc.smtp.trace mailsvc.smtp.seams
        mailsvc.pop3.maildrop mailsvc.pop3.session
        mailsvc.tls.credential mailsvc.tls.table mailsvc.tls.memory mailsvc.tls.sealing mailsvc.certkit.*
        mailsvc.relay.replies mailsvc.relay.demands mailsvc.mtasts.record
        mailsvc.probe.observation mailsvc.probe.conclusion mailsvc.probe.report
        mailsvc.tls.levels mailsvc.tls.gate mailsvc.tls.ocsp mailsvc.tls.hello
        mailsvc.relay.url mailsvc.relay.routes mailsvc.relay.logins mailsvc.relay.srs
        mailsvc.relay.outgoing mailsvc.relay.dialogue mailsvc.relay.eightbit mailsvc.relay.framing
        mailsvc.relay.opening mailsvc.relay.delivery mailsvc.relay.asking
        mailsvc.sending.header mailsvc.sending.letter mailsvc.sending.compose mailsvc.sending.target
        mailsvc.sending.verdict mailsvc.sending.local mailsvc.sending.arguments
        mailsvc.relay.outcome mailsvc.relay.schedule mailsvc.relay.pace mailsvc.relay.hosts mailsvc.relay.reach
        mailsvc.backup mailsvc.backup.forms mailsvc.backup.listing mailsvc.backup.place
        mailsvc.relay.weighing mailsvc.tlsrpt mailsvc.tlsrpt.record mailsvc.tlsrpt.report
        mailsvc.tlsrpt.mail
        mailsvc.tls.expiry
        mailsvc.tls.chain mailsvc.tls.alerts mailsvc.tls.recheck mailsvc.tls.roots mailsvc.tls.policy mailsvc.tls.dane
        mailsvc.tls.identity mailsvc.smtp.results
        mailsvc.tls.observation
        mailsvc.pop3.rendering
        mailsvc.pop3.devices mailsvc.pop3.texts mailsvc.pop3.admission
        mailsvc.accounts.passwords mailsvc.accounts.throttle mailsvc.accounts.app_passwords
        mailsvc.sasl.*
        mailsvc.gate mailsvc.gate.places mailsvc.gate.bodies mailsvc.gate.manners mailsvc.gate.blocklists
        mailsvc.gate.guesses
        mailsvc.directory.tables mailsvc.directory.resolve mailsvc.directory.loops mailsvc.directory.quota
        mailsvc.directory.program
        mailsvc.mailbox.lineends mailsvc.mailbox.maildir mailsvc.mailbox.mbox mailsvc.mailbox.uidlist
        """,
    2: """
        mailsvc.storage.rows mailsvc.storage.dialect mailsvc.storage.files mailsvc.storage.migrate
        mailsvc.storage.credentials mailsvc.storage.senders mailsvc.storage.certificates mailsvc.storage.identities
        mailsvc.storage.routes mailsvc.storage.forwarding
        mailsvc.storage.batch mailsvc.storage.accounts mailsvc.storage.mailboxes mailsvc.storage.events
        mailsvc.storage.stories mailsvc.maillog
        mailsvc.storage.aliases mailsvc.storage.rules mailsvc.storage.tls_policies mailsvc.storage.fullness
        mailsvc.storage.surrogates mailsvc.storage.backups mailsvc.storage.offers
        mailsvc.storage.imports mailsvc.storage.exports
        mailsvc.storage.outbound mailsvc.storage.outbound_admin mailsvc.storage.reports
        mailsvc.storage.sts_policies mailsvc.storage.tls_reports
        mailsvc.storage.deleted mailsvc.storage.devices mailsvc.storage.expiry
        """,
    3: """
        mailsvc.storage.beside
        mailsvc.storage.pool mailsvc.storage.opening mailsvc.storage.database mailsvc.storage.store
        mailsvc.storage.lookups
        mailsvc.accounts.hashing mailsvc.accounts.login mailsvc.accounts.realm mailsvc.accounts.guard
        mailsvc.accounts.proofs mailsvc.accounts.authenticator mailsvc.accounts.senders mailsvc.tls.binding
        mailsvc.accounts.database mailsvc.accounts.certificates
        mailsvc.tls.verify mailsvc.tls.sessions mailsvc.tls.client
        mailsvc.tls.server mailsvc.tls.sources mailsvc.tls.watching mailsvc.tls.published
        mailsvc.wire.conversation mailsvc.wire.sessions mailsvc.wire.proxied mailsvc.wire.implicit
        mailsvc.directory.running
        mailsvc.journal mailsvc.surroundings mailsvc.hints mailsvc.resolver mailsvc.rounds mailsvc.clock
        mailsvc.relay.destinations
        mailsvc.tls.https mailsvc.wire.web mailsvc.backup.keys
        mailsvc.relay.seams mailsvc.relay.settling mailsvc.relay.lanes mailsvc.relay.watching
        mailsvc.relay.bounces
        mailsvc.gate.lookup mailsvc.gate.watch mailsvc.gate.shortage
        mailsvc.mailbox.reading mailsvc.mailbox.writing
        """,
    4: """
        mailsvc.directory.lookup mailsvc.smtp.piping mailsvc.smtp.reporting mailsvc.smtp.postmaster
        mailsvc.smtp.authentication mailsvc.smtp.ownership mailsvc.smtp.downgrades mailsvc.smtp.defaults
        mailsvc.smtp.journal mailsvc.smtp.intake mailsvc.smtp.login mailsvc.smtp.rules mailsvc.smtp.connection
        mailsvc.smtp.server mailsvc.smtp.reception mailsvc.smtp.spooled
        mailsvc.smtp.transaction mailsvc.smtp.machines mailsvc.smtp.forwarding mailsvc.tls.trust
        mailsvc.relay.client mailsvc.relay.driver mailsvc.relay.stream
        mailsvc.relay.answers mailsvc.relay.mx mailsvc.relay.policies mailsvc.relay.means mailsvc.relay.connections
        mailsvc.relay.stops mailsvc.relay.journeys mailsvc.relay.attempt mailsvc.relay.telling
        mailsvc.tlsrpt.counting mailsvc.tlsrpt.sending
        mailsvc.pop3.mailbox mailsvc.pop3.server
        mailsvc.backup.judging mailsvc.backup.fetching mailsvc.backup.keeping mailsvc.backup.offering
        mailsvc.relay.channel mailsvc.relay.facts mailsvc.mtasts.fetch mailsvc.mtasts.cache
        mailsvc.tls.live mailsvc.tls.reload mailsvc.tls.notices mailsvc.metrics
        mailsvc.mailbox.importing mailsvc.mailbox.exporting
        mailsvc.relay.queue mailsvc.relay.settler
        mailsvc.pop3.housekeeping mailsvc.pop3.content mailsvc.pop3.rules mailsvc.pop3.connection mailsvc.pop3.handout
        mailsvc.pop3.login
        """,
    5: """
        mailsvc.outgoing mailsvc.parts mailsvc.probe.session
        mailsvc.sending.delivering mailsvc.sending.api mailsvc.sending.handing mailsvc.sending.stdio
        """,
    6: "mailsvc.lifecycle",
    7: "mailsvc.service",
    8: "mailsvc.tap mailsvc.cli.* twisted.plugins.mailsvc_plugin",
    9: "mailsvc.__main__",
}
PLACES = {name: level for level, names in LEVELS.items() for name in names.split()}

# what a pure module must not even import: the network, other threads and processes, the clock
IMPURE = {
    "twisted",
    "socket",
    "ssl",
    "select",
    "selectors",
    "asyncio",
    "threading",
    "subprocess",
    "time",
    "sqlite3",
}
# what it must not ask for: the environment and the time of day
ASKING = {("os", "environ"), ("os", "getenv"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


@dataclass(frozen=True, slots=True)
class Module:
    """A source file with its dotted name, and what is asked of it (its tree is large, and not kept).

    `imports`: line and full name of each import; `at_once`: the names of those that run when it is imported;
    `asks`: line and name of what is in `ASKING`.
    """

    name: str
    path: Path
    imports: tuple[tuple[int, str], ...]
    at_once: frozenset[str]
    asks: tuple[tuple[int, str], ...]

    @property
    def level(self) -> int | None:
        return level_of(self.name)


def level_of(name: str) -> int | None:
    """The level of a module by its name, of a package by its lowest module; None when nobody gave it one."""
    for place in (name, f"{name.rpartition('.')[0]}.*", f"{name}.*"):
        if place in PLACES:
            return PLACES[place]
    inside = [level for place, level in PLACES.items() if place.startswith(f"{name}.")]
    return min(inside) if inside else None


@cache
def modules() -> tuple[Module, ...]:
    """All of them, read once."""
    return tuple(_read())


def _read() -> Iterator[Module]:
    for path in sorted([*(ROOT / "mailsvc").rglob("*.py"), *(ROOT / "twisted").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        tree = ast.parse(path.read_text("utf-8"))
        imports, asks = [], []
        for node in ast.walk(tree):
            imports += [(getattr(node, "lineno", 0), target) for target in imported(node, package)]
            if isinstance(node, ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
                if (owner, node.attr) in ASKING:
                    asks.append((node.lineno, f"{owner}.{node.attr}"))
        at_once = frozenset(target for node in at_module_level(tree) for target in imported(node, package))
        yield Module(name, path, tuple(imports), at_once, tuple(asks))


def imported(node: ast.AST, package: str) -> Iterator[str]:
    """The full names that an import statement may mean; `from a import b` is given as a.b, see `ours`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def ours(name: str) -> str | None:
    """The module of this project that a full name means, or None for somebody else's."""
    parts = name.split(".")
    if parts[0] != "mailsvc":
        return None
    for length in range(len(parts), 0, -1):
        stem = ROOT.joinpath(*parts[:length])
        if stem.with_suffix(".py").exists() or (stem / "__init__.py").exists():
            return ".".join(parts[:length])
    return parts[0]


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that runs when the module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from at_module_level(child)


class Layers(SynchronousTestCase):
    def setUp(self) -> None:
        self.modules = list(modules())
        self.assertGreater(len(self.modules), 10)

    def test_imports_are_read_right(self) -> None:
        """Absolute, relative, of a module and of a name in it: the arrow leads to the module."""
        for source, target in {
            "import mailsvc.errors": "mailsvc.errors",
            "from mailsvc import errors": "mailsvc.errors",
            "from mailsvc.errors import NotFound": "mailsvc.errors",
            "from ..errors import NotFound": "mailsvc.errors",
            "from . import address": "mailsvc.mail.address",
            "from twisted.internet import defer": None,
        }.items():
            (name,) = imported(ast.parse(source).body[0], "mailsvc.mail")
            self.assertEqual(ours(name), target, source)

    def test_every_module_has_a_level(self) -> None:
        """A new module belongs somewhere: LEVELS in this file says where."""
        self.assertEqual([module.name for module in self.modules if module.level is None], [])

    def test_imports_point_down(self) -> None:
        """Each arrow that points up is named, with file and line."""
        up = []
        for module in self.modules:
            level = module.level
            for line, name in module.imports:
                target = ours(name)
                goal = None if target is None else level_of(target)
                if target is None or goal is None or level is None or goal < level:
                    continue
                if goal == level and (self._same_package(module, target) or level == 1):
                    continue
                where = f"{module.path.relative_to(ROOT)}:{line}"
                up.append(f"{where}: {module.name} (level {level}) imports {target} (level {goal})")
        self.assertEqual(up, [], "\n".join(["imports that do not point down:", *up]))

    @staticmethod
    def _same_package(module: Module, target: str) -> bool:
        own = ".".join(module.name.split(".")[:2])
        return own != "mailsvc" and (target == own or target.startswith(f"{own}."))

    def test_no_module_imports_the_reactor(self) -> None:
        """The reactor is an argument: importing it installs one, and no test could bring its own clock."""
        found = [module.name for module in self.modules if "twisted.internet.reactor" in module.at_once]
        self.assertEqual(found, [])

    def test_rows_know_nothing_of_twisted(self) -> None:
        """Level 2 is plain functions of a cursor, and the words of the log, which is Twisted's by nature."""
        rows = [found for found in self._importing({"twisted"}, upto=2) if not found.startswith("mailsvc.maillog ")]
        self.assertEqual(rows, [])

    def test_pure_modules_import_nothing_impure(self) -> None:
        """Levels 0 and 1 are values in, values out: no network, threads, processes, or clock."""
        self.assertEqual(self._importing(IMPURE, upto=1), [])

    def test_pure_modules_ask_for_nothing(self) -> None:
        """Levels 0 and 1 get the environment and the time as arguments."""
        found = [
            f"{module.name}:{line} asks {asked}"
            for module in self.modules
            if module.level is not None and module.level <= 1
            for line, asked in module.asks
        ]
        self.assertEqual(found, [])

    def _importing(self, names: set[str], upto: int) -> list[str]:
        return [
            f"{module.name} imports {name}"
            for module in self.modules
            if module.level is not None and module.level <= upto
            for _, name in module.imports
            if name.partition(".")[0] in names
        ]


class Tree(SynchronousTestCase):
    def files(self) -> list[Path]:
        """What git would take, or every file where there is no git (a source archive)."""
        git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            listed = subprocess.run(git, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
        return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]

    def test_no_file_holds_a_private_key(self) -> None:
        """Keys are made where they are used; the tests make their own, each time."""
        key = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE " + rb"KEY-----[\s\S]{0,200}?[A-Za-z0-9+/=]{60}")
        self.assertEqual([str(path) for path in self.files() if key.search(path.read_bytes())], [])

    def test_the_certificate_folder_of_the_repository_is_empty(self) -> None:
        """certs/ in git holds its README and its .gitignore only."""
        inside = {path.name for path in self.files() if (ROOT / "certs") in path.parents}
        self.assertLessEqual(inside, {"README.rst", ".gitignore"})

"""The configuration: what is in force, where it came from, and every mistake in one report."""

from __future__ import annotations

import os
import tomllib
from dataclasses import FrozenInstanceError
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailsvc.config import SETTINGS, Configuration, Surroundings, described, load
from mailsvc.config.endpoint import endpoint_mistake, endpoint_parts, is_private, port_of
from mailsvc.config.kinds import hostname_mistake
from mailsvc.config.layers import InForce, environment_layer, options_layer, settle, text_layer
from mailsvc.config.settings import Listen
from mailsvc.errors import ConfigurationRefused

NAMED = Surroundings(fqdn=lambda: "mail.example.org", privileged=False)
ROOT = Surroundings(fqdn=lambda: "mail.example.org", privileged=True)
FOLDER = Path("/etc/mailsvc")


def in_force(toml: str = "", surroundings: Surroundings = NAMED, **options: object) -> InForce:
    """What a file's text and options make; an option's name has `__` where the setting's has a dot."""
    by_name = {name.replace("__", "."): value for name, value in options.items()}
    return settle(surroundings, text_layer(toml, "mailsvc.toml", FOLDER), options_layer(by_name))


def called(fqdn: str) -> Surroundings:
    """A machine of that name, on which we are not root."""
    return Surroundings(fqdn=lambda: fqdn, privileged=False)


class Refusals(SynchronousTestCase):
    def problems(self, toml: str = "", **options: object) -> list[str]:
        error = self.assertRaises(ConfigurationRefused, in_force, toml, NAMED, **options)
        return list(error.problems)

    def only(self, toml: str = "", **options: object) -> str:
        problems = self.problems(toml, **options)
        self.assertEqual(len(problems), 1, problems)
        return problems[0]


class Defaults(SynchronousTestCase):
    def test_one_who_is_not_root_listens_on_loopback_and_high_ports(self) -> None:
        """The documented defaults without root are in force."""
        listen = in_force().configuration.listen
        self.assertEqual(listen.smtp, ("tcp:2525:interface=127.0.0.1",))
        self.assertEqual(listen.submission, ("tcp:2587:interface=127.0.0.1",))
        self.assertEqual(listen.submissions, ("tcp:2465:interface=127.0.0.1",))
        self.assertEqual(listen.pop3, ("tcp:2110:interface=127.0.0.1",))
        self.assertEqual(listen.pop3s, ("tcp:2995:interface=127.0.0.1",))

    def test_root_listens_on_the_well_known_ports(self) -> None:
        """The documented defaults with root are in force."""
        listen = in_force(surroundings=ROOT).configuration.listen
        self.assertEqual(listen.smtp + listen.submission + listen.submissions, ("tcp:25", "tcp:587", "tcp:465"))
        self.assertEqual(listen.pop3 + listen.pop3s, ("tcp:110", "tcp:995"))

    def test_the_rest_is_as_documented(self) -> None:
        """Nothing given: the values of the dataclasses, the machine's full name in lower case."""
        surroundings = called("Mail.Example.ORG.")
        outcome = in_force(surroundings=surroundings)
        self.assertEqual(outcome.configuration, Configuration(hostname="mail.example.org"))
        self.assertEqual(outcome.configuration.database, "emaildb.sqlite3")
        self.assertEqual(outcome.configuration.smtp.message_size, 67108864)
        self.assertEqual(outcome.remarks, ())
        self.assertEqual({given.source for given in outcome.values.values()}, {"default"})

    def test_a_machine_without_a_full_name_is_localhost_and_says_so(self) -> None:
        """A fresh container can try mailsvc; the log tells that the name is of no use to others."""
        for fqdn in ["3f2a1b9c0d4e", "localhost", "", "1.0.0.127.in-addr.arpa", "10.0.0.7", "my_pc.lan"]:
            outcome = in_force(surroundings=called(fqdn))
            self.assertEqual(outcome.configuration.hostname, "localhost")
            self.assertEqual(len(outcome.remarks), 1)
            self.assertIn("--hostname", outcome.remarks[0])

    def test_a_given_name_keeps_the_resolver_out_of_it(self) -> None:
        """Asking for the machine's own name may take seconds; it is not asked when a name is given."""
        asked: list[str] = []

        def fqdn() -> str:
            asked.append("asked")
            return "x"

        nameless = Surroundings(fqdn=fqdn, privileged=False)
        self.assertEqual(in_force(surroundings=nameless, hostname="a.example.org").remarks, ())
        self.assertEqual(in_force('hostname = "a.example.org"', surroundings=nameless).remarks, ())
        self.assertEqual(asked, [])

    def test_a_configuration_cannot_be_changed(self) -> None:
        """What was checked at the start stays as it was."""
        with self.assertRaises(FrozenInstanceError):
            in_force().configuration.hostname = "other.example.org"  # type: ignore[misc]

    def test_every_default_passes_its_own_check(self) -> None:
        """No default could not have been written by hand."""
        for setting in SETTINGS.values():
            for default in (setting.default, setting.root):
                if default is not None:
                    written = str(default) if isinstance(default, Path) else default
                    self.assertEqual(setting.kind.parse(written), default, setting.name)


class Precedence(SynchronousTestCase):
    def test_the_file_overrides_the_default_and_the_option_the_file(self) -> None:
        """defaults <- TOML <- options, each with its source."""
        outcome = in_force('hostname = "a.example.org"\ntls = "optional"', hostname="b.example.org")
        self.assertEqual(outcome.configuration.hostname, "b.example.org")
        self.assertEqual(outcome.configuration.tls, "optional")
        self.assertEqual(outcome.values["hostname"].source, "--hostname")
        self.assertEqual(outcome.values["tls"].source, "mailsvc.toml")

    def test_the_environment_stands_between_file_and_option(self) -> None:
        """MAILSVC_DATABASE overrides the file and is overridden by --database; an empty one is not set."""
        file = text_layer('database = "/a"', "mailsvc.toml", FOLDER)
        environment = environment_layer({"MAILSVC_DATABASE": "/b"})
        self.assertEqual(settle(NAMED, file, environment).configuration.database, "/b")
        self.assertEqual(
            settle(NAMED, file, environment, options_layer({"database": "/c"})).configuration.database, "/c"
        )
        empty = environment_layer({"MAILSVC_DATABASE": ""})
        self.assertEqual(settle(NAMED, file, empty).configuration.database, "/a")

    def test_an_option_that_was_not_given_changes_nothing(self) -> None:
        """None is "not given"."""
        self.assertEqual(in_force('tls = "optional"', tls=None).configuration.tls, "optional")

    def test_relative_paths_of_a_file_start_at_the_file(self) -> None:
        """A service started from any folder finds the same files; URLs and absolute paths stay."""
        configuration = in_force('certs = "certs"\ndatabase = "mail.sqlite3"').configuration
        self.assertEqual(configuration.certs, Path("/etc/mailsvc/certs"))
        self.assertEqual(configuration.database, "/etc/mailsvc/mail.sqlite3")
        configuration = in_force('certs = "/srv/certs"\ndatabase = "postgresql://h/mail"').configuration
        self.assertEqual(configuration.certs, Path("/srv/certs"))
        self.assertEqual(configuration.database, "postgresql://h/mail")

    def test_relative_paths_of_an_option_start_where_the_user_stands(self) -> None:
        """An option's path is used as it was typed."""
        self.assertEqual(in_force(certs="certs/").configuration.certs, Path("certs"))


class Listeners(Refusals):
    def test_an_empty_string_turns_a_listener_off(self) -> None:
        """In the file and as an option; an empty list does the same."""
        self.assertEqual(in_force('[listen]\nsmtp = ""').configuration.listen.smtp, ())
        self.assertEqual(in_force("[listen]\nsmtp = []").configuration.listen.smtp, ())
        self.assertEqual(in_force(listen__smtp=[""]).configuration.listen.smtp, ())

    def test_a_listener_may_have_several_endpoints(self) -> None:
        """A list in the file, the option several times."""
        endpoints = ["tcp:25", r"tcp6:25:interface=\:\:1"]
        self.assertEqual(in_force(listen__smtp=endpoints).configuration.listen.smtp, tuple(endpoints))
        toml = "[listen]\nsmtp = ['tcp:25', 'tcp6:25:interface=\\:\\:1']"
        self.assertEqual(in_force(toml).configuration.listen.smtp, tuple(endpoints))

    def test_off_and_on_at_once_is_a_contradiction(self) -> None:
        """An empty string beside a value is reported, not guessed at."""
        self.assertIn("turns the listener off", self.only(listen__smtp=["", "tcp:25"]))

    def test_two_listeners_on_one_place_are_reported(self) -> None:
        """The report names both; a port of 0 is chosen by the system and may be given any number of times."""
        problem = self.only(listen__smtp=["tcp:2110:interface=127.0.0.1"])
        self.assertIn("listen.smtp", problem)
        self.assertIn("listen.pop3 ", problem)
        in_force(listen__smtp=["tcp:0"], listen__pop3=["tcp:0"])

    def test_a_program_that_embeds_gives_tuples(self) -> None:
        """A string, whose characters would be taken for endpoints, is refused with the cure."""
        mistake = self.assertRaises(TypeError, Listen, smtp="tcp:25")
        self.assertIn("smtp is a tuple of endpoints; write ('tcp:25',)", str(mistake))

    def test_a_port_on_two_interfaces_is_fine(self) -> None:
        """Only the same port on the same interface collides."""
        in_force(listen__smtp=["tcp:25:interface=127.0.0.1"], listen__pop3=["tcp:25:interface=127.0.0.2"])

    def test_nothing_to_listen_on_is_a_mistake(self) -> None:
        """A service that serves nothing does not start."""
        off = '[listen]\nsmtp=""\nsubmission=""\nsubmissions=""\npop3=""\npop3s=""'
        self.assertIn("every listener is turned off", self.only(off))


class Mistakes(Refusals):
    def test_all_of_them_come_at_once(self) -> None:
        """Unknown names, wrong types, ranges, endpoints and options in one report, each with its name."""
        problems = self.problems(
            """
            hostnam = "a.example.org"
            tls = "never"
            message_size = 5
            [listen]
            pop3 = "tpc:110"
            [smtp]
            recipients = "many"
            errors = 0
            """,
            hostname="localdomain",
        )
        text = "\n".join(problems)
        self.assertEqual(len(problems), 7, text)
        for name in ["hostnam", "tls", "message_size", "listen.pop3", "smtp.recipients", "smtp.errors"]:
            self.assertIn(f"mailsvc.toml: {name}: ", text)
        self.assertIn("--hostname: ", text)
        self.assertIn("did you mean hostname?", text)
        self.assertIn("did you mean smtp.message_size?", text)
        self.assertIn('did you mean "tcp:"?', text)

    def test_a_mistyped_section_is_one_mistake(self) -> None:
        """The settings inside it are not reported one by one."""
        self.assertIn("did you mean limits?", self.only("[limit]\nconnections = 5\nfoo = 2"))
        self.assertIn("this is a section", self.only("smtp = 5"))

    def test_an_overridden_mistake_is_still_one(self) -> None:
        """A file is right or wrong whatever options stand beside it."""
        self.assertIn("tls", self.only('tls = "never"', tls="required"))

    def test_a_boolean_is_not_a_number(self) -> None:
        """`true` is an int to Python; to a postmaster it is not."""
        self.assertIn("not a whole number", self.only("[smtp]\nerrors = true"))
        self.assertIn("not a number", self.only("[timeouts]\ncommand = true"))
        self.assertIn("neither true nor false", self.only("[smtp]\nrefuse_long_lines = 1"))

    def test_not_a_number_is_in_no_range(self) -> None:
        """TOML has nan and inf; neither is a time."""
        self.assertIn("out of range", self.only("[timeouts]\ncommand = nan"))
        self.assertIn("out of range", self.only("[timeouts]\ncommand = inf"))

    def test_a_header_larger_than_its_message_is_a_contradiction(self) -> None:
        """Settings are also judged together."""
        self.assertIn("smtp.message_size", self.only("[smtp]\nmessage_size = 65536\nheader_size = 65537"))

    def test_an_empty_path_is_a_mistake(self) -> None:
        """An empty database or folder would mean the current folder, which nobody asked for."""
        self.assertEqual(len(self.problems('database = ""\ncerts = " "')), 2)

    def test_a_value_below_an_rfc_is_allowed_with_a_remark(self) -> None:
        """The postmaster decides, and the log cites what is asked for."""
        outcome = in_force("[pop3]\nidle_seconds = 60")
        self.assertEqual(outcome.configuration.pop3.idle_seconds, 60.0)
        (remark,) = outcome.remarks
        self.assertIn("RFC 1939", remark)
        self.assertIn("pop3.idle_seconds", remark)

    def test_no_value_breaks_the_report(self) -> None:
        """Whatever TOML can hold in whatever place gives sentences, never another exception."""
        values = ["1", "-1.5", '""', '"x\\u0007"', "[]", "[[]]", "[1]", "{a=1}", "true", "1979-05-27", "nan"]
        for name in SETTINGS:
            for value in values:
                try:
                    in_force(f"{name} = {value}")
                except ConfigurationRefused as refused:
                    for problem in refused.problems:
                        self.assertIn(name.partition(".")[0], problem)
                        self.assertTrue(problem.isprintable(), problem)


class Files(SynchronousTestCase):
    def refused(self, path: str) -> str:
        error = self.assertRaises(ConfigurationRefused, load, path, {}, NAMED)
        self.assertEqual(len(error.problems), 1)
        self.assertIn(path, str(error))
        return str(error)

    def test_a_missing_file_is_named(self) -> None:
        """One sentence with the path and the cure."""
        self.assertIn("--config", self.refused(self.mktemp()))

    def test_a_folder_is_no_file(self) -> None:
        """What the system says of it is passed on, as a sentence."""
        path = self.mktemp()
        os.mkdir(path)
        self.assertIn("cannot be read", self.refused(path))

    def test_what_is_not_toml_is_told_with_its_line(self) -> None:
        """The parser's own place is kept."""
        path = self.mktemp()
        Path(path).write_text("hostname = mail.example.org\n")
        self.assertIn("line 1", self.refused(path))

    def test_what_is_not_utf8_is_told_with_its_place(self) -> None:
        """A file in another encoding gets a sentence too."""
        path = self.mktemp()
        Path(path).write_bytes(b"# gr\xfc\xdfe\n")
        self.assertIn("octet 4", self.refused(path))

    def test_what_is_too_much_is_not_read(self) -> None:
        """A file without an end, or lists in lists in lists, cost neither all memory nor a traceback."""
        path = self.mktemp()
        Path(path).write_bytes(b"#" * ((1 << 20) + 1))
        self.assertIn("more than 1048576 octets", self.refused(path))
        Path(path).write_text("a = " + "[" * 100_000)
        self.assertIn("too deep", self.refused(path))

    def test_a_good_file_is_in_force(self) -> None:
        """The file's own folder is where its paths start."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "m.toml").write_text('certs = "c"\n[limits]\nconnections = 7\n')
        configuration = load(folder / "m.toml", {}, NAMED, {"MAILSVC_DATABASE": "/b"}).configuration
        self.assertEqual(configuration.certs, folder / "c")
        self.assertEqual(configuration.limits.connections, 7)
        self.assertEqual(configuration.database, "/b")


class Description(SynchronousTestCase):
    def test_it_is_itself_a_file_with_the_same_effect(self) -> None:
        """What `config describe` prints can be saved and used as it is."""
        toml = 'certs = "c"\ndatabase = "/srv/\\"m\\u007f"\n[listen]\npop3 = ""\n[timeouts]\ncommand = 0.5'
        outcome = in_force(toml, tls="optional")
        text = described(outcome)
        again = settle(NAMED, text_layer(text, "x", Path("/")))
        self.assertEqual(again.configuration, outcome.configuration)

    def test_it_names_every_setting_with_help_and_source(self) -> None:
        """Nothing that exists is left out."""
        text = described(in_force('tls = "optional"'))
        document = tomllib.loads(text)
        for setting in SETTINGS.values():
            self.assertIn(setting.help, text)
            table = document
            for part in filter(None, setting.section.split(".")):
                table = table[part]
            self.assertIn(setting.leaf, table)
        self.assertIn('from mailsvc.toml; the default is "required"', text)


class ListenerSections(SynchronousTestCase):
    """`[client_certificates.NAME]`: sections in a section."""

    def problems(self, toml: str) -> list[str]:
        return list(self.assertRaises(ConfigurationRefused, in_force, toml, NAMED).problems)

    def test_taken(self) -> None:
        """Each listener has its own; paths are taken from where the file lies."""
        settings = in_force('[client_certificates.pop3]\nmode = "require"\nroots = "ca.pem"').configuration
        pop3, smtp = settings.client_certificates.pop3, settings.client_certificates.smtp
        self.assertEqual((pop3.mode, smtp.mode, smtp.roots), ("require", "off", None))
        self.assertEqual(pop3.roots, Path("ca.pem") if pop3.roots is None else pop3.roots.parent / "ca.pem")

    def test_mistakes(self) -> None:
        """No such listener, no such setting, a listener that nobody could reach, a value where a section belongs."""
        for toml, words in (
            ('[client_certificates.imap]\nmode = "ask"', "client_certificates.imap"),
            ('[client_certificates.smtp]\nmodus = "ask"', "did you mean client_certificates.smtp.mode?"),
            ('[client_certificates.smtp]\nmode = "require"', "name them as client_certificates.smtp.roots"),
            ('client_certificates = "ask"', "this is a section"),
            ('client_certificates.smtp = "ask"', "this is a section"),
        ):
            [problem] = self.problems(toml)
            self.assertIn(words, problem)


class Hostnames(SynchronousTestCase):
    def test_full_names_pass(self) -> None:
        """Names that a greeting may say (RFC 5321 section 2.3.5)."""
        for name in [
            "mail.example.org",
            "localhost",
            "a.b",
            "xn--bcher-kva.example",
            "3com.com",
            "MAIL.Example.Org",
        ]:
            self.assertIsNone(hostname_mistake(name), name)

    def test_everything_else_is_told_apart(self) -> None:
        """Each wrong name gets the reason that fits it."""
        for name, reason in {
            "": "empty",
            "mail": "full name",
            "mail.example.org.": "ends in a dot",
            "192.0.2.1": "IP address",
            "[192.0.2.1]": "IP address",
            "::1": "IP address",
            "1.2.3": "ends in a number",
            "bücher.example": "xn--",
            "my_host.example.org": "not a host name",
            "-a.example": "not a host name",
            "a..example": "not a host name",
            "a b.example": "not a host name",
            "a.example\n": "not a host name",
            "x" * 64 + ".example": "not a host name",
            ".".join(["a" * 60] * 5): "253",
            "7.0.0.127.in-addr.arpa": "address written as a name",
        }.items():
            self.assertIn(reason, hostname_mistake(name) or "", repr(name))


class EndpointStrings(SynchronousTestCase):
    def test_good_ones_pass(self) -> None:
        """What Twisted can listen on, plug-ins included."""
        for text in [
            "tcp:25",
            "tcp:0",
            "tcp:port=25:interface=127.0.0.1:backlog=100",
            "tcp:25:127.0.0.1",
            r"tcp:25:interface=\:\:1",
            r"tcp6:25:interface=\:\:",
            "unix:/run/smtp.sock",
            "unix:/run/smtp.sock:mode=660:lockfile=0",
            "unix:address=/run/a\\:b",
            "systemd:domain=INET:index=0",
            "systemd:domain=INET6:name=smtp",
            "haproxy:tcp:2525",
            "haproxy:unix:/run/x",
            "onion:25",
        ]:
            self.assertIsNone(endpoint_mistake(text), text)

    def test_bad_ones_get_the_reason_that_fits(self) -> None:
        """Each with a cure where there is one."""
        for text, reason in {
            "": "no endpoint",
            "2525": 'give for example "tcp:2525"',
            "127.0.0.1:2525": "no endpoint",
            "localhost:2525": "no endpoint",
            "mail.example.org:25": "no endpoint",
            "tpc:25": 'did you mean "tcp:"',
            "TCP:25": 'did you mean "tcp:"',
            "tcp": "no port",
            "tcp:": "no port",
            "tcp:smtp": "whole number",
            "tcp:65536": "whole number",
            "tcp:-1": "whole number",
            "tcp:٢٥": "whole number",
            "tcp:25:interface=::1": "IPv6",
            "tcp:25:interface=[::1]": "IPv6",
            "tcp:25:interfaces=127.0.0.1": "does not know",
            "tcp:25:port=26": "too many",
            "tcp:25:backlog=x": "backlog",
            "tcp:25:interface=a:interface=b": "twice",
            "tcp:25\\": "backslash",
            "tcp6:25:interface=127.0.0.1": "IPv4",
            "ssl:465": "TLS itself",
            "stdio:": "terminal",
            "unix:": "no path",
            "unix:/x:mode=999": "octal",
            "unix:/x:lockfile=yes": "lockfile",
            "systemd:index=0": "INET",
            "systemd:domain=INET": "index=",
            "systemd:domain=INET:index=0:name=x": "index=",
            "systemd:domain=INET:index=x": "index",
            "haproxy": "what is proxied",
            "haproxy:haproxy:tcp:1": "twice",
            "haproxy:tcp": "no port",
        }.items():
            self.assertIn(reason, endpoint_mistake(text) or "", text)

    @settings(deadline=None, max_examples=300)
    @given(st.text(st.sampled_from("tcp:=\\25x\n"), max_size=24))
    @example("\n=:\n=")
    def test_no_text_breaks_the_reader(self, text: str) -> None:
        """Any text is an endpoint or gets one printable sentence."""
        mistake = endpoint_mistake(text)
        self.assertTrue(mistake is None or mistake.isprintable())

    @settings(deadline=None)
    @given(st.text(st.characters(codec="utf-8"), max_size=20))
    def test_a_quoted_value_is_read_back_whole(self, value: str) -> None:
        """A backslash before each special character makes any value an argument."""
        quoted = "".join("\\" + c if c in ":=\\" else c for c in value)
        self.assertEqual(endpoint_parts(f"unix:address={quoted}"), (["unix"], {"address": value}))


class Samples(SynchronousTestCase):
    def test_the_configuration_beside_the_unit_is_right(self) -> None:
        """systemd/mailsvc.toml can be installed as it is, once its hostname is set."""
        sample = Path(__file__).resolve().parent.parent / "systemd" / "mailsvc.toml"
        outcome = load(sample, {}, NAMED)
        self.assertEqual(outcome.configuration.listen.smtp, ("tcp:25",))
        self.assertEqual(outcome.remarks, ())


class PrivateEndpointTests(SynchronousTestCase):
    """Where TLS may be left out, because nobody can listen in."""

    def test_private(self) -> None:
        """A UNIX socket and loopback are private; every other endpoint is not, nor one that is not known."""
        for text in (
            "unix:/run/lmtp.sock:mode=660",
            "tcp:24:interface=127.0.0.1",
            "tcp:24:127.0.0.1",
            r"tcp6:24:interface=\:\:1",
            "tcp:24:interface=localhost",
            "haproxy:tcp:24:interface=127.0.0.2",
        ):
            self.assertTrue(is_private(text), text)
        for text in ("tcp:24", "tcp:24:interface=192.0.2.1", "tcp6:24", "systemd:domain=UNIX:index=0", "onion:25"):
            self.assertFalse(is_private(text), text)

    def test_port(self) -> None:
        """The port of TCP, behind a proxy too."""
        for text, port in {"tcp:25": 25, "tcp:port=24": 24, "haproxy:tcp:25": 25, "unix:/x": None}.items():
            self.assertEqual(port_of(text), port)

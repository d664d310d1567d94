"""`mailsvc alias`, `mailsvc route`, `mailsvc domain set|show` and `mailsvc user set`: who gets mail."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import Result

from mailsvc.errors import AlreadyExists, MailsvcError, NotFound
from mailsvc.mail.address import AddressError, parse_address
from mailsvc.storage.aliases import resolution
from mailsvc.storage.database import offline
from tests.test_cli_user import ALICE, UserCase

BOB = "bob@example.org"
TEAM = "team@example.org"


class DirectoryCase(UserCase):
    """alice and bob are there."""

    def setUp(self) -> None:
        super().setUp()
        self.options: list[str] = []
        self.have(ALICE, BOB)

    def run_command(self, *arguments: str, input: str | bytes | None = None) -> Result:
        """As in `UserCase`, with the options of `use_configuration`."""
        return super().run_command(*self.options, *arguments, input=input)

    def reached(self, address: str, *, programs: bool = False) -> list[str]:
        """The accounts that get mail for `address`."""
        with offline(self.path, create=False) as txn:
            found = resolution(txn, parse_address(address), programs=programs)
        return [str(account.address) for account in found.accounts] if found.refusal is None else []

    def warned(self, *arguments: str) -> str:
        """What the command, which succeeds, prints to standard error."""
        result = self.run_command(*arguments)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.stderr

    def use_configuration(self, text: str) -> None:
        """Give the command a configuration file."""
        file = Path(self.mktemp()).absolute()
        file.write_text(text, "utf-8")
        self.options = ["--config", str(file)]


class AliasTests(DirectoryCase):
    def test_add(self) -> None:
        """An alias leads to its targets at once; without trouble nothing is said besides."""
        result = self.run_command("alias", "add", TEAM, ALICE, BOB)
        self.assertEqual(result.stdout, f"Mail for {TEAM} now goes to {ALICE}, {BOB}.\n")
        self.assertEqual(result.stderr, "")
        self.assertEqual(self.reached(TEAM), [ALICE, BOB])

    def test_json(self) -> None:
        """Programs get the same as objects."""
        output = json.loads(self.succeed("alias", "add", TEAM, ALICE, "x@example.net", "--json"))
        self.assertEqual(output["added"][0], {"kind": "address", "target": ALICE})
        self.assertEqual(output["warnings"], [])
        self.succeed("alias", "add", TEAM, "--pipe", "/bin/cat -u")
        rows = json.loads(self.succeed("alias", "list", "--json"))
        self.assertEqual(
            [row.get("target", row.get("command")) for row in rows], [ALICE, "x@example.net", ["/bin/cat", "-u"]]
        )

    def test_refused(self) -> None:
        """A domain that is not ours, a target twice, what is no address, and no target at all."""
        self.assertIn("mailsvc domain add", self.refused(NotFound, ["alias", "add", "x@example.net", ALICE]))
        self.succeed("alias", "add", TEAM, ALICE)
        self.refused(AlreadyExists, ["alias", "add", TEAM.upper(), ALICE])
        self.refused(AddressError, ["alias", "add", TEAM, "alice"])
        self.assertEqual(self.run_command("alias", "add", TEAM).exit_code, 2)

    def test_loop(self) -> None:
        """A loop is named and refused, and nothing is changed.

        Rule: Aliases: loops found at definition
        """
        self.succeed("alias", "add", TEAM, "x@example.org")
        sentence = self.refused(MailsvcError, ["alias", "add", "x@example.org", ALICE, TEAM])
        self.assertIn("x@example.org -> team@example.org -> x@example.org", sentence)
        self.assertIn("itself only", self.refused(MailsvcError, ["alias", "add", "y@example.org", "y@example.org"]))
        self.assertNotIn("x@example.org ", self.succeed("alias", "list").replace(f"{TEAM}  x@example.org", ""))

    def test_warnings(self) -> None:
        """What will not work yet is taken with a warning."""
        self.assertEqual(self.warned("alias", "add", TEAM, "x@example.net"), "")
        self.assertIn("gets no mail now (550 5.1.1", self.warned("alias", "add", TEAM, "carol@example.org"))
        self.assertIn("gets no mail any more", self.warned("alias", "add", ALICE, BOB))
        self.assertEqual(self.warned("alias", "add", ALICE, ALICE), "")
        self.assertEqual(self.reached(ALICE), [ALICE, BOB])

    def test_pipe(self) -> None:
        """A command is words without a shell; its path is whole; while programs are off a warning says so.

        Rule: Pipe: never a shell
        """
        self.refused(MailsvcError, ["alias", "add", TEAM, "--pipe", "cat"])
        self.refused(MailsvcError, ["alias", "add", TEAM, "--pipe", "/bin/cat 'x"])
        self.refused(MailsvcError, ["alias", "add", TEAM, "--pipe", " "])
        told = self.warned("alias", "add", TEAM, "--pipe", "/nowhere/prog 'a b' $HOME")
        self.assertIn("/nowhere/prog is not there", told)
        self.assertIn("pipes = true", told)
        self.assertIn("the program /nowhere/prog 'a b' $HOME", self.succeed("alias", "list"))
        self.use_configuration("[delivery]\npipes = true\n")
        self.assertEqual(self.warned("alias", "add", TEAM, "--pipe", "/bin/cat"), "")

    def test_remove(self) -> None:
        """One target, or all of it; what is not there is an error."""
        self.succeed("alias", "add", TEAM, ALICE, BOB, "--pipe", "/bin/cat -u")
        self.assertIn("no more", self.succeed("alias", "remove", TEAM, BOB, "--pipe", "/bin/cat -u"))
        self.assertEqual(self.reached(TEAM), [ALICE])
        self.refused(NotFound, ["alias", "remove", TEAM, BOB])
        self.assertEqual(self.succeed("alias", "remove", TEAM), f"The alias {TEAM} was removed.\n")
        self.refused(NotFound, ["alias", "remove", TEAM])
        self.assertIn("mailsvc alias add", self.succeed("alias", "list"))

    def test_list_of_a_domain(self) -> None:
        """The list can be of one domain; an unknown one is an error."""
        self.succeed("domain", "add", "example.net")
        self.succeed("alias", "add", TEAM, ALICE)
        self.assertEqual(json.loads(self.succeed("alias", "list", "example.net", "--json")), [])
        lines = self.succeed("alias", "list", "example.org").splitlines()
        self.assertEqual([line.split() for line in lines], [["alias", "leads", "to"], [TEAM, ALICE]])
        self.refused(NotFound, ["alias", "list", "example.com"])


class RouteTests(DirectoryCase):
    def test_steps(self) -> None:
        """Each step is a line, further in for each alias; the end says who gets it.

        Rule: mailsvc route explain
        """
        self.succeed("alias", "add", TEAM, ALICE, "gone@example.org")
        self.assertEqual(
            self.succeed("route", "explain", "Team+x@example.org").splitlines(),
            [
                "Team+x@example.org is Team, with a detail behind +",
                "Team+x@example.org is an alias that leads to alice@example.org, gone@example.org",
                "  alice@example.org is the account alice@example.org",
                "  gone@example.org nobody has this name",
                "Mail for Team+x@example.org goes to:",
                "  alice@example.org (0 octets used, no quota)",
            ],
        )

    def test_refused(self) -> None:
        """A refusal is told with its code; to explain it is still a success."""
        output = self.succeed("route", "explain", "carol@example.org")
        self.assertIn("is refused: 550 5.1.1", output)

    def test_json(self) -> None:
        """Programs get steps, accounts, programs, remotes and the refusal."""
        self.succeed("alias", "add", TEAM, ALICE, "x@example.net", "--pipe", "/bin/cat")
        facts = json.loads(self.succeed("route", "explain", TEAM, "--json"))
        self.assertEqual(facts["accounts"], [{"address": ALICE, "used": 0, "quota": None}])
        self.assertEqual((facts["programs"], facts["remotes"]), ([["/bin/cat"]], ["x@example.net"]))
        self.assertEqual(facts["refusal"], "550 5.7.1 delivery to programs is not configured")
        self.assertEqual([way["recipient"] for way in facts["out"]], ["x@example.net"])
        self.assertEqual([step["depth"] for step in facts["steps"]], [0, 1, 1])

    def test_size(self) -> None:
        """With a size the quota is part of the answer."""
        self.succeed("user", "set", ALICE, "--quota", "1M")
        self.assertIn("0 octets of 1 MiB used", self.succeed("route", "explain", ALICE, "--size", "1M"))
        self.assertIn("452 4.2.2", self.succeed("route", "explain", ALICE, "--size", "1.1M"))
        self.refused(MailsvcError, ["route", "explain", ALICE, "--size", "big"])

    def test_of_the_configuration(self) -> None:
        """The host's own postmaster and the switch for programs are those of the configuration."""
        self.succeed("alias", "add", TEAM, "--pipe", "/bin/cat")
        self.assertIn("550 5.7.1", self.succeed("route", "explain", TEAM))
        self.use_configuration('hostname = "mail.example.net"\n[delivery]\npipes = true\n')
        self.assertIn("the program /bin/cat", self.succeed("route", "explain", TEAM).splitlines()[-1])
        self.assertIn(ALICE, self.succeed("route", "explain", "postmaster@mail.example.net").splitlines()[-1])


class RulesTests(DirectoryCase):
    def test_show(self) -> None:
        """What is in force, for people and for programs."""
        self.assertIn("separator:     +\n", self.succeed("domain", "show", "example.org"))
        facts = json.loads(self.succeed("domain", "show", "Example.org", "--json"))
        self.assertEqual((facts["separator"], facts["dots"], facts["case"]), ("+", "count", "ignore"))
        self.assertEqual((facts["catch_all"], facts["postmaster"], facts["default_quota"]), (None, None, None))
        self.refused(NotFound, ["domain", "show", "example.net"])

    def test_set(self) -> None:
        """Each rule holds at once, stays until it is changed, and can be taken back.

        Rule: Defaults per domain
        """
        self.succeed("domain", "set", "example.org", "--separator", "-", "--dots", "ignore")
        self.succeed("domain", "set", "example.org", "--catch-all", BOB, "--postmaster", BOB, "--default-quota", "2G")
        for address, accounts in {
            "a.lice-x@example.org": [ALICE],
            "whoever@example.org": [BOB],
            "abuse@example.org": [BOB],
        }.items():
            self.assertEqual(self.reached(address), accounts, address)
        shown = self.succeed("domain", "show", "example.org")
        self.assertIn("default quota: 2 GiB", shown)
        for option in ("--catch-all", "--postmaster", "--default-quota", "--separator"):
            self.succeed("domain", "set", "example.org", option, "none", "--case", "exact")
        self.assertEqual(self.reached("whoever@example.org"), [])
        self.assertEqual(self.reached("Alice@example.org"), [])
        self.assertEqual(self.reached("postmaster@example.org"), [ALICE])

    def test_mistakes(self) -> None:
        """What cannot hold is refused; what will not work yet is a warning."""
        for arguments in (
            ["--separator", "++"],
            ["--separator", "a"],
            ["--separator", ".", "--dots", "ignore"],
            ["--catch-all", "bob"],
            ["--default-quota", "0"],
            ["--default-quota", "much"],
        ):
            self.refused(MailsvcError, ["domain", "set", "example.org", *arguments])
        self.refused(NotFound, ["domain", "set", "example.net", "--dots", "ignore"])
        self.assertEqual(self.run_command("domain", "set", "example.org").exit_code, 2)
        self.assertIn("gets no mail now", self.warned("domain", "set", "example.org", "--catch-all", "x@example.org"))


class UserSetTests(DirectoryCase):
    def test_disabled(self) -> None:
        """A disabled account gets no mail until it is enabled again."""
        self.assertIn("is disabled", self.succeed("user", "set", ALICE, "--disabled", "on"))
        self.assertIn("550 5.2.1", self.succeed("route", "explain", ALICE))
        self.assertIn("is enabled", self.succeed("user", "set", ALICE, "--disabled", "off"))
        self.assertEqual(self.reached(ALICE), [ALICE])

    def test_quota(self) -> None:
        """A quota of its own, none at all, or the domain's."""
        self.succeed("domain", "set", "example.org", "--default-quota", "1M")
        for text, octets in {"500K": 512000, "none": None, "default": 1048576}.items():
            facts = json.loads(self.succeed("user", "set", ALICE, "--quota", text, "--json"))
            same = {"address": ALICE, "disabled": False, "used": 0, "check_sender": True, "deletes": "account"}
            same["expire_days"] = None
            self.assertEqual(facts, {**same, "quota": octets})

    def test_mistakes(self) -> None:
        """An unknown account, no quota, nothing to set."""
        self.refused(NotFound, ["user", "set", "carol@example.org", "--quota", "1G"])
        self.refused(MailsvcError, ["user", "set", ALICE, "--quota", "-5"])
        self.assertEqual(self.run_command("user", "set", ALICE).exit_code, 2)
        self.assertEqual(self.run_command("user", "set", ALICE, "--disabled", "maybe").exit_code, 2)

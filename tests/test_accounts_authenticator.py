"""One engine for every mechanism: who gets in, who does not, and that nobody can tell why."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from zope.interface import implementer

from mailsvc.accounts.app_passwords import RANDOM, app_password, digest, matching
from mailsvc.accounts.authenticator import ActingRefused, Authenticator, Exchange
from mailsvc.accounts.login import Login, PasswordChecker, WrongLogin
from mailsvc.accounts.proofs import USE_NOTED_EVERY, ProofChecker
from mailsvc.accounts.realm import PASSWORD, Account, AccountId, app_credential, portal
from mailsvc.errors import StorageFailure, TemporaryFailure
from mailsvc.mail.address import Address, parse_address
from mailsvc.sasl.exchange import BindingRefused, Challenge, Channel, MalformedResponse, UnknownMechanism
from mailsvc.sasl.scram import Salting, make_verifier, parse_verifier, salt_of
from mailsvc.storage.accounts import set_password
from mailsvc.storage.credentials import (
    add_app_password,
    add_verifier,
    app_passwords,
    login_facts,
    revoke_app_password,
    salt_key,
)
from tests.scram_client import ScramClient
from tests.test_accounts_login import CHEAP, HERE, OTHER_COST, THERE, CheckerCase, disable, tick

CHANNEL = Channel("smtp", HERE, True)
BOUND = Channel("smtp", HERE, True, binding=b"b" * 32)
ALICE = "alice@example.org"
CHEAPEST = 4096


async def names_alice(account: Account, address: Address) -> bool:
    """Whoever asks is alice and team."""
    return address.key == "team@example.org"


class EngineCase(CheckerCase):
    """An authenticator on the checker of `CheckerCase`; alice has a verifier of her password "right"."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.engine = self.authenticator()
        await self.put_verifier(ALICE, "right")

    def authenticator(self, **settings: Any) -> Authenticator:
        checker = self.checker(verifiers=CHEAPEST)
        self.passwords: PasswordChecker = checker
        proofs = ProofChecker(self.counted, checker.guard, self.clock, iterations=CHEAPEST)
        return Authenticator(portal(checker), proofs=proofs, acts_as=names_alice, **settings)

    async def salting(self, name: str) -> Salting:
        return Salting(salt_of(await self.database.write(salt_key, b"k" * 32), name), CHEAPEST)

    async def put_verifier(self, address: str, password: str) -> None:
        facts = await self.database.read(login_facts, address)
        assert facts is not None and facts.account.password_hash is not None
        text = make_verifier(password, await self.salting(address)).to_text()
        await self.database.write(add_verifier, address, facts.account.password_hash, text, 2.0)

    async def put_app_password(self, label: str = "phone", only: str = "", octets: bytes = b"0" * RANDOM) -> str:
        password = app_password(octets)
        verifier = make_verifier(password, await self.salting(ALICE)).to_text()
        await self.database.write(add_app_password, ALICE, label, only, digest(password.encode()), verifier, 2.0)
        return password

    async def scram(
        self, client: ScramClient, *, channel: Channel = CHANNEL, mechanism: str = "SCRAM-SHA-256"
    ) -> Account:
        """The account that a whole exchange leads to; the server's proof is checked too."""
        exchange = self.engine.begin(mechanism, channel)
        server_first = await exchange.step(client.first)
        assert isinstance(server_first, Challenge)
        server_final = await exchange.step(client.final(server_first.data))
        assert isinstance(server_final, Challenge)
        self.assertTrue(client.believes(server_final.data))
        account = await exchange.step(b"")
        assert isinstance(account, Account)
        return account

    async def plain(self, message: bytes, channel: Channel = CHANNEL) -> Account:
        account = await self.engine.begin("PLAIN", channel).step(message)
        assert isinstance(account, Account)
        return account

    async def fails(self, work: Any, *kinds: type[Exception]) -> Exception:
        """The error of a login that is refused, after whatever wait."""
        deferred = Deferred.fromCoroutine(work)
        errors: list[Any] = []
        deferred.addCallback(lambda result: self.fail(f"it was not refused: {result}"))
        deferred.addErrback(errors.append)
        while not errors:
            await tick()
            if due := [call.getTime() for call in self.clock.getDelayedCalls()]:
                self.clock.advance(min(due) - self.clock.seconds())
        self.assertIsInstance(errors[0].value, kinds)
        error: Exception = errors[0].value
        return error


class PasswordTests(EngineCase):
    """PLAIN and LOGIN go through the portal."""

    async def test_plain_and_login(self) -> None:
        """Both let the owner in, with and without an initial response, in whatever case the mechanism is written."""
        self.assertEqual((await self.plain(b"\0alice@example.org\0right")).id, self.alice)
        exchange = self.engine.begin("plain", CHANNEL)
        self.assertEqual(await exchange.step(None), Challenge(b""))
        self.assertIsInstance(await exchange.step(b"\0alice@example.org\0right"), Account)
        exchange = self.engine.begin("LOGIN", CHANNEL)
        self.assertEqual(await exchange.step(None), Challenge(b"Username:"))
        self.assertEqual(await exchange.step(b"alice@example.org"), Challenge(b"Password:"))
        self.assertIsInstance(await exchange.step(b"right"), Account)

    async def test_wrong(self) -> None:
        """A wrong password is refused, and the exchange knows who it was for."""
        exchange = self.engine.begin("PLAIN", CHANNEL)
        await self.fails(exchange.step(b"\0alice@example.org\0wrong"), WrongLogin)
        self.assertEqual(exchange.name, b"alice@example.org")

    async def test_authzid(self) -> None:
        """Itself, in any spelling, and another of its names; anybody else is refused after the password was right.

        Rule: AUTH: authzid respected or refused
        """
        for authzid in (b"alice@example.org", b"ALICE@example.org", b"team@example.org"):
            self.assertEqual((await self.plain(authzid + b"\0alice@example.org\0right")).id, self.alice)
        for authzid in (b"bob@example.org", b"root", b"\xff"):
            await self.fails(self.plain(authzid + b"\0alice@example.org\0right"), ActingRefused)
        await self.fails(self.plain(b"bob@example.org\0alice@example.org\0wrong"), WrongLogin)

    async def test_not_offered(self) -> None:
        """Nothing begins outside TLS, and no mechanism that is not offered.

        Rule: AUTH: nothing outside TLS, so that 538 and 534 do not occur
        """
        for mechanism, channel in (
            ("PLAIN", Channel("smtp", HERE, False)),
            ("SCRAM-SHA-256", Channel("smtp", HERE, False, b"b")),
            ("SCRAM-SHA-256-PLUS", CHANNEL),
            ("EXTERNAL", BOUND),
            ("CRAM-MD5", BOUND),
            ("", BOUND),
        ):
            with self.assertRaises(UnknownMechanism):
                self.engine.begin(mechanism, channel)

    async def test_over(self) -> None:
        """An exchange that is over stays over."""
        exchange = self.engine.begin("PLAIN", CHANNEL)
        with self.assertRaises(MalformedResponse):
            await exchange.step(b"nonsense")
        with self.assertRaises(MalformedResponse):
            await exchange.step(b"\0alice@example.org\0right")

    async def test_cancel(self) -> None:
        """Giving up frees the place in the line."""
        self.hasher.gate.clear()
        exchanges = [self.engine.begin("PLAIN", CHANNEL) for _ in range(4)]
        answers = [Deferred.fromCoroutine(each.step(b"\0alice@example.org\0right")) for each in exchanges]
        exchanges[3].cancel()
        self.failureResultOf(answers[3], CancelledError)
        self.hasher.gate.set()
        await gatherResults(answers[:3])
        exchanges[0].cancel()


class ScramTests(EngineCase):
    """SCRAM against the tables."""

    async def test_right(self) -> None:
        """The owner gets in, however he spells his name, and no argon2id is spent.

        Rule: SCRAM-SHA-256
        """
        for name in (ALICE, "Alice@EXAMPLE.org"):
            self.assertEqual((await self.scram(ScramClient(name, "right"))).id, self.alice)
        self.assertEqual(self.hasher.verified, [])

    async def test_plus(self) -> None:
        """PLUS lets in who sees our channel; a proof for another channel is a wrong login; 'y' is refused.

        Rule: SCRAM-SHA-256-PLUS with tls-exporter
        """
        right = ScramClient(ALICE, "right", flag=b"p=tls-exporter", binding=b"b" * 32)
        account = await self.scram(right, channel=BOUND, mechanism="SCRAM-SHA-256-PLUS")
        self.assertEqual(account.id, self.alice)
        relayed = ScramClient(ALICE, "right", flag=b"p=tls-exporter", binding=b"c" * 32)
        await self.fails(self.scram(relayed, channel=BOUND, mechanism="SCRAM-SHA-256-PLUS"), WrongLogin)
        await self.fails(self.scram(ScramClient(ALICE, "right", flag=b"y"), channel=BOUND), BindingRefused)

    async def test_wrong(self) -> None:
        """A wrong password, an unknown name, a disabled account and one without a verifier are one refusal."""
        await self.add("bob@example.org", "right")
        await self.add("carol@example.org", "right")
        await self.put_verifier("carol@example.org", "right")
        await self.database.write(disable, "carol@example.org")
        texts = set()
        for name, password in (
            (ALICE, "wrong"),
            ("nobody@example.org", "right"),
            ("bob@example.org", "right"),
            ("carol@example.org", "right"),
            ("no address", "right"),
        ):
            texts.add(str(await self.fails(self.scram(ScramClient(name, password)), WrongLogin)))
        self.assertEqual(texts, {"the name or the password is wrong"})

    async def server_first(self, name: str) -> bytes:
        """Salt and iterations that a name gets."""
        challenge = await self.engine.begin("SCRAM-SHA-256", CHANNEL).step(ScramClient(name, "").first)
        assert isinstance(challenge, Challenge)
        return challenge.data.split(b",", 1)[1]

    async def test_salts_tell_nothing(self) -> None:
        """Every name has a salt of its own, which stays: over restarts, when it gets an account, a verifier, another
        password, and when it loses them."""
        names = ("new@example.org", "unknown@example.org", "no address", ALICE)
        before = [await self.server_first(name) for name in names]
        self.assertEqual(len(set(before)), 4)
        self.assertEqual(len({first.split(b"i=")[1] for first in before}), 1)
        await self.add("new@example.org", "right")
        self.engine = self.authenticator()
        self.assertEqual([await self.server_first(name) for name in names], before)
        await self.put_verifier("new@example.org", "right")
        await self.database.write(set_password, ALICE, CHEAP.hash(b"new"), 5.0)
        self.assertEqual([await self.server_first(name) for name in names], before)
        self.assertEqual(await self.server_first("NEW@example.org"), before[0])

    async def test_the_same_work(self) -> None:
        """Known or not, right or wrong: two reads, no write, no hashing."""
        await self.server_first(ALICE)
        for name, password in ((ALICE, "wrong"), ("nobody@example.org", "x")):
            before = self.counted.reads
            await self.fails(self.scram(ScramClient(name, password)), WrongLogin)
            self.assertEqual(self.counted.reads - before, 2)
        self.assertEqual(self.hasher.verified, [])

    async def test_guesses_are_counted_together(self) -> None:
        """Wrong answers by SCRAM and by PLAIN make each other slower: 1, 2, 4 seconds.

        Rule: Failed logins cost time per address and per account
        """
        await self.fails(self.scram(ScramClient(ALICE, "wrong")), WrongLogin)
        await self.fails(self.plain(b"\0alice@example.org\0wrong"), WrongLogin)
        await self.fails(self.scram(ScramClient(ALICE, "wrong")), WrongLogin)
        self.assertEqual([round(wait) for wait in self.clock.waits], [1, 2, 4])

    async def test_owner_elsewhere(self) -> None:
        """While somebody guesses, the owner is let in from elsewhere at once."""
        for _ in range(3):
            await self.fails(self.scram(ScramClient(ALICE, "wrong")), WrongLogin)
        waits = len(self.clock.waits)
        await self.scram(ScramClient(ALICE, "right"), channel=Channel("smtp", THERE, True))
        self.assertEqual(len(self.clock.waits), waits)

    async def test_changed_meanwhile(self) -> None:
        """A password that is changed while the exchange is open is refused."""
        client = ScramClient(ALICE, "right")
        exchange = self.engine.begin("SCRAM-SHA-256", CHANNEL)
        server_first = await exchange.step(client.first)
        assert isinstance(server_first, Challenge)
        await self.database.write(set_password, ALICE, CHEAP.hash(b"new"), 5.0)
        await self.fails(exchange.step(client.final(server_first.data)), WrongLogin)

    async def test_not_in_before_the_end(self) -> None:
        """A client that does not answer our proof as it must has not logged in."""
        client = ScramClient(ALICE, "right")
        exchange = self.engine.begin("SCRAM-SHA-256", CHANNEL)
        server_first = await exchange.step(client.first)
        assert isinstance(server_first, Challenge)
        self.assertIsInstance(await exchange.step(client.final(server_first.data)), Challenge)
        with self.assertRaises(MalformedResponse):
            await exchange.step(b"something")

    async def test_authzid(self) -> None:
        """The authzid is one of its names, or refused before the server proves itself."""
        self.assertEqual((await self.scram(ScramClient(ALICE, "right", authzid="team@example.org"))).id, self.alice)
        await self.fails(self.scram(ScramClient(ALICE, "right", authzid="bob@example.org")), ActingRefused)

    async def test_trouble(self) -> None:
        """A database that fails is a temporary failure, at the first step and at the second."""
        client = ScramClient(ALICE, "right")
        exchange = self.engine.begin("SCRAM-SHA-256", CHANNEL)
        server_first = await exchange.step(client.first)
        assert isinstance(server_first, Challenge)
        await self.database.close()
        await self.fails(exchange.step(client.final(server_first.data)), StorageFailure)
        await self.fails(self.engine.begin("SCRAM-SHA-256", CHANNEL).step(client.first), StorageFailure)

    async def test_stopped(self) -> None:
        """While the service stops nobody is let in."""
        client = ScramClient(ALICE, "right")
        exchange = self.engine.begin("SCRAM-SHA-256", CHANNEL)
        server_first = await exchange.step(client.first)
        assert isinstance(server_first, Challenge)
        await self.passwords.stop()
        await self.fails(exchange.step(client.final(server_first.data)), TemporaryFailure)


class VerifierTests(EngineCase):
    """A right password leaves its verifier behind."""

    async def verifier_of(self, address: str) -> str | None:
        while self.passwords.guard._under_way:
            await tick()
        facts = await self.database.read(login_facts, address)
        assert facts is not None
        return facts.verifier

    async def test_after_a_login_by_plain(self) -> None:
        """An account from before there were verifiers can use SCRAM after its next login by PLAIN."""
        bob = await self.add("bob@example.org", "right")
        await self.plain(b"\0BOB@example.org\0right")
        self.assertIsNotNone(await self.verifier_of("bob@example.org"))
        self.assertEqual((await self.scram(ScramClient("bob@example.org", "right"))).id, bob)

    async def test_with_the_renewed_hash(self) -> None:
        """So does one whose hash is renewed at that login."""
        bob = await self.add("bob@example.org", "right", OTHER_COST)
        await self.plain(b"\0bob@example.org\0right")
        self.assertIsNotNone(await self.verifier_of("bob@example.org"))
        self.assertEqual((await self.scram(ScramClient("bob@example.org", "right"))).id, bob)

    async def test_other_iterations(self) -> None:
        """A verifier with other iterations is made anew; until then its own are announced, and work."""
        self.engine.proofs = ProofChecker(self.counted, self.passwords.guard, self.clock, iterations=CHEAPEST + 1)
        self.assertEqual((await self.scram(ScramClient(ALICE, "right"))).id, self.alice)
        self.passwords._iterations = CHEAPEST + 1
        await self.plain(b"\0alice@example.org\0right")
        verifier = parse_verifier(await self.verifier_of(ALICE) or "")
        assert verifier is not None
        self.assertEqual(verifier.salting.iterations, CHEAPEST + 1)

    async def test_none_wanted_or_possible(self) -> None:
        """None is made when there shall be none, after a wrong password, or for octets that are no text."""
        await self.add("bob@example.org", "right")
        await self.fails(self.plain(b"\0bob@example.org\0wrong"), WrongLogin)
        self.assertIsNone(await self.verifier_of("bob@example.org"))
        self.passwords._iterations = 0
        await self.plain(b"\0bob@example.org\0right")
        self.assertIsNone(await self.verifier_of("bob@example.org"))
        self.passwords._iterations = CHEAPEST
        await self.database.write(set_password, "bob@example.org", CHEAP.hash(b"\xff"), 5.0)
        await self.plain(b"\0bob@example.org\0\xff")
        self.assertIsNone(await self.verifier_of("bob@example.org"))


class AppPasswordTests(EngineCase):
    """App passwords open the account by every mechanism, and each says who it was."""

    async def test_plain_and_scram(self) -> None:
        """Both mechanisms take it, beside the account's own password; no argon2id is spent on it."""
        password = await self.put_app_password()
        other = await self.put_app_password("laptop", octets=b"1" * RANDOM)
        [first, second] = await self.database.read(app_passwords, ALICE)
        for text, credential in ((password, app_credential(first.id)), (other, app_credential(second.id))):
            self.assertEqual((await self.plain(b"\0alice@example.org\0" + text.encode())).credential, credential)
            self.assertEqual((await self.scram(ScramClient(ALICE, text))).credential, credential)
        self.assertEqual(self.hasher.verified, [])
        self.assertEqual((await self.plain(b"\0alice@example.org\0right")).credential, PASSWORD)
        self.assertEqual((await self.scram(ScramClient(ALICE, "right"))).credential, PASSWORD)

    async def test_revoked(self) -> None:
        """What was revoked opens nothing, at once."""
        password = await self.put_app_password()
        await self.plain(b"\0alice@example.org\0" + password.encode())
        await self.database.write(revoke_app_password, ALICE, "phone")
        await self.fails(self.plain(b"\0alice@example.org\0" + password.encode()), WrongLogin)
        await self.fails(self.scram(ScramClient(ALICE, password)), WrongLogin)

    async def test_one_protocol(self) -> None:
        """One that is for POP3 is a wrong password for SMTP, and the other way round.

        Rule: App passwords: label, last use, one protocol
        """
        password = await self.put_app_password(only="pop3")
        await self.fails(self.plain(b"\0alice@example.org\0" + password.encode()), WrongLogin)
        await self.fails(self.scram(ScramClient(ALICE, password)), WrongLogin)
        pop3 = Channel("pop3", THERE, True)
        await self.plain(b"\0alice@example.org\0" + password.encode(), pop3)
        await self.scram(ScramClient(ALICE, password), channel=pop3)

    async def test_disabled(self) -> None:
        """It does not open an account that is disabled."""
        password = await self.put_app_password()
        await self.database.write(disable, ALICE)
        await self.fails(self.plain(b"\0alice@example.org\0" + password.encode()), WrongLogin)
        await self.fails(self.scram(ScramClient(ALICE, password)), WrongLogin)

    async def test_somebody_elses(self) -> None:
        """It opens its own account only."""
        await self.add("bob@example.org", "right")
        password = await self.put_app_password()
        await self.fails(self.plain(b"\0bob@example.org\0" + password.encode()), WrongLogin)

    async def test_last_use(self) -> None:
        """Its last use is noted, at most once a minute.

        Rule: App passwords: label, last use, one protocol
        """
        password = await self.put_app_password()
        for passed, noted in ((0.0, 0.0), (USE_NOTED_EVERY - 1, 0.0), (1.0, USE_NOTED_EVERY)):
            self.clock.advance(passed)
            for login in (
                self.plain(b"\0alice@example.org\0" + password.encode()),
                self.scram(ScramClient(ALICE, password)),
            ):
                await login
                while self.passwords.guard._under_way:
                    await tick()
            [row] = await self.database.read(app_passwords, ALICE)
            self.assertEqual(row.last_used, noted)

    async def test_form(self) -> None:
        """24 characters that can be typed, never stored as they are, different for different octets."""
        self.assertRegex(app_password(b"\x01" * RANDOM), r"\A[a-z2-7]{6}(-[a-z2-7]{6}){3}\Z")
        self.assertNotEqual(app_password(b"\x01" * RANDOM), app_password(b"\x02" * RANDOM))
        self.assertEqual(digest(b"x"), hashlib.sha256(b"mailsvc app password\0x").hexdigest())
        self.assertIsNone(matching(b"x", [], "smtp"))


@implementer(ICredentialsChecker)
class _Nobody:
    """A checker that lets nobody in."""

    credentialInterfaces = PasswordChecker.credentialInterfaces

    def requestAvatarId(self, credentials: Login) -> Deferred[Any]:
        raise WrongLogin


class _Owners:
    """Certificates and whose they are."""

    def __init__(self, owners: dict[object, AccountId]) -> None:
        self.owners = owners

    def owner(self, certificate: object, wanted: bytes) -> Deferred[AccountId | None]:
        return succeed(self.owners.get(certificate))


class EmbeddingTests(CheckerCase):
    """Without verifiers and certificates, or with somebody else's."""

    async def test_only_passwords(self) -> None:
        """Whoever brings a checker of his own and no verifiers offers no SCRAM."""
        engine = Authenticator(portal(_Nobody()))
        self.assertEqual(engine.mechanisms(BOUND), ("PLAIN", "LOGIN"))
        with self.assertRaises(WrongLogin):
            await engine.begin("PLAIN", BOUND).step(b"\0a\0b")

    async def test_external(self) -> None:
        """A certificate lets its owner in, as himself only; one that is nobody's lets nobody in.

        Rule: EXTERNAL
        """
        known, unknown = object(), object()
        owners = _Owners({known: AccountId(7, ALICE, "certificate 1")})
        engine = Authenticator(portal(_Nobody()), certificates=owners)

        async def outcome(certificate: object, authzid: bytes) -> object:
            exchange: Exchange = engine.begin("EXTERNAL", Channel("smtp", HERE, True, certificate=certificate))
            return await exchange.step(authzid)

        for authzid in (b"", b"alice@example.org"):
            self.assertEqual(await outcome(known, authzid), Account(7, parse_address(ALICE), "certificate 1"))
        with self.assertRaises(ActingRefused):
            await outcome(known, b"bob@example.org")
        with self.assertRaises(WrongLogin):
            await outcome(unknown, b"")

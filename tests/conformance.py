"""Which rule is held by which test: the table in docs/conformance.rst, made from what the tests say of themselves.

A test says it in its docstring, a dialogue in a comment at its top, one line each: ``Rule: CHUNKING: BDAT 0 LAST``.
The rules that there must be are listed here; `tests.test_conformance` fails when one of them has no test, when a test
names a rule that is not here, and when the page is not what ``python -m tests.conformance --write`` would write.

What it does not show: that a test is a good one.  It shows where to look.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "conformance.rst"

_RULE = re.compile(r"^[ #]*Rule: (.+?)\.?$", re.MULTILINE)

Group = dict[str, str]

REQUIRED: dict[str, Group] = {
    "Clients with certificates": {
        "Client certificates: ask, require or off for each listener": "RFC 8446 section 4.3.2",
        "Revocation lists and roots are read again": "RFC 5280 section 6.3",
        "No resumption where client certificates authorise": "RFC 8446 section 2.2",
        "A session is not resumed under another server name": "RFC 6066 section 3, RFC 8446 section 4.2.11",
        "EXTERNAL by a verified address": "RFC 4422 appendix A, RFC 5280 section 4.2.1.6",
        "EXTERNAL: revoked in the table": "",
        "EXTERNAL: a registration may have an end of its own": "",
        "EXTERNAL: revoked by its CA": "RFC 5280 section 6.3",
        "Mail from a machine by its certificate": "RFC 6409 section 4.3",
        "Received: what was checked of the client's certificate": "RFC 5321 section 4.4, RFC 8314 section 4.3",
        "Authentication-Results for the client's certificate": "RFC 8601 section 2.2",
        "Forged Authentication-Results are taken out": "RFC 8601 section 5",
    },
    "Extensions of SMTP": {
        "SIZE: a declared size beyond the limit is 552 5.3.4": "RFC 1870 section 6.1",
        "SIZE: no room on the disk is 452 4.3.1": "RFC 1870 section 6.1",
        "SIZE: a message that grows beyond the limit is 552 5.3.4": "RFC 1870 section 6.3",
        "PIPELINING": "RFC 2920 section 3",
        "8BITMIME": "RFC 6152 section 3",
        "ENHANCEDSTATUSCODES": "RFC 2034 section 4",
        "SMTPUTF8: addresses and headers": "RFC 6531 section 3.4",
        "SMTPUTF8: a mailbox with a UTF-8 local part": "RFC 6531 section 3.3",
        "SMTPUTF8: IDNA both ways": "RFC 6531 section 3.2, RFC 5891",
        "CHUNKING: BDAT": "RFC 3030 section 2",
        "CHUNKING: BDAT 0 LAST": "RFC 3030 section 2",
        "CHUNKING: wrong sizes": "RFC 3030 section 2",
        "CHUNKING: failure in the middle": "RFC 3030 section 2",
        "CHUNKING: DATA and BDAT do not mix": "RFC 3030 section 2",
        "DSN: RET, ENVID, NOTIFY and ORCPT": "RFC 3461 section 4",
        "DSN: stored for the relay": "RFC 3461 section 5.2",
        "DSN: honoured for local delivery": "RFC 3461 section 6, RFC 3464",
        "DSN: addresses in UTF-8": "RFC 6533 section 3",
        "LIMITS": "RFC 9422 section 4",
        "REQUIRETLS": "RFC 8689 section 2",
        "TLS-Required: No": "RFC 8689 section 3",
        "FUTURERELEASE": "RFC 4865 section 4",
        "Keywords are advertised exactly where they hold": "RFC 5321 section 4.1.1.1",
        "LMTP: its own greeting": "RFC 2033 section 4.1",
        "LMTP: one reply for each recipient": "RFC 2033 section 4.2",
        "LMTP: on a UNIX socket": "RFC 2033",
        "PROXY protocol": "PROXY protocol sections 2.1 and 2.2",
        "STARTTLS forgets what was said in clear": "RFC 3207 section 4.2",
    },
    "Certificates of peers": {
        "TLS client: some forty bad certificates, each refused with its own sentence": "RFC 5280 section 6.1",
        "TLS client: a certificate without a subjectAltName is for no host": "RFC 9525 section 6",
        "TLS client: the verified state of a session travels with it": "RFC 8446 section 2.2",
        "TLS client: a session is offered once": "RFC 8446 appendix C.4",
        "TLS server: every error of a client certificate is recorded": "RFC 5280 section 6.1",
        "TLS server: the alert says why a client's certificate is refused": "RFC 8446 section 6.2",
        "TLS server: one client's certificate is nobody else's trouble": "RFC 5280 section 6.1",
        "TLS client: the alert says why a server's certificate is refused": "RFC 8446 section 6.2",
        "TLS server: a resumed session is not verified": "RFC 8446 section 2.2",
        "DANE: every selector and matching type": "RFC 6698 section 2.1",
        "DANE: unusable records do not count": "RFC 7672 section 3.1.3",
        "DANE: the strongest digest decides": "RFC 7671 section 9",
        "DANE-EE: the key alone decides": "RFC 7672 section 3.1.1",
        "DANE-TA: chain, dates and name must be right": "RFC 7672 section 3.1.2",
        "DANE-TA: the record may hold the anchor": "RFC 7671 section 5.2.2",
    },
    "Servers that we connect to": {
        "Client: nothing that came behind the consent to TLS counts": "RFC 3207 section 6, CVE-2011-0411",
        "Client: PREAUTH in clear is not followed": "RFC 9051 section 7.1.4",
        "Client: what was offered in clear is asked for again inside TLS": "RFC 3207 section 4.2",
        "DANE: only from a validating resolver on this machine": "RFC 7672 section 2.1",
        "DANE decides where both it and MTA-STS are there": "RFC 8461 section 2",
        "MTA-STS: enforce demands a verified name, and a host that the policy names": "RFC 8461 sections 4.1 and 5",
        "MTA-STS: a policy counts only over HTTPS with a verified name": "RFC 8461 section 3.3",
        "MTA-STS: no redirects, 200 and text/plain only": "RFC 8461 sections 3.2 and 3.3",
        "MTA-STS: limits on size and time": "RFC 8461 section 3.3",
    },
    "AUTH": {
        "PLAIN": "RFC 4616 section 2",
        "LOGIN": "draft-murchison-sasl-login",
        "SCRAM-SHA-256": "RFC 7677, RFC 5802",
        "SCRAM-SHA-256-PLUS with tls-exporter": "RFC 5802 section 6, RFC 9266",
        "EXTERNAL": "RFC 4422 appendix A",
        "AUTH: with and without initial response, = and *": "RFC 4954 section 4",
        "AUTH: authzid respected or refused": "RFC 4954 section 4, RFC 4422 section 3.4.1",
        "AUTH: strict base64": "RFC 4954 section 4, RFC 4648 section 3",
        "AUTH: one success a session, not inside a transaction": "RFC 4954 section 4",
        "AUTH: 535 5.7.8, 454 4.7.0": "RFC 4954 section 6",
        "AUTH: nothing outside TLS, so that 538 and 534 do not occur": "RFC 4954 sections 4 and 6",
        "Failed logins cost time per address and per account": "RFC 4954 section 9",
        "Failed logins are seen by mailsvc why": "",
        "App passwords: label, last use, one protocol": "",
        "The login owns the sender: MAIL FROM": "RFC 6409 section 6.1",
        "The login owns the sender: From and Sender": "RFC 6409 section 8.1",
        "The login owns the sender: grants, and switched off": "",
    },
    "Who gets mail": {
        "Aliases: one to many, across domains": "RFC 5321 section 3.9",
        "Aliases: to remote addresses": "RFC 5321 section 3.9",
        "Aliases: loops found at definition": "",
        "Aliases: loops found at run time": "",
        "Catch-all": "",
        "Plus addressing with a configurable separator": "RFC 5233",
        "Dots or case ignored if configured": "RFC 5321 section 2.4",
        "postmaster and abuse are deliverable": "RFC 5321 section 4.5.1, RFC 2142 section 4",
        "Disabled accounts are 550 5.2.1": "RFC 3463 section 3.3",
        "Quota is 452 4.2.2": "RFC 3463 section 3.3",
        "Quota: one warning at 90 %": "",
        "Defaults per domain": "",
        "mailsvc route explain": "",
        "Pipe: message on standard input, envelope in the environment": "",
        "Pipe: never a shell": "",
        "Pipe: time and output limits": "",
        "Pipe: sysexits.h, its output quoted in the refusal": "sysexits.h",
    },
    "Limits": {
        "Limit: line length": "RFC 5321 section 4.5.3.1.4",
        "Limit: text line length": "RFC 5321 section 4.5.3.1.6",
        "Limit: commands per session": "RFC 5321 section 7.8",
        "Limit: errors per session": "RFC 5321 section 4.3.2",
        "Limit: recipients per message": "RFC 5321 section 4.5.3.1.10",
        "Limit: unknown recipients per session": "RFC 5321 section 7.8",
        "Limit: messages per session": "RFC 9422 section 4.1",
        "Limit: session age": "RFC 5321 section 3.8",
        "Limit: idle and progress time": "RFC 5321 section 4.5.3.2",
        "Limit: header size": "",
        "Limit: header fields": "",
        "Limit: connections in all": "RFC 5321 section 3.8",
        "Limit: connections per address and per network": "RFC 5321 section 7.8",
        "Limit: body octets in memory over all sessions": "RFC 3463 section 3.4",
    },
    "Standing up to the network": {
        "Smuggling: only CRLF.CRLF ends DATA": "RFC 5321 sections 2.3.8 and 4.1.1.4",
        "Smuggling: a bare CR or LF is refused": "RFC 5321 section 2.3.8",
        "Commands behind STARTTLS are not executed": "RFC 3207 section 4.2",
        "Addresses: the grammar and its limits": "RFC 5321 sections 4.1.2 and 4.5.3.1",
        "Addresses: source routes ignored, percent not special": "RFC 5321 section 3.6.1, appendix C",
        "Addresses: written back unchanged": "RFC 5321 section 4.1.2",
        "No NUL, CR or LF reaches a header": "RFC 5322 section 2.2",
        "Early talkers are dropped with 554": "RFC 5321 section 4.3.1",
        "Greeting delay": "RFC 5321 section 4.3.1",
        "HELO checks": "RFC 5321 section 4.1.4",
        "DNSBL: asynchronous, weights, the result stored": "RFC 5782 section 2",
        "421 on shutdown, sessions drained": "RFC 5321 section 3.8",
        "421 on overload": "RFC 5321 section 3.8",
        "EMFILE": "",
        "ENOSPC": "RFC 3463 section 3.4",
        "Read-only or failing database: 4xx, recovery": "RFC 3463 section 3.4",
        "Slow loris, silent reader, flood of unknown recipients": "",
    },
    "TLS": {
        "Nothing behind the 220 of STARTTLS is read, on the client's side": "RFC 3207 section 4.2",
        "A web client is cut off at its first line": "",
        "Downgrade memory: less than was shown is put off": "",
        "A refused certificate is looked at again": "",
        "Downgrade memory: a stranger teaches nothing about others": "",
    },
    "POP3": {
        "A model of the maildrop agrees with every reply": "RFC 1939 sections 3 to 7",
        "POP3: CAPA names what can be used": "RFC 2449 section 5",
        "POP3: response codes": "RFC 2449 section 8, RFC 3206",
        "POP3: LOGIN-DELAY": "RFC 2449 section 6.5",
        "POP3: a session ends when its login is taken back": "RFC 3206 section 4",
        "Submission: nothing is sent when the login is taken back": "RFC 4954 section 6",
        "POP3: what a surrogate costs is bounded": "RFC 6857 section 3",
        "POP3: EXPIRE, with USER where it differs": "RFC 2449 section 6.7",
        "POP3: the same unique-ids for every device": "RFC 1939 section 7",
        "POP3: nothing is deleted without QUIT": "RFC 1939 section 6",
        "POP3: SASL in CAPA": "RFC 5034 section 3",
        "POP3: AUTH with and without initial response, = and *": "RFC 5034 section 4",
        "POP3: AUTH before login only": "RFC 5034 section 4",
        "POP3: AUTH responses of 12288 octets": "RFC 5034 section 4, RFC 4954 section 4",
        "POP3: AUTH and SYS/TEMP as codes of a login": "RFC 3206 section 4",
        "POP3: UTF8 before login": "RFC 6856 section 2",
        "POP3: UTF-8 in USER and PASS": "RFC 6856 section 2.2",
        "POP3: UTF8 as a code": "RFC 6856 section 5",
        "POP3: LANG": "RFC 6856 section 3",
        "UTF8: before it, an internationalised message is downgraded": "RFC 6856 section 2.1, RFC 6857",
        "LIST and STAT say the size that RETR sends": "RFC 1939 section 11, RFC 6856 section 2.1",
    },
    "Mail that is handed in": {
        "Handing in: no line end can be smuggled into the header": "RFC 5322 section 2.2",
        "Handing in: arguments cannot forge a header": "",
        "Handing in: an address is never taken for an option": "",
        "Handing in: a message has limits": "",
        "Handing in: Bcc is not sent": "RFC 5322 section 3.6.3",
        "Handing in: a password goes over a guaranteed channel only": "RFC 8314 section 4.1",
        "Handing in: what sendmail has taken is stored": "",
        "Handing in: with the network away sendmail queues": "",
        "Handing in: exit statuses of sysexits.h": "",
    },
    "Mail that goes out": {
        "Relaying for strangers is refused": "RFC 5321 section 7.9",
        "Submission: to recipients elsewhere": "RFC 6409 section 3",
        "A limit of recipients elsewhere a day": "",
        "SRS: a bounce finds its way back": "",
        "SRS: strangers cannot make an address": "",
        "SRS: bounces are forwarded": "",
        "Loop detection of forwarded mail": "RFC 9228 section 4",
        "Who may relay where": "RFC 5321 section 7.9",
        "DSN: reports for senders elsewhere": "RFC 3461 section 6.2.4",
        "DSN: failed, delayed and relayed": "RFC 3464",
        "DSN: NOTIFY is honoured": "RFC 3461 section 4.1",
        "DSN: RET, and what is quoted has a limit": "RFC 3461 section 4.3",
        "DSN: never about a report; the postmaster hears of it once": "RFC 5321 section 6.1",
        "DSN: of mail in UTF-8": "RFC 6533",
        "Relay URLs: the table of schemes": "",
        "Relay URLs: no credentials where the channel may be plain": "RFC 4954 section 4",
        "Relay URLs: none yields less than its scheme promises": "",
        "Relay URLs: what happens for every behaviour of a server": "",
        "Relay credentials: never in clear": "RFC 4954 section 4",
        "Client: the reply about a recipient decides": "RFC 5321 section 4.2.1",
        "Client: too many recipients are sent in several transactions": "RFC 5321 section 4.5.3.1.10",
        "Client: LIMITS of a server are kept": "RFC 9422 section 4",
        "Client: LMTP has a reply for each recipient": "RFC 2033 section 4.2",
        "Client: DSN is handed on": "RFC 3461 section 5.2.1",
        "Client: lost after the final dot may be a duplicate": "RFC 1047",
        "Client: timeouts for each phase": "RFC 5321 section 4.5.3.2",
        "Client: a reply before its command is an error": "RFC 5321 section 4.2",
        "Client: SIZE": "RFC 1870 section 6.1",
        "Client: 8BITMIME, or seven bits": "RFC 6152 section 3",
        "Client: SMTPUTF8, or 5.6.7 and 5.6.9": "RFC 6531 section 3.5",
        "Client: REQUIRETLS": "RFC 8689 section 4.2.1",
        "Client: dots are stuffed wherever content is cut": "RFC 5321 section 4.5.2",
        "Client: no bare CR or LF is sent": "RFC 5321 section 2.3.8",
        "Client: no fallback from SCRAM to PLAIN, unless the postmaster or a 432 says so": "RFC 4422 section 6.1.2",
        "Client: AUTH PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-256-PLUS, EXTERNAL, XOAUTH2": "RFC 4954 section 4",
        "Client: a server that does not prove itself in SCRAM is refused": "RFC 5802 section 3",
        "MX hosts: in turn, each recipient until it is decided": "RFC 5321 section 5.1",
        "MX hosts: nobody goes on after the final dot": "RFC 1047",
        "MX hosts: temporary and permanent DNS failure told apart": "RFC 5321 section 5.1",
        "DNS: a dead resolver holds up nobody but those who ask it": "",
        "MX hosts: never this machine itself": "RFC 5321 section 5.1",
        "MX hosts: no network that is not of the internet, unless it is allowed": "RFC 6890",
        "MTA-STS: enforce demands a named host and a verified name": "RFC 8461 section 5",
        "MTA-STS: a policy outlives its record and its web server": "RFC 8461 section 5.1",
        "MTA-STS: policies are refreshed": "RFC 8461 section 10.2",
        "DANE: usable TLSA records decide": "RFC 7672 section 2.2",
        "DANE: a question without an answer holds the mail": "RFC 7672 section 2.2",
        "DANE: only with a validating resolver on this machine": "RFC 7672 section 2.1",
        "Downgrade memory for mail that goes out": "",
        "Downgrade memory: the postmaster has the last word": "",
        "REQUIRETLS: an MX host that somebody vouches for": "RFC 8689 section 4.2.1",
        "TLS-Required: No for mail that goes out": "RFC 8689 section 5",
        "Connections are kept for some seconds": "RFC 5321 section 3.8",
        "TLS reports: the JSON of the standard": "RFC 8460 section 4.4",
        "TLS reports: by mail": "RFC 8460 section 5.3",
        "TLS reports: over HTTPS": "RFC 8460 section 5.4",
        "TLS reports: failures in testing mode": "RFC 8460 section 4.3",
        "Routes: the most particular decides": "",
        "Credentials for relays: sealed in the database": "",
        "Credentials for relays: a file that others can read is refused": "",
        "Retries over five days, a notice after four hours, then a report": "RFC 5321 section 4.5.4.1",
        "Greylisting costs one retry": "RFC 6647 section 2.1",
        "One report for the recipients that failed together": "RFC 5321 section 6.1",
        "A destination that does not answer is left alone for a while": "RFC 5321 section 4.5.4.1",
        "Limits of conversations in all and for each destination": "RFC 5321 section 4.5.4.1",
        "Limits of conversations for each route": "RFC 5321 section 4.5.4.1",
        "A backup MX hands over when the primary is back": "",
        "Backup MX: unknown recipients are refused at RCPT": "RFC 5321 section 7.8",
        "Backup MX: without a list 451": "",
        "Backup MX: mail waits up to 30 days": "",
        "Backup MX: the primary's list says what the primary says": "",
        "Backup MX: the list tells nobody the addresses": "RFC 2104",
        "Backup MX: mail goes to better MX hosts only, when one is back": "RFC 5321 section 5.1",
        "Backup MX: the list travels over mutual TLS": "RFC 8446 section 4.4.2",
        "A dead node's mail is taken over": "",
        "A process that starts again takes back at once what it had claimed when it was killed": "",
        "Nobody takes what a process has claimed that may live": "",
        "The postmaster's commands keep the mark of a possible duplicate": "RFC 1047",
        "A full disk stops the queue and loses nothing": "",
        "A queue that is killed loses nothing, and repeats only what nobody could know": "RFC 1047",
        "A service that is killed while it sends loses nothing, and marks what may come twice": "RFC 1047",
        "A clock that jumps makes no message old": "",
        "Every accepted message is delivered or reported": "RFC 5321 section 6.1",
        "A refusal in time is a reply and no report": "",
    },
    "Trace": {
        "Received, with the keyword of the protocol": "RFC 5321 section 4.4, RFC 3848, RFC 6531 section 4.3",
        "Return-Path": "RFC 5321 section 4.4",
        "Delivered-To": "RFC 9228",
        "Loop detection by count": "RFC 5321 section 6.3",
        "Loop detection by own Delivered-To": "RFC 9228 section 4",
    },
    "Events": {
        "An event for connection, refusal, acceptance, delivery": "",
        "Events of a message in its transaction": "",
        "Refusals in batches": "",
        "mailsvc why": "",
        "Old events are pruned by age and count": "",
    },
}
"""Groups of rules, each with where it is written; "" where nobody but us has written it down."""


def declared() -> dict[str, list[str]]:
    """The rules that tests name, each with the tests, in the order of their names."""
    found: dict[str, list[str]] = defaultdict(list)
    for test, text in _tests():
        for match in _RULE.finditer(text):
            found[match[1].strip()].append(test)
    return {rule: sorted(tests) for rule, tests in found.items()}


def _tests() -> Iterator[tuple[str, str]]:
    """Each test, as ``tests/file.py::Class::name``, with its docstring; each dialogue with its comments."""
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS.parent).as_posix()
        for case, functions in classes_of(path):
            for test, text in functions:
                if test.startswith("test_"):
                    yield f"{name}::{case}::{test}", text
    for path in sorted((TESTS / "dialogues").rglob("*.txt")):
        lines = path.read_text("utf-8").splitlines()
        comments = "\n".join(line for line in lines if line.startswith("#"))
        yield path.relative_to(TESTS.parent).as_posix(), comments


@cache
def classes_of(path: Path) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Each class of a source file with its own functions, and their docstrings.  Files are read once."""
    return tuple(
        (
            node.name,
            tuple(
                (each.name, ast.get_docstring(each) or "")
                for each in node.body
                if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
            ),
        )
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    )


def page() -> str:
    """The page."""
    tests = declared()
    lines = [
        "===========",
        "Conformance",
        "===========",
        "",
        ".. Made by python -m tests.conformance --write from what the tests say of themselves; not to be edited.",
        "",
        "What is promised to other programs, where it is written, and the tests that hold it. What lies in",
        "``tests/dialogues`` is a dialogue that a postmaster can read. A rule without an RFC is mailsvc's own.",
        "",
    ]
    for group, rules in REQUIRED.items():
        lines += [group, "=" * len(group), "", ".. list-table::", "   :header-rows: 1", "   :widths: 30 20 50", ""]
        lines += _row("Extension or rule", "Source", ["Tests"])
        for rule, source in rules.items():
            lines += _row(rule, source or "mailsvc", [f"``{test}``" for test in tests.get(rule, [])])
        lines.append("")
    return "\n".join(lines)


def _row(rule: str, source: str, tests: list[str]) -> list[str]:
    first, *others = tests or [""]
    return [f"   * - {rule}", f"     - {source}", f"     - | {first}", *(f"       | {test}" for test in others)]


def main(arguments: list[str]) -> int:
    """``--write`` the page, or say whether it is what it should be."""
    if arguments == ["--write"]:
        PAGE.write_text(page(), "utf-8")
        return 0
    stale = not PAGE.exists() or PAGE.read_text("utf-8") != page()
    print(f"{PAGE.name} is {'stale: python -m tests.conformance --write' if stale else 'up to date'}")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

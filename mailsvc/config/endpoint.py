"""Endpoint descriptions ("tcp:25:interface=127.0.0.1") judged without Twisted: a mistake gets a sentence.

Twisted itself reads these strings when the service listens; what it says of a wrong one is the text of a
Python TypeError, and only of the first. Here the same grammar
(`twisted.internet.endpoints.serverFromString`) is read by a pure function: colons separate the parts, the
first equals sign of a part names an argument, a backslash quotes the next character.

The hardest idea: which kinds exist cannot be known at this level, because Twisted's plugins add some. The
kinds of Twisted that a mail service can use are checked in full. One that is not known here is passed on
when it looks like the name of a kind and resembles none of ours, so `onion:25` works, and `tpc:25` is still
reported.
"""

from __future__ import annotations

import difflib
import ipaddress
import re

_ARGUMENTS = {  # the order is that of the positional arguments
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "interface", "backlog"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}
_KINDS = (*_ARGUMENTS, "haproxy")
_REFUSED = {
    "ssl": 'mailsvc does TLS itself, on every listener: give "tcp:PORT"',
    "tls": 'mailsvc does TLS itself, on every listener: give "tcp:PORT"',
    "stdio": 'a mail service has no terminal to listen on: give "tcp:PORT"',
}


def endpoint_parts(text: str) -> tuple[list[str], dict[str, str]]:
    """The positional parts and the named arguments: "tcp:25:backlog=5" -> (["tcp", "25"], {"backlog": "5"}).

    Raises ValueError with what is wrong.
    """
    positional: list[str] = []
    named: dict[str, str] = {}
    name: str | None = None
    current = ""
    quoted = False
    for c in [*text, None]:
        if quoted:
            if c is None:
                raise ValueError("ends in a backslash, which quotes nothing")
            current, quoted = current + c, False
        elif c == "\\":
            quoted = True
        elif c == "=" and name is None:
            name, current = current, ""
        elif c == ":" or c is None:
            if name is None:
                positional.append(current)
            elif name in named:
                raise ValueError(f"gives {_printable(name)}= twice")
            else:
                named[name] = current
            name, current = None, ""
        else:
            current += c
    return positional, named


def endpoint_mistake(text: str) -> str | None:
    """Why `text` is no endpoint on which mailsvc can listen, with the cure; None when it is one."""
    try:
        positional, named = endpoint_parts(text)
        _judge(positional, named)
    except ValueError as problem:
        return f'"{_printable(text)}" {problem}'
    return None


def is_private(text: str) -> bool:
    """Whether only programs of this machine can reach the endpoint: a UNIX socket, or loopback."""
    positional, named = endpoint_parts(text)
    kind, *values = positional[1:] if positional[:1] == ["haproxy"] else positional
    if kind not in ("tcp", "tcp6"):
        return kind == "unix"
    interface = named.get("interface", values[1] if len(values) > 1 else "")
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return interface == "localhost"


def port_of(text: str) -> int | None:
    """The TCP port of an endpoint that `endpoint_mistake` finds nothing wrong with; None for other kinds."""
    positional, named = endpoint_parts(text)
    kind, *values = positional[1:] if positional[:1] == ["haproxy"] else positional
    port = named.get("port", values[0] if values else "")
    return int(port) if kind in ("tcp", "tcp6") and port.isdigit() else None


def _judge(positional: list[str], named: dict[str, str]) -> None:
    """Raise ValueError with the words that follow the quoted description."""
    kind, *values = positional or [""]
    if kind in _REFUSED:
        raise ValueError(f"is not possible: {_REFUSED[kind]}")
    if kind == "haproxy":
        if not values:
            raise ValueError('does not say what is proxied: give for example "haproxy:tcp:2525"')
        if values[0] == "haproxy":
            raise ValueError("says haproxy twice: give it once")
        _judge(values, named)
        return
    if kind not in _ARGUMENTS:
        _judge_stranger(kind)
        return
    arguments = _ARGUMENTS[kind]
    if len(values) > len(arguments) or any(argument in named for argument in arguments[: len(values)]):
        cure = r'; the colons of an IPv6 address are written "\:" (interface=\:\:1)' if kind != "unix" else ""
        raise ValueError(f"has too many parts{cure}")
    given = dict(zip(arguments, values, strict=False)) | named
    for argument in named:
        if argument not in arguments:
            raise ValueError(f"has an argument {argument}= that {kind} does not know ({', '.join(arguments)})")
    _JUDGES[kind](given)
    if "backlog" in given and not _number(given["backlog"], 1, 65535):
        raise ValueError("has a backlog that is no whole number from 1 to 65535")


def _judge_stranger(kind: str) -> None:
    near = difflib.get_close_matches(kind.lower(), _KINDS, n=1)
    if near:
        raise ValueError(f'is of an unknown kind; did you mean "{near[0]}:"?')
    if not re.fullmatch(r"[a-zA-Z][\w.+-]*", kind) or re.fullmatch(r"[\w-]+\.[\w.-]+|localhost", kind):
        raise ValueError('is no endpoint; give for example "tcp:2525" or "tcp:2525:interface=127.0.0.1"')


def _judge_tcp(given: dict[str, str]) -> None:
    if not given.get("port"):
        raise ValueError('has no port; give for example "tcp:2525"')
    if not _number(given["port"], 0, 65535):
        raise ValueError(f'has port "{_printable(given["port"])}": a whole number from 0 to 65535 is needed')
    interface = given.get("interface", "")
    if re.search(r"[\s/\[\]]", interface):
        raise ValueError(f'has interface "{_printable(interface)}": give the bare address of this machine')


def _judge_tcp6(given: dict[str, str]) -> None:
    _judge_tcp(given)
    interface = given.get("interface", "")
    try:
        four = ipaddress.ip_address(interface).version == 4
    except ValueError:
        return
    if four:
        raise ValueError('has an IPv4 interface; that goes with "tcp:"')


def _judge_unix(given: dict[str, str]) -> None:
    if not given.get("address"):
        raise ValueError('has no path; give for example "unix:/run/mailsvc/smtp.sock"')
    if "mode" in given and not re.fullmatch(r"[0-7]{3,4}", given["mode"]):
        raise ValueError('has a mode that is not octal; give for example "mode=660"')
    if given.get("lockfile", "1") not in {"0", "1"}:
        raise ValueError("has a lockfile= that is neither 0 nor 1")


def _judge_systemd(given: dict[str, str]) -> None:
    if given.get("domain") not in {"INET", "INET6", "UNIX"}:
        raise ValueError('does not say INET, INET6 or UNIX; give for example "systemd:domain=INET:index=0"')
    if ("index" in given) == ("name" in given):
        raise ValueError("needs either index= (0 is the first socket of the unit) or name=")
    if "index" in given and not _number(given["index"], 0, 1023):
        raise ValueError("has an index that is no whole number; 0 is the first socket of the unit")


_JUDGES = {"tcp": _judge_tcp, "tcp6": _judge_tcp6, "unix": _judge_unix, "systemd": _judge_systemd}


def _number(text: str, least: int, most: int) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,6}", text)) and least <= int(text) <= most


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:80])

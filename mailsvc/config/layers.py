"""From several sources to one configuration: defaults <- file (TOML) <- environment <- options.

Values in, values out: what only the machine knows (its full name, whether we are root) comes in as
`Surroundings`, and reading the file is one small function. Whether a folder or a database can be opened is
for those who open it.

The hardest idea: every mistake is reported at once. So nothing raises on the way; each source becomes a
`Layer` of values plus the problems found in it, and `settle` checks all of them and raises
`ConfigurationRefused` at the end. A value that a later layer overrides is checked too: a mistake in the
file stays a mistake.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailsvc.config.endpoint import endpoint_parts
from mailsvc.config.kinds import DatabaseName, Folder, Mistake, OptionalFile, OptionalPath, hostname_mistake
from mailsvc.config.settings import Configuration, Surroundings
from mailsvc.config.table import ENVIRONMENT, GROUPS, SECTIONS, SETTINGS
from mailsvc.errors import ConfigurationRefused

FILE_LIMIT = 1 << 20
"""Octets of a configuration file: what is larger is another file, or one without an end (/dev/zero)."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it, and where: a file's name, "--option" or a variable's name."""

    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source gives (by the settings' names), and what is wrong with the source itself."""

    given: Mapping[str, Given] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InForce:
    """The configuration, where each value came from, the defaults here, and remarks for the log."""

    configuration: Configuration
    values: Mapping[str, Given]
    defaults: Mapping[str, object]
    remarks: tuple[str, ...]


def file_layer(path: str | Path) -> Layer:
    """Read a TOML file; one that is missing, unreadable or no TOML is a problem of the layer."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_LIMIT + 1)
        text = octets.decode("utf-8")
    except FileNotFoundError:
        return Layer(problems=(f"{path}: there is no such configuration file; give --config another path",))
    except OSError as error:
        cure = "give --config a file that this user may read"
        return Layer(problems=(f"{path}: the configuration file cannot be read ({error.strerror}); {cure}",))
    except UnicodeDecodeError as error:
        return Layer(problems=(f"{path}: octet {error.start} is not UTF-8; save the file as UTF-8 text",))
    if len(octets) > FILE_LIMIT:
        return Layer(problems=(f"{path}: this is no configuration file: it has more than {FILE_LIMIT} octets",))
    return text_layer(text, str(path), path.parent)


def text_layer(text: str, source: str, folder: Path) -> Layer:
    """The layer of a TOML text; relative paths in it are taken from `folder`, where the file lies."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        cure = 'texts stand in quotes, as in hostname = "mail.example.org"'
        return Layer(problems=(f"{source}: this is not TOML: {error}; {cure}",))
    except RecursionError:
        return Layer(problems=(f"{source}: this is no configuration: its lists lie too deep in each other",))
    given: dict[str, Given] = {}
    problems: list[str] = []
    for name, value in _flat(document):
        setting = SETTINGS.get(name)
        if setting is None:
            problems.append(f"{source}: {name}: {_unknown(name)}")
            continue
        if isinstance(value, str) and isinstance(setting.kind, (Folder, DatabaseName, OptionalFile, OptionalPath)):
            value = _anchored(value, folder)
        given[name] = Given(value, source)
    return Layer(given, tuple(problems))


def _flat(document: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Dotted names and values; only tables that are known sections are opened, to keep the report short."""
    for key, value in document.items():
        if key in GROUPS and isinstance(value, Mapping):
            yield from _flat({f"{key}.{inner}": below for inner, below in value.items()})
        elif key in SECTIONS and isinstance(value, Mapping):
            yield from ((f"{key}.{leaf}", inner) for leaf, inner in value.items())
        else:
            yield key, value


def _unknown(name: str) -> str:
    leaf = name.rpartition(".")[2]
    if name in GROUPS or name in SECTIONS:
        return f"this is a section; write its settings below a line [{name}]"
    elsewhere = [known.name for known in SETTINGS.values() if known.leaf == leaf]
    if elsewhere:
        return f"there is no such setting here; did you mean {' or '.join(elsewhere)}?"
    near = difflib.get_close_matches(name, [*SETTINGS, *SECTIONS], n=1, cutoff=0.7)
    near = near or [s.name for s in SETTINGS.values() if difflib.get_close_matches(leaf, [s.leaf], cutoff=0.7)]
    hint = f"did you mean {near[0]}?" if near else "`mailsvc config describe` lists them all"
    return f"there is no such setting; {hint}"


def _anchored(text: str, folder: Path) -> str:
    return text if not text.strip() or "://" in text else str(folder / text)


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """What the environment gives (`MAILSVC_DATABASE`); a variable that is empty counts as not set."""
    return Layer({name: Given(environment[v], v) for v, name in ENVIRONMENT.items() if environment.get(v)})


def options_layer(options: Mapping[str, object]) -> Layer:
    """What the command line gives, by the settings' names; None is "not given"."""
    given = {n: Given(v, f"--{SETTINGS[n].leaf}") for n, v in options.items() if v is not None}
    return Layer(given)


def settle(surroundings: Surroundings, *layers: Layer) -> InForce:
    """What the layers make, the last word to the last; raises ConfigurationRefused with all mistakes."""
    problems = [problem for layer in layers for problem in layer.problems]
    named = any("hostname" in layer.given for layer in layers)
    defaults, remarks = _defaults(surroundings, named)
    values = {name: Given(default, "default") for name, default in defaults.items()}
    for layer in layers:
        for name, given in layer.given.items():
            setting = SETTINGS[name]
            try:
                value = setting.kind.parse(given.value)
            except Mistake as mistake:
                label = given.source if given.source == f"--{name}" else f"{given.source}: {name}"
                problems.append(f"{label}: {mistake}")
            else:
                values[name] = Given(value, given.source)
    problems += _contradictions(values)
    if problems:
        raise ConfigurationRefused(problems)
    remarks += _advice(values)
    return InForce(_configuration(values), values, defaults, tuple(remarks))


def load(
    file: str | Path | None,
    options: Mapping[str, object],
    surroundings: Surroundings,
    environment: Mapping[str, str] | None = None,
) -> InForce:
    """What is in force for a file (or none), options by the settings' names, and the environment.

    Raises ConfigurationRefused.
    """
    base = Layer() if file is None else file_layer(file)
    return settle(surroundings, base, environment_layer(environment or {}), options_layer(options))


def _defaults(surroundings: Surroundings, named: bool) -> tuple[dict[str, object], list[str]]:
    """Each setting's default here, and the remark that a machine without a name deserves.

    A fresh container has no full name, and trying mailsvc there must work: it is then localhost, and says so.
    """
    defaults = {}
    for setting in SETTINGS.values():
        root = surroundings.privileged and setting.root is not None
        defaults[setting.name] = setting.root if root else setting.default
    if named:
        return defaults, []
    name = surroundings.fqdn().removesuffix(".").lower()
    mistake = hostname_mistake(name)
    if mistake is None and name != "localhost":
        return defaults | {"hostname": name}, []
    why = mistake or "it is localhost"
    return defaults, [
        f"hostname: this machine's own name is of no use to others ({why}), so mailsvc calls itself"
        " localhost; that will do for trying it out, and --hostname mail.example.org gives the real one"
    ]


def _contradictions(values: Mapping[str, Given]) -> Iterator[str]:
    message_size, header_size = values["smtp.message_size"], values["smtp.header_size"]
    if header_size.value > message_size.value:  # type: ignore[operator]  # both passed Whole
        yield (
            f"smtp.header_size: {header_size.value} octets are more than smtp.message_size allows for"
            f" all of a message ({message_size.value}); make it smaller, or smtp.message_size larger"
        )
    users: dict[tuple[str, ...], list[str]] = {}
    for name, given in values.items():
        if name.startswith("listen.") and isinstance(given.value, tuple):
            for text in given.value:
                users.setdefault(_place(text), []).append(f"{name} ({text})")
    for place, names in users.items():
        if len(names) > 1 and place[1:2] != ("0",):
            yield f"{' and '.join(names)} listen on the same place; give one of them another"
    for name, given in values.items():
        if name.startswith("client_certificates.") and name.endswith(".mode") and given.value == "require":
            section = name.rpartition(".")[0]
            if values[f"{section}.roots"].value is None:
                yield f"{name}: nobody can have a certificate that is good without CAs; name them as {section}.roots"
    if not users:
        yield "listen: every listener is turned off, so there is nothing to serve; leave at least one on"


def _place(text: str) -> tuple[str, ...]:
    """What two listeners cannot share: the kind, the port or path, and the interface."""
    positional, named = endpoint_parts(text)
    if positional[0] == "haproxy":
        del positional[0]
    kind, *values = positional
    if kind in {"tcp", "tcp6"}:
        both = dict(zip(("port", "interface"), values, strict=False)) | named
        return kind, both.get("port", ""), both.get("interface", "")
    return kind, text


def _advice(values: Mapping[str, Given]) -> Iterator[str]:
    for setting in SETTINGS.values():
        value = values[setting.name].value
        if setting.advised and isinstance(value, (int, float)) and value < setting.advised[0]:
            least, source = setting.advised
            yield f"{setting.name}: {value:g} is in force, yet {source} asks for at least {least:g}"


def _configuration(values: Mapping[str, Given]) -> Configuration:
    leaves: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS.values():
        leaves.setdefault(setting.section, {})[setting.leaf] = values[setting.name].value
    arguments = leaves.pop("")
    grouped: dict[str, dict[str, Any]] = {}
    for name, section in leaves.items():
        group, _, inner = name.rpartition(".")
        (grouped.setdefault(group, {}) if group else arguments)[inner] = SECTIONS[name](**section)
    for name, sections in grouped.items():
        arguments[name] = GROUPS[name](**sections)
    return Configuration(**arguments)


def toml_value(value: object) -> str:
    """A setting's value as TOML writes it."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    # JSON's string escapes are TOML's as well, but for DEL, which JSON leaves alone
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def described(in_force: InForce, names: Collection[str] = tuple(SETTINGS)) -> str:
    """Settings with help, limits, default and source, as a TOML text that is itself a valid file."""
    lines: list[str] = []
    section = ""
    for name, setting in SETTINGS.items():
        if name not in names:
            continue
        if setting.section != section:
            section = setting.section
            lines += [f"[{section}]", ""]
        given = in_force.values[name]
        known = given.source == "default"
        lines += [
            f"# {setting.help}",
            f"# {setting.kind.allowed}",
            "# this is the default"
            if known
            else f"# from {given.source}; the default is {toml_value(in_force.defaults[name])}",
            f"{setting.leaf} = {toml_value(given.value)}",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"

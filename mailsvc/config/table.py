"""The settings as a table, by name: what the checks, `mailsvc config describe` and the sample file are made from.

The hardest idea: nothing is listed here. The table is derived from the fields of `Configuration`, so that a setting
can't exist in one of them and be missing in the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from mailsvc.config.kinds import Kind
from mailsvc.config.settings import Configuration


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table: `name` is dotted as in TOML, `option`: there is a `--leaf` for it."""

    name: str
    kind: Kind
    default: object
    help: str
    option: bool = False
    root: object = None
    advised: tuple[float, str] | None = None

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


def _sections(kind: type[Any]) -> dict[str, type[Any]]:
    """The fields that are sections, by name, with what each is made of."""
    return {inner.name: made for inner in fields(kind) if (made := _made_of(inner)) is not None}


def _made_of(inner: Field[Any]) -> type[Any] | None:
    made = inner.default_factory
    return made if made is not MISSING and isinstance(made, type) else None


GROUPS: Mapping[str, type[Any]] = {name: kind for name, kind in _sections(Configuration).items() if _sections(kind)}
"""Sections that hold sections."""


def _by_name() -> Iterator[tuple[str, type[Any]]]:
    for name, kind in _sections(Configuration).items():
        if name in GROUPS:
            yield from ((f"{name}.{inner}", made) for inner, made in _sections(kind).items())
        else:
            yield name, kind


SECTIONS: Mapping[str, type[Any]] = dict(_by_name())
"""Those that hold settings, by their full names."""


def _table() -> Iterator[Setting]:
    for top in fields(Configuration):
        if _made_of(top) is None:
            yield Setting(top.name, default=top.default, **top.metadata)
    for section, kind in SECTIONS.items():
        for inner in fields(kind):
            yield Setting(f"{section}.{inner.name}", default=inner.default, **inner.metadata)


SETTINGS: Mapping[str, Setting] = {setting.name: setting for setting in _table()}
ENVIRONMENT: Mapping[str, str] = {"MAILSVC_DATABASE": "database"}

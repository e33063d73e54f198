"""Settings of the cluster as rows; secret ones are sealed, and only their presence is shown."""

from typing import TypeVar

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import Corrupt, Invalid, NotFound
from appliance.core.secret import Secret
from appliance.model.principal import Principal
from appliance.model.setting import (
    SETTINGS,
    SecretSetting,
    Setting,
    parse_secret,
    parse_setting,
)
from appliance.services.secrets import CLUSTER, Secrets, forget
from appliance.store.base import Consistency, Statement, Store, fetch

T = TypeVar("T")


class SettingView(msgspec.Struct, frozen=True):
    """A setting as it is listed; for a secret one `value` is "set" or "not set"."""

    name: str
    value: object
    is_set: bool
    secret: bool
    default: object
    rule: str
    about: str
    updated_at_ms: int | None
    updated_by: str | None


class _Row(msgspec.Struct, frozen=True):
    name: str
    value: str
    updated_at_ms: int
    updated_by: str


class Settings:
    def __init__(self, store: Store, secrets: Secrets, clock: Clock) -> None:
        self._store = store
        self._secrets = secrets
        self._clock = clock

    async def get(self, setting: Setting[T]) -> T:
        """Return the value in force.

        Raises:
            Corrupt: the stored value breaks the setting's rule.
        """
        rows = await self._store.query(
            Statement("SELECT value FROM setting WHERE name = ?", (setting.name,)),
            Consistency.LINEARIZABLE,
        )
        if not rows:
            return setting.default
        try:
            return parse_setting(setting, msgspec.json.decode(str(rows[0]["value"])))
        except Invalid as broken:
            raise Corrupt(f"stored setting: {broken.detail}", hint=broken.hint) from broken

    async def get_secret(self, setting: SecretSetting) -> Secret | None:
        return await self._secrets.find(CLUSTER, setting.name)

    async def list(self) -> list[SettingView]:
        """Return every setting, set or not, in the order of their declaration."""
        rows = await fetch(
            self._store,
            _Row,
            Statement("SELECT name, value, updated_at_ms, updated_by FROM setting"),
        )
        by_name = {row.name: row for row in rows}
        return [_view(setting, by_name.get(setting.name)) for setting in SETTINGS.values()]

    async def view(self, name: str) -> SettingView:
        """Return one setting as it is listed.

        Raises:
            NotFound: there is no such setting.
        """
        setting = _declared(name)
        rows = await fetch(
            self._store,
            _Row,
            Statement(
                "SELECT name, value, updated_at_ms, updated_by FROM setting WHERE name = ?",
                (name,),
            ),
        )
        return _view(setting, rows[0] if rows else None)

    async def set(self, name: str, value: object, by: Principal) -> SettingView:
        """Set a setting to a JSON value, or to a text as typed on a command line.

        Raises:
            NotFound: there is no such setting.
            Invalid: the value breaks the setting's rule.
        """
        setting = _declared(name)
        if isinstance(setting, SecretSetting):
            sealed = parse_secret(setting, value)
            row = self._write(name, "null", by)
            await self._secrets.batch(lambda sealer: [row, sealer.put(CLUSTER, name, sealed)])
        else:
            encoded = msgspec.json.encode(parse_setting(setting, value)).decode()
            await self._store.batch([self._write(name, encoded, by)])
        return await self.view(name)

    async def unset(self, name: str) -> SettingView:
        """Return a setting to its default; idempotent.

        Raises:
            NotFound: there is no such setting.
        """
        _declared(name)
        await self._store.batch(
            [Statement("DELETE FROM setting WHERE name = ?", (name,)), forget(CLUSTER, name)]
        )
        return await self.view(name)

    def _write(self, name: str, encoded: str, by: Principal) -> Statement:
        return Statement(
            "INSERT INTO setting (name, value, updated_at_ms, updated_by) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value,"
            " updated_at_ms = excluded.updated_at_ms, updated_by = excluded.updated_by",
            (name, encoded, self._clock.now_ms(), str(by)),
        )


def _declared(name: str) -> Setting[object] | SecretSetting:
    setting = SETTINGS.get(name)
    if setting is None:
        raise NotFound(f"there is no setting {name!r}", hint="list them: kowabunga settings list")
    return setting


def _view(setting: Setting[object] | SecretSetting, row: _Row | None) -> SettingView:
    secret = isinstance(setting, SecretSetting)
    default = "not set" if isinstance(setting, SecretSetting) else setting.default
    value = default
    if row is not None:
        value = "set" if secret else msgspec.json.decode(row.value)
    return SettingView(
        name=setting.name,
        value=value,
        is_set=row is not None,
        secret=secret,
        default=default,
        rule=setting.rule,
        about=setting.about,
        updated_at_ms=row.updated_at_ms if row else None,
        updated_by=row.updated_by if row else None,
    )

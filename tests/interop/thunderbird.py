"""Thunderbird without a screen: a profile that is ready, a start that fetches, an end.

Nobody types: the account stands in the preferences, our CA in the profile's certificate store, and the password in its
store of passwords, encrypted by NSS as Thunderbird does it itself.  Its own sign of life is the service's log.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.interop.programs import SECONDS, InteropCase, program, run, surroundings

_ENCRYPT = """
import base64, ctypes, sys
class Item(ctypes.Structure):
    _fields_ = [("type", ctypes.c_uint), ("data", ctypes.c_void_p), ("len", ctypes.c_uint)]
nss = ctypes.CDLL("libnss3.so")
nss.PK11_GetInternalKeySlot.restype = ctypes.c_void_p
nss.PK11_Authenticate.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
assert nss.NSS_InitReadWrite(sys.argv[1].encode()) == 0
assert nss.PK11_Authenticate(nss.PK11_GetInternalKeySlot(), 1, None) == 0
for line in sys.stdin.read().splitlines():
    text = ctypes.create_string_buffer(line.encode(), len(line.encode()))
    given, made, key = Item(0, ctypes.cast(text, ctypes.c_void_p), len(text)), Item(), Item()
    assert nss.PK11SDR_Encrypt(ctypes.byref(key), ctypes.byref(given), ctypes.byref(made), None) == 0
    print(base64.b64encode(ctypes.string_at(made.data, made.len)).decode())
nss.NSS_Shutdown()
"""
"""In a process of its own: NSS in ours would stay there."""


class Thunderbird:
    """A profile of Thunderbird with one POP3 account that leaves mail on the server, until it is told otherwise."""

    def __init__(self, case: InteropCase) -> None:
        self._case = case
        self._program = program("thunderbird")
        self._profile = case.home / "profile"
        self._profile.mkdir(0o700)
        self._mail = self._profile / "mail"
        store = f"sql:{self._profile}"
        certutil = program("certutil")
        run([certutil, "-N", "-d", store, "--empty-password"], home=case.home)
        done = run([certutil, "-A", "-d", store, "-n", "CA", "-t", "C,,", "-i", case.service.ca], home=case.home)
        case.assertEqual(done.status, 0, done.text)
        self._keep_password(store)

    def _keep_password(self, store: str) -> None:
        user = self._case.user
        secret = f"{user.address}\n{user.password}\n".encode()
        done = run([sys.executable, "-c", _ENCRYPT, store], home=self._case.home, stdin=secret)
        self._case.assertEqual(done.status, 0, done.text)
        name, password = done.output.decode().split()
        login = {
            "id": 1,
            "guid": "{6c7ff5a1-6d0a-4ac1-8b5a-5fb1d19e5a6c}",
            "encType": 1,
            "timesUsed": 1,
            "hostname": "mailbox://localhost",
            "httpRealm": "mailbox://localhost",
            "formSubmitURL": None,
            "usernameField": "",
            "passwordField": "",
            "encryptedUsername": name,
            "encryptedPassword": password,
            "timeCreated": 1,
            "timeLastUsed": 1,
            "timePasswordChanged": 1,
        }
        (self._profile / "logins.json").write_text(json.dumps({"nextId": 2, "logins": [login], "version": 3}))

    def _write_preferences(self, listener: str, keep: bool) -> None:
        server, identity = "mail.server.server1", "mail.identity.id1"
        user = self._case.user.address
        preferences: dict[str, object] = {
            "mail.accountmanager.accounts": "account1",
            "mail.accountmanager.defaultaccount": "account1",
            "mail.account.account1.server": "server1",
            "mail.account.account1.identities": "id1",
            f"{identity}.useremail": user,
            f"{identity}.valid": True,
            f"{server}.type": "pop3",
            f"{server}.name": "test",
            f"{server}.hostname": "localhost",
            f"{server}.port": self._case.port(listener),
            f"{server}.socketType": 3 if listener == "pop3s" else 2,
            f"{server}.userName": user,
            f"{server}.authMethod": 3,
            f"{server}.directory": str(self._mail),
            f"{server}.login_at_startup": True,
            f"{server}.check_new_mail": True,
            f"{server}.download_on_biff": True,
            f"{server}.leave_on_server": keep,
            "mail.provider.suppress_dialog_on_startup": True,
            "mailnews.start_page.enabled": False,
            "mail.shell.checkDefaultClient": False,
            # It talks to nobody else.
            "network.proxy.type": 1,
            "network.proxy.http": "127.0.0.1",
            "network.proxy.http_port": 9,
            "network.proxy.ssl": "127.0.0.1",
            "network.proxy.ssl_port": 9,
            "app.update.enabled": False,
            "extensions.update.enabled": False,
            "datareporting.policy.dataSubmissionEnabled": False,
        }
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items())
        (self._profile / "user.js").write_text("".join(lines))

    def fetch(self, listener: str, *, keep: bool = True) -> str:
        """Start it, wait until its session has ended, end it; return what the service's log says of the session."""
        self._write_preferences(listener, keep)
        log = self._case.service.log
        since = len(log)
        said = (self._case.home / "thunderbird.log").open("ab")
        with said:
            process = subprocess.Popen(
                [self._program, "--headless", "--no-remote", "--profile", str(self._profile)],
                env=surroundings(self._case.home) | {"MOZ_HEADLESS": "1", "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        try:
            return self._session(process, since)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _session(self, process: subprocess.Popen[bytes], since: int) -> str:
        end = re.compile(re.escape(self._case.user.address) + r" from 127\.0\.0\.1: (\d+ retrieved, \d+ deleted)")
        limit = time.monotonic() + SECONDS
        before = self._noted()
        while time.monotonic() < limit:
            for line in self._case.service.log[since:]:
                # It notes which messages it has seen when its session is over, unless there was nothing new.
                if (found := end.search(line)) and (found[1].startswith("0 ") or self._noted() != before):
                    return found[1]
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            break
        said = Path(self._case.home, "thunderbird.log").read_text("utf-8", "replace")
        raise AssertionError(f"Thunderbird did not fetch; it said: {said[-2000:]}")

    def _noted(self) -> int:
        """When it noted which messages it has seen; 0 for never."""
        noted = self._mail / "popstate.dat"
        return noted.stat().st_mtime_ns if noted.exists() else 0

    def inbox(self) -> bytes:
        """What it has stored: an mbox."""
        return (self._mail / "Inbox").read_bytes()

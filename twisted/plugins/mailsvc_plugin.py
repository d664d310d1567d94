"""Makes `twistd mailsvc` exist; strings only, for a plugin that fails to import disappears without a word."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

mailsvc = ServiceMaker(
    "mailsvc", "mailsvc.tap", "A mail service: SMTP in, SQL inside, POP3 out, all of it over TLS.", "mailsvc"
)

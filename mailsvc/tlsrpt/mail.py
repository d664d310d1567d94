"""A TLS report as a mail (RFC 8460 section 5.3): a text for people, and the compressed JSON for programs.

Pure.  The hardest idea is a report about TLS that is broken: it goes to the very domain whose TLS fails.  So it asks to
be delivered all the same, by ``TLS-Required: No`` (RFC 8689 section 5); there is no secret in it.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from email.utils import format_datetime

from mailsvc.mail.address import Address
from mailsvc.tlsrpt.report import Report

_LINE = 76


def mail_of(report: Report, octets: bytes, to: Address, now: float) -> tuple[bytes, bytes]:
    """The header with its empty line, and the body; ``octets`` from `Report.octets`, ``now`` in seconds."""
    boundary = f"report-{report.id}"
    header = (
        f"Date: {format_datetime(datetime.fromtimestamp(now, UTC))}\r\n"
        f"From: Mail service <{report.contact}>\r\n"
        f"To: <{to}>\r\n"
        f"Subject: {_folded(report)}\r\n"
        f"Message-ID: <{report.id}@{report.organization}>\r\n"
        f"TLS-Report-Domain: {report.domain}\r\n"
        f"TLS-Report-Submitter: {report.organization}\r\n"
        "TLS-Required: No\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type="tlsrpt";\r\n\tboundary="{boundary}"\r\n'
        "\r\n"
    )
    text = (
        f"This is a report about TLS of the mail servers of {report.domain}, as {report.organization}\r\n"
        f"has seen it on {datetime.fromtimestamp(report.day * 86400, UTC):%Y-%m-%d} (UTC). It was sent because\r\n"
        f"there is a record at _smtp._tls.{report.domain} (RFC 8460).\r\n"
    )
    packed = base64.b64encode(octets).decode("ascii")
    lines = "".join(f"{packed[at : at + _LINE]}\r\n" for at in range(0, len(packed), _LINE))
    body = (
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "\r\n"
        f"{text}"
        f"--{boundary}\r\n"
        "Content-Type: application/tlsrpt+gzip\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f'Content-Disposition: attachment;\r\n\tfilename="{report.file_name}"\r\n'
        "\r\n"
        f"{lines}"
        f"--{boundary}--\r\n"
    )
    return header.encode("ascii"), body.encode("ascii")


def _folded(report: Report) -> str:
    """The Subject in lines that no host name makes too long (RFC 5322 section 2.1.1)."""
    return report.subject.replace(" Submitter:", "\r\n Submitter:").replace(" Report-ID:", "\r\n Report-ID:")

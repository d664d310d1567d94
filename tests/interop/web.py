"""An HTTPS server for MTA-STS policies: ``python -m tests.interop.web ADDRESS CHAIN KEY FOLDER``.

``https://mta-sts.DOMAIN/.well-known/mta-sts.txt`` is the file ``FOLDER/DOMAIN``; what there is no file for is 404.
"""

from __future__ import annotations

import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Policies(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        domain = self.headers.get("Host", "").removeprefix("mta-sts.")
        path = self.folder / domain
        there = self.path == "/.well-known/mta-sts.txt" and "/" not in domain and path.is_file()
        body = path.read_bytes() if there else b"there is no such thing\n"
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(host: str, chain: str, key: str, folder: str) -> None:
    """Serve until killed."""
    _Policies.folder = Path(folder)
    server = ThreadingHTTPServer((host, 443), _Policies)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])

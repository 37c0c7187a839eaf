"""Rerun's web viewer behind a content security policy: the browser then talks to this run and to nobody else.

The page as Rerun serves it reports to tel.rerun.io, asks GitHub for newer releases and Google for a font, and
has no switch for that (0.41). So the page and its files pass through here, with one header more.
"""

from __future__ import annotations

import http.client
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ..errors import RecordError

_FILE = re.compile(r"/[\w.-]*(\?.*)?")
_PASSED_ON = ("Content-Type", "Content-Length", "Content-Encoding", "rerun-final-length")
_TIMEOUT_S = 30.0


class Page:
    """Serves on ``address:port`` what Rerun serves on ``viewer_port``, while data come from ``data_port``.

    Raises:
        RecordError: the port cannot be listened on.
    """

    def __init__(self, address: str, port: int, *, viewer: tuple[str, int], data_port: int) -> None:
        policy = (
            "default-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' data: blob:; "
            f"connect-src 'self' data: blob: http://*:{data_port}; form-action 'none'"
        )

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                if not _FILE.fullmatch(self.path):
                    self.send_error(404)
                    return
                upstream = http.client.HTTPConnection(*viewer, timeout=_TIMEOUT_S)
                try:
                    upstream.request("GET", self.path)
                    answer = upstream.getresponse()
                    self.send_response(answer.status)
                    for name in _PASSED_ON:
                        if value := answer.getheader(name):
                            self.send_header(name, value)
                    self.send_header("Content-Security-Policy", policy)
                    self.send_header("Referrer-Policy", "no-referrer")
                    self.end_headers()
                    shutil.copyfileobj(answer, self.wfile)
                except OSError:  # the browser or the viewer went away; the browser will say so
                    self.close_connection = True
                finally:
                    upstream.close()

            def log_message(self, format: str, *args: object) -> None:
                """Stay quiet: the terminal belongs to the run."""

        try:
            self._server = ThreadingHTTPServer((address, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RecordError(
                f"cannot serve on {address}:{port}: {reason}; choose another port with --view serve:PORT."
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="edgevae-page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

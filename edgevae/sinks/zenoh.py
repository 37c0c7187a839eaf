"""``--zenoh``: latents to whoever subscribes; docs/zenoh.md specifies keys and messages."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecordError
from ..wire import VERSION, pack
from .base import Row, RunInfo, Sink

if TYPE_CHECKING:
    import zenoh

CONNECT_TIMEOUT_MS = 3000
_ENDPOINT = re.compile(r"(?P<listen>listen:)?(?P<locator>[a-z0-9_-]+/\S+)")
_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")


class ZenohSink(Sink):
    """Publishes each row at ``KEY/latent``; ``KEY/source`` says and answers whether the source is there.

    The liveliness token ``KEY/alive`` stands as long as this process does. There is no scouting, and nothing
    is listened on but the endpoint that was given.

    Args:
        endpoint: ``tcp/ADDRESS:PORT`` to connect to, or ``listen:tcp/ADDRESS:PORT`` to be connected to.
        key: where to publish; None for ``edgevae/HOSTNAME``.

    Raises:
        RecordError: neither an endpoint nor a key.
    """

    _session: zenoh.Session | None = None
    _publisher: zenoh.Publisher
    _run: RunInfo

    def __init__(self, endpoint: str, *, key: str | None = None) -> None:
        parts = _ENDPOINT.fullmatch(endpoint)
        if parts is None:
            raise RecordError(
                f"cannot publish at '{endpoint}', wanted --zenoh tcp/ADDRESS:PORT to connect to, or "
                "--zenoh listen:tcp/ADDRESS:PORT."
            )
        self._listens = parts["listen"] is not None
        self._locator = parts["locator"]
        self.key = key or f"edgevae/{_NOT_IN_A_NAME.sub('-', socket.gethostname()) or 'unnamed'}"
        if not all(self.key.split("/")) or re.search(r"[*$?#\s]", self.key):
            raise RecordError(
                f"the key '{self.key}' cannot be published at; wanted names between slashes without *, $, ?, "
                "# or spaces, as edgevae/robot-7."
            )
        self.path = Path(f"{self.key}/latent")
        self._lost = ""

    def open(self, run: RunInfo) -> None:
        try:
            import zenoh
        except ImportError as error:
            raise RecordError('--zenoh needs Zenoh: pip install "edgevae[zenoh]".') from error

        self._run = run
        try:
            session = self._session = zenoh.open(self._config())
            self._token = session.liveliness().declare_token(f"{self.key}/alive")
            self._queryable = session.declare_queryable(f"{self.key}/source", self._answer)
            # Late is worse than lost on a live stream; of a file every latent shall arrive.
            control = zenoh.CongestionControl.DROP if run.live else zenoh.CongestionControl.BLOCK
            self._publisher = session.declare_publisher(
                f"{self.key}/latent",
                encoding=zenoh.Encoding.APPLICATION_OCTET_STREAM,
                congestion_control=control,
                express=run.live,  # at once, not in batches
            )
        except zenoh.ZError as error:
            self.close()
            raise self._failed(error) from error
        self._say_state()

    def write(self, row: Row) -> None:
        import zenoh

        payload, attachment = pack(row, self._run)
        try:
            self._publisher.put(payload, attachment=attachment)
        except zenoh.ZError as error:
            raise self._failed(error) from error
        self.rows += 1

    def source_changed(self, lost: str) -> None:
        self._lost = lost
        self._say_state()

    def flush(self) -> None:
        """Notice that the peer we connected to is gone, which ``put`` does not."""
        if self._session is not None and not self._listens:
            info = self._session.info
            if not (info.peers_zid() or info.routers_zid()):
                raise RecordError(
                    f"the Zenoh peer at {self._locator} is gone; start it again, or check the network."
                )

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()  # type: ignore[no-untyped-call]

    def _config(self) -> zenoh.Config:
        import zenoh

        config = zenoh.Config()
        settings = {
            "mode": "peer",
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": False,
            "listen/endpoints": [self._locator] if self._listens else [],
            "connect/endpoints": [] if self._listens else [self._locator],
            "connect/timeout_ms": CONNECT_TIMEOUT_MS,
            "connect/exit_on_failure": True,
        }
        for name, value in settings.items():
            config.insert_json5(name, json.dumps(value))
        return config

    def _say_state(self) -> None:
        import zenoh

        assert self._session is not None
        try:
            self._session.put(
                f"{self.key}/source",
                self._state(),
                encoding=zenoh.Encoding.APPLICATION_JSON,
                congestion_control=zenoh.CongestionControl.BLOCK,
            )
        except zenoh.ZError as error:
            raise self._failed(error) from error

    def _state(self) -> bytes:
        about = {"version": VERSION, "source": self._run.source, "lost": self._lost or None}
        return json.dumps(about, separators=(",", ":")).encode()

    def _answer(self, query: zenoh.Query) -> None:
        with query:
            query.reply(f"{self.key}/source", self._state())

    def _failed(self, error: Exception) -> RecordError:
        reason = str(error).split(" at ")[0].rstrip(".")
        if self._listens:
            return RecordError(f"Zenoh cannot publish on {self._locator}: {reason}; is the port taken?")
        return RecordError(
            f"Zenoh cannot reach {self._locator}: {reason}; start the peer or router there, or let others "
            f"connect here with --zenoh listen:{self._locator}."
        )

"""The master's end of the wire: the workers' socket, and who may use it.

- `router.Router` reads, decodes and sends the messages of `apbmm_common.protocol.messages`.
- `authentication.Authenticator` enforces the allow-list on the workers' and the status socket.
- `refusals.Refusals` counts what was refused; `refusals.NotAllowedError` is a message that its
  sender's key does not permit.

`allow_list` is for this room only. The room knows nothing of the run: what a message means is for
`apbmm_master.scheduling` to say.
"""

from __future__ import annotations

from apbmm_master.wire.authentication import STATUS, Authenticator
from apbmm_master.wire.refusals import NotAllowedError, Refusals
from apbmm_master.wire.router import Received, Router, bind_hint, flush

__all__ = [
    "STATUS",
    "Authenticator",
    "NotAllowedError",
    "Received",
    "Refusals",
    "Router",
    "bind_hint",
    "flush",
]

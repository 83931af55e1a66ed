"""What master and worker say to each other, and how.

- `messages` is the whole wire format; `codec` turns messages into frames and back.
- `answers` packs the answers of an unfinished evaluation, which the master keeps.
- `curve_keys` keeps CURVE keys on disk and gives them to sockets.
- `addresses` checks addresses from the command line.
- `socket_monitor` says why a connection failed.

All of them are for any other package. `PROTOCOL_VERSION` is in `apbmm_common`.
"""

__all__ = ["addresses", "answers", "codec", "curve_keys", "messages", "socket_monitor"]

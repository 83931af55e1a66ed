"""`python -m apbmm.dashboard RUN_DIR DESCRIPTOR`, which a master starts beside itself.

The descriptor is that of a socket that listens on the loopback interface.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from apbmm.dashboard.command import serve_beside_master

if __name__ == "__main__":
    serve_beside_master(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))

"""`python -m apbmm_master.followers.metrics RUN_DIR DESCRIPTOR`, which a master starts.

The descriptor is that of a socket that listens.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from apbmm_master.followers.metrics.server import serve_until
from apbmm_master.followers.process import FollowedMaster

if __name__ == "__main__":
    master = FollowedMaster()
    serve_until(master.ended, socket.socket(fileno=int(sys.argv[2])), Path(sys.argv[1]))

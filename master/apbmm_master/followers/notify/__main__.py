"""`python -m apbmm_master.followers.notify RUN_DIR SEQ`, which a master starts.

SEQ is the number of the journal's last event at that time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from apbmm_master.followers.following import only_one
from apbmm_master.followers.notify.telling import tell_of
from apbmm_master.followers.process import FollowedMaster

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    master = FollowedMaster()
    lock = only_one(folder, "notify")
    tell_of(folder, master, int(sys.argv[2]))

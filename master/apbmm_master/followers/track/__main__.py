"""`python -m apbmm_master.followers.track RUN_DIR KIND`, which a master starts."""

from __future__ import annotations

import sys
from pathlib import Path

from apbmm_master.followers.following import only_one
from apbmm_master.followers.process import FollowedMaster
from apbmm_master.followers.track.kinds import opener
from apbmm_master.followers.track.sending import track

if __name__ == "__main__":
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    master = FollowedMaster()
    lock = only_one(folder, "track")
    sys.exit(track(folder, opener(kind), master))

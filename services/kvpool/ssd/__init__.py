"""The disk tier: blocks on the host's own disk, found again after a restart.

    data    the blocks' bytes, in one preallocated file
    index   what lies where: a log, with its records in `record`
    tier    both behind one asynchronous face

`opened` gives a DiskTier.
"""

from services.kvpool.ssd.opening import opened
from services.kvpool.ssd.tier import DiskTier

__all__ = ["DiskTier", "opened"]

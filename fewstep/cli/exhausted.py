"""Where a machine has no more to give (floor 6): a full disk, a folder that cannot be written, too little memory; in words."""

from __future__ import annotations

import errno

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def exhausted(error: BaseException, where: str = "a file") -> str:
    """What a person should know and do; "" of other errors. Of a full disk the system does not always say `where`; of memory
    XLA says the same on every device."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            "out of memory. It takes less with --tasks-at-once 1, --meta-gradient exact, or fewer tasks in --meta-batch-size; "
            "--dry-run says how much a meta-step takes. What was saved before is whole."
        )
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        found = f"{error.filename or where} cannot be written ({error.strerror})."
        return f"{found} Make room, or choose a folder that you may write to; what was saved before is whole."
    return ""

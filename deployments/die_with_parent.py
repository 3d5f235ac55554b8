"""python die_with_parent.py PARENT PROGRAM ARGUMENT...: becomes the program, and dies
with its parent.

The kernel sends SIGKILL when the parent is gone, however it went. Standard library
only: each part starts through it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """On systems without prctl a killed parent leaves its parts running."""
    if sys.platform == "linux":
        # It stays over execv, but for a program with more rights than its user.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            sys.exit(1)  # it went before the kernel was asked
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()

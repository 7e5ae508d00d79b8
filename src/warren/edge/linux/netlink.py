"""pyroute2's IPRoute, without what else pyroute2 brings.

Its package file imports everything it has (a database, plan9, wireless, 200 modules): a quarter
of a second and 6 MB in a daemon that lists addresses and sets routes. The package is entered
without running that file, and left as not yet imported: whoever else wants pyroute2 in this
process gets it whole. Importing this file takes a tenth of a second all the same, so it is
done off the event loop, or when the first address is asked for.
"""

from __future__ import annotations

import importlib.util
import sys

_entered = None
if "pyroute2" not in sys.modules and (spec := importlib.util.find_spec("pyroute2")) is not None:
    sys.modules["pyroute2"] = _entered = importlib.util.module_from_spec(spec)

from pyroute2.iproute.linux import IPRoute  # type: ignore[import-untyped]  # noqa: E402
from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]  # noqa: E402
    NetlinkError,
)

if _entered is not None:
    del sys.modules["pyroute2"]

__all__ = ["IPRoute", "NetlinkError"]

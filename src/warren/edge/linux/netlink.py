"""pyroute2's IPRoute, without what else pyroute2 brings.

Its package file imports everything it has (a database, plan9, wireless, 200 modules): a quarter
of a second and 6 MB in a daemon that lists addresses and sets routes. The package is entered
without running that file. Importing this file takes a tenth of a second all the same, so it is
done off the event loop, or when the first address is asked for.
"""

from __future__ import annotations

import importlib.util
import sys

if "pyroute2" not in sys.modules and (spec := importlib.util.find_spec("pyroute2")) is not None:
    sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)

from pyroute2.iproute.linux import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]
    NetlinkError,
)

__all__ = ["IPRoute", "NetlinkError"]

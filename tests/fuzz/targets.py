"""All targets, by name."""

from tests.fuzz.control import CONTROL
from tests.fuzz.kernels import KERNELS
from tests.fuzz.streams import STREAMS
from tests.fuzz.target import Target
from tests.fuzz.tls import TLS
from tests.fuzz.tunnels import TUNNELS

TARGETS: dict[str, type[Target]] = {target.name: target for target in [*KERNELS, *CONTROL, *STREAMS, *TUNNELS, *TLS]}

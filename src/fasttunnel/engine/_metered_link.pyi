from fasttunnel.control.rates import Bucket
from fasttunnel.engine._link import Link

class MeteredLink(Link):
    """A tunnel with a limit of payload bytes a second."""

    def go_on(self) -> None: ...

def metered(link: Link, bucket: Bucket) -> MeteredLink: ...

"""The command line: `fasttunnel server`, `client` and those that go with them."""

import click

from fasttunnel.cli.cert import cert
from fasttunnel.cli.client import client
from fasttunnel.cli.completion import completion
from fasttunnel.cli.config import config
from fasttunnel.cli.demo import demo
from fasttunnel.cli.doctor import doctor
from fasttunnel.cli.login import login, logout
from fasttunnel.cli.server import server
from fasttunnel.cli.short import grpc, http
from fasttunnel.cli.tap import tap
from fasttunnel.cli.token import token
from fasttunnel.cli.version import version
from fasttunnel.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fasttunnel")
def main() -> None:
    """A reverse tunnel for HTTP, WebSocket and gRPC.

    \b
    See it work on this machine:
        fasttunnel demo

    \b
    Put an app that listens on port 3000 behind a tunnel:
        fasttunnel server --no-token
        fasttunnel client --server 127.0.0.1:7000 http://127.0.0.1:3000
        curl http://127.0.0.1:8080/

    \b
    The same on two machines; the server shows a token, and login asks for it:
        server$ fasttunnel server --listen 0.0.0.0:80 --tunnel 0.0.0.0:7000
        laptop$ fasttunnel login server.example.com:7000
        laptop$ fasttunnel http 3000

    \b
    With TLS, and certificates for trying it out; it says which options use them:
        fasttunnel cert certs

    \b
    Something does not work:
        fasttunnel doctor client client.toml

    \b
    Exit codes: 0 stopped as asked, 2 wrong option or file, 3 cannot listen, 4 no such server,
    5 token refused, 6 route refused, 7 not built, 1 anything else.
    """


main.add_command(server)
main.add_command(client)
main.add_command(http)
main.add_command(grpc)
main.add_command(login)
main.add_command(logout)
main.add_command(config)
main.add_command(token)
main.add_command(cert)
main.add_command(demo)
main.add_command(tap)
main.add_command(doctor)
main.add_command(version)
main.add_command(completion)

"""The demo as a person sees it: the parts, the checks, and a table of what went through the tunnel."""

import asyncio
import socket
from contextlib import AsyncExitStack

import aiohttp
import grpc
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from fasttunnel.api import Client, EngineName, Server
from fasttunnel.cli.running import stop_signal
from fasttunnel.control.config import DEFAULT_LISTEN, DEFAULT_TUNNEL, parse_address
from fasttunnel.control.log import Events, RequestRecord
from fasttunnel.control.routes import format_address
from fasttunnel.demo import backends
from fasttunnel.demo.traffic import STEP_TIMEOUT_S, Traffic
from fasttunnel.errors import FasttunnelError, GrpcStatus, ResetCode


class Records(Events):
    """Collects what the server says of finished requests."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.finished: list[RequestRecord] = []
        self._console = console
        self._more = asyncio.Event()
        self.request_done = self._request_done

    def _request_done(self, record: RequestRecord) -> None:
        self.finished.append(record)
        self._more.set()

    async def wait_for(self, count: int) -> None:
        """Until `count` requests are finished; gives up after a second without another one."""
        while len(self.finished) < count:
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), 1)
            except TimeoutError:
                return

    def warning(self, text: str) -> None:
        self._console.print(f"  warning: {text}", style="yellow", markup=False)


async def run(keep: bool, engine: EngineName | None = None) -> None:
    """The whole demo. Raises FasttunnelError when an answer was wrong."""
    console = Console(highlight=False)
    asked_to_stop = stop_signal(lambda text: None)
    async with AsyncExitStack() as stack:
        records = Records(console)
        behind = await backends.start(stack)
        server = await stack.enter_async_context(
            Server(
                _address(DEFAULT_LISTEN, keep),
                _address(DEFAULT_TUNNEL, keep),
                events=records,
                drain_timeout_s=2,
                engine=engine,
            )
        )
        client = await stack.enter_async_context(Client(server.tunnel, behind.routes, client_id="demo", engine=engine))
        console.print("[bold]A server, a client and three backends[/]")
        console.print(f"  public    {server.public_url}", f"\n  tunnel    {server.tunnel}", sep="")
        width = max(len(url) for url in client.urls)
        for backend, url in zip(behind.routes, client.urls, strict=True):
            console.print(f"  route     {url:<{width}}  ->  {backend.rpartition('=')[2]}", soft_wrap=True)

        wrong = await _check(console, format_address(*server.address), behind.site, records)
        console.print("\n[bold]What the server saw[/]")
        console.print(_table(records.finished, gap=2 if console.width >= 90 else 1))
        if wrong:
            raise FasttunnelError(f"{len(wrong)} of the demo's checks failed", detail=", ".join(wrong))
        console.print("\n[bold green]Every answer was right.[/]")
        if keep:
            _invite(console, server)
            await asked_to_stop.wait()


async def _check(console: Console, address: str, site: backends.Site, records: Records) -> list[str]:
    """Send the traffic and say step by step how it went; the names of the steps that went wrong."""
    wrong = []
    console.print("\n[bold]Traffic through the tunnel[/]")
    async with aiohttp.ClientSession() as http, grpc.aio.insecure_channel(address) as channel:
        steps = Traffic(address, http, channel, site).steps()
        for name, step in steps:
            try:
                await asyncio.wait_for(step(), STEP_TIMEOUT_S)
            except Exception as error:  # whatever a library raises, the demo says which step went wrong
                reason = f"no answer in {STEP_TIMEOUT_S} s" if isinstance(error, TimeoutError) else f"{error!r:.500}"
                console.print(f"  [bold red]wrong[/]  {name}:", end=" ")
                console.print(reason, markup=False, soft_wrap=True)
                wrong.append(name)
            else:
                console.print(f"  [green]ok[/]     {name}", soft_wrap=True)
    await records.wait_for(len(steps))
    if not wrong and len(records.finished) != len(steps):
        wrong.append(f"{len(records.finished)} requests were recorded, not {len(steps)}")
    return wrong


def _table(records: list[RequestRecord], gap: int) -> Table:
    """A line for each request; with a gap of 1 it fits into 80 columns."""
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for name in ("request", "protocol", "what", "end"):
        table.add_column(name, no_wrap=True)
    for name in ("msgs\nup", "\ndown", "bytes\nup", "\ndown", "time\nms"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        call = "/".join(record.path.split("/")[-2:]).rpartition(".")[2]  # "Service/Method"
        table.add_row(
            record.request_id,
            record.protocol,
            call if record.protocol == "grpc" else f"{record.method} {record.path}",
            _end(record),
            f"{record.messages_in:,}",
            f"{record.messages_out:,}",
            decimal(record.bytes_in).replace("bytes", "B"),
            decimal(record.bytes_out).replace("bytes", "B"),
            _milliseconds(record.duration_s),
        )
    return table


def _milliseconds(seconds: float) -> str:
    """Tenths where they say something."""
    return f"{seconds * 1000:.1f}" if seconds < 0.1 else f"{seconds * 1000:,.0f}"


def _end(record: RequestRecord) -> str:
    """How a request ended, in the words of its protocol."""
    if record.reset:
        return ResetCode(record.reset).name.replace("_", " ")
    return GrpcStatus(record.status).name.replace("_", " ") if record.protocol == "grpc" else str(record.status)


def _invite(console: Console, server: Server) -> None:
    url = server.public_url
    address = url.removeprefix("http://")
    console.print(
        f"\n[bold]It stays up until Ctrl-C. Try[/]\n"
        f"  in a browser   {url}/\n"
        f"  download       curl -o /dev/null '{url}/download?bytes=100000000'\n"
        f"  upload         curl --data-binary @FILE {url}/upload\n"
        f"  events         curl -N {url}/events\n"
        f"  WebSocket      python -m websockets ws://{address}/ws\n"
        f"  gRPC           grpcurl -plaintext -proto proto/fasttunnel/demo/v1/demo.proto \\\n"
        f'                   -d \'{{"text": "you"}}\' {address} fasttunnel.demo.v1.Demo/Greet\n'
        f"  another app    fasttunnel client --server {server.tunnel} app.localhost=http://127.0.0.1:3000",
        soft_wrap=True,
        markup=True,
    )


def _address(preferred: str, keep: bool) -> str:
    """The default address when the demo stays up and the port is free, else a free port."""
    host, port = parse_address(preferred)
    if keep:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                pass
            else:
                return preferred
    return f"{host}:0"

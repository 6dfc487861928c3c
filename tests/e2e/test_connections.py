"""Several tunnel connections of one client: requests spread over them, and one that is lost costs only its own."""

from contextlib import AsyncExitStack

import fasttunnel
from tests.support.raw import answer, connect, request, start_raw
from tests.support.relay import start_relay
from tests.support.tunnel import eventually, route, start_client, start_server

CONNECTIONS = 3


def links(server: fasttunnel.Server) -> list[dict[str, object]]:
    found: list[dict[str, object]] = server.status()["links"]
    return found


async def test_requests_spread_and_one_lost_costs_its_own(stack: AsyncExitStack) -> None:
    backend = await start_raw(stack)
    server = await start_server(stack)
    relay = await start_relay(stack, server.tunnel)
    spec = route(backend.url, exclusive=True)  # the connections of one client are no rivals
    client = await start_client(stack, relay.address, [spec], connections=CONNECTIONS, backoff_max_s=0.1)
    await eventually(lambda: len(links(server)) == client.status()["tunnels"] == CONNECTIONS)
    assert len({link["client_id"] for link in links(server)}) == 1

    waiting = []
    for number in range(2 * CONNECTIONS):
        public = await connect(stack, *server.address)
        await public.send(request("GET", f"/{number}"))
        far = await backend.accept()
        await far.head()
        waiting.append((public, far))
    assert [link["active_requests"] for link in links(server)] == [2] * CONNECTIONS

    # One of the three is cut: its two requests fail, the other four are answered, and it comes back by itself.
    relay.cut(1)
    await eventually(lambda: server.status()["active_requests"] == 4)
    await eventually(lambda: client.status()["reconnects"] == 1 and len(links(server)) == CONNECTIONS)
    for _, far in waiting:
        await far.send(answer("200 OK", "Connection: close", body=b"fine"))
    heads = [await public.head() for public, _ in waiting]
    assert sorted(head.status for head in heads) == [200] * 4 + [502] * 2

    public = await connect(stack, *server.address)
    for number in range(CONNECTIONS):
        await public.send(request("GET", f"/again/{number}"))
        far = await backend.accept()
        assert (await far.head()).start == f"GET /again/{number} HTTP/1.1"
        await far.send(answer("200 OK", "Connection: close"))
        await public.head()

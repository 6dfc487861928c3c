"""An app for test_streams.py: many streams of server-sent events, and a chat whose answer comes word by word."""

import asyncio
import itertools
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

EVENT_S = 0.1
WORDS = [f"word{number} " for number in range(40)]

PAGE = """<!doctype html><meta charset="utf-8"><title>Streams</title><link rel="icon" href="data:,">
<button id="ask">Ask</button> <button id="stop">Stop</button> <p id="said"></p>
<script type="module">
const count = Number(new URLSearchParams(location.search).get("streams"));
window.seen = Array.from({ length: count }, (_, number) => {
  const got = [], source = new EventSource(`/events/${number}`);
  source.onmessage = ({ data }) => got.push(Number(data));
  return { got, source };
});
window.pieces = 0;
document.querySelector("#ask").onclick = async () => {
  const stop = new AbortController(), said = document.querySelector("#said");
  said.textContent = "";
  document.querySelector("#stop").onclick = () => stop.abort();
  const answer = await fetch("/chat", { method: "POST", body: "tell me", signal: stop.signal });
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
    window.pieces++;
    said.textContent += piece;
  }
};
</script>
"""

abandoned: list[str] = []  # words at which a reader went
steps = asyncio.Semaphore(0)  # words that may be said


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


async def events(request: Request) -> Response:
    """Numbers without an end; a browser that comes back says the last one that it has."""

    async def numbers() -> AsyncIterator[str]:
        yield "retry: 300\n\n"
        for number in itertools.count(int(request.headers.get("last-event-id", -1)) + 1):
            yield f"id: {number}\ndata: {number}\n\n"
            await asyncio.sleep(EVENT_S)

    return StreamingResponse(numbers(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def chat(request: Request) -> Response:
    assert await request.body() == b"tell me"

    async def answer() -> AsyncIterator[str]:
        for word in WORDS:
            yield word
            try:
                await steps.acquire()
            except asyncio.CancelledError:
                abandoned.append(word)
                raise

    return StreamingResponse(answer(), media_type="text/plain")


async def step(request: Request) -> Response:
    """The next word: the last one has been read."""
    steps.release()
    return PlainTextResponse("")


async def left(request: Request) -> Response:
    return PlainTextResponse(str(len(abandoned)))


app = Starlette(
    routes=[
        Route("/", page),
        Route("/events/{number}", events),
        Route("/chat", chat, methods=["POST"]),
        Route("/step", step, methods=["POST"]),
        Route("/left", left),
    ]
)

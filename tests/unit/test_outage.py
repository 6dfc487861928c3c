"""Routes that nobody serves at the moment."""

from fasttunnel import limits
from fasttunnel.control.outage import Outages
from fasttunnel.control.routes import GRPC, HTTP, Route

SHOP, EVERYTHING = Route(host="shop.example"), Route()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_route_is_remembered_for_a_while() -> None:
    clock = Clock()
    outages = Outages(0, clock)
    assert not outages.covers(HTTP, "shop.example", "/")
    outages.begin("one", [SHOP])
    assert outages.covers(HTTP, "shop.example:8080", "/a")
    assert not outages.covers(HTTP, "other.example", "/")
    clock.now_s = limits.OUTAGE_S - 1
    assert outages.covers(GRPC, "shop.example", "/pkg.Service/Method")
    clock.now_s = limits.OUTAGE_S
    assert not outages.covers(HTTP, "shop.example", "/")


def test_it_is_over_when_the_client_is_back() -> None:
    outages = Outages(0, Clock())
    outages.begin("one", [SHOP])
    outages.begin("two", [EVERYTHING])
    outages.end("two")
    assert not outages.covers(HTTP, "other.example", "/")
    assert outages.covers(HTTP, "shop.example", "/")
    outages.end("one")
    outages.end("never came")
    assert not outages.covers(HTTP, "shop.example", "/")


def test_a_longer_queue_is_remembered_longer() -> None:
    clock = Clock()
    outages = Outages(2 * limits.OUTAGE_S, clock)
    clock.now_s = 2 * limits.OUTAGE_S
    outages.begin("one", [SHOP])
    clock.now_s += 2 * limits.OUTAGE_S - 1
    assert outages.covers(HTTP, "shop.example", "/")


def test_a_server_that_has_just_started_knows_nobody_yet() -> None:
    clock = Clock()
    outages = Outages(5, clock)
    assert outages.covers(HTTP, "shop.example", "/")
    clock.now_s = 5
    assert not outages.covers(HTTP, "shop.example", "/")


def test_exclusive_routes_of_two_are_no_conflict() -> None:
    outages = Outages(0, Clock())
    for client in ("one", "two", "one"):
        outages.begin(client, [Route(host="shop.example", exclusive=True)])
    outages.end("one")
    assert outages.covers(HTTP, "shop.example", "/")


def test_what_is_remembered_is_bounded() -> None:
    outages = Outages(0, Clock())
    each = limits.ROUTES_PER_CLIENT
    for number in range(limits.REMEMBERED_ROUTES // each + 1):
        outages.begin(str(number), [Route(host=f"{route}.{number}.example") for route in range(each)])
    assert not outages.covers(HTTP, "0.0.example", "/"), "the oldest is forgotten"
    assert outages.covers(HTTP, "0.1.example", "/")

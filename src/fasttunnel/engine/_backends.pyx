"""From a request of the tunnel to a backend. Only what the client's own configuration names is ever connected to, whatever
a message says; the routes are matched again here, by the same rules as at the server."""
from fasttunnel._core cimport (
    HeaderIter, MSG_GRPC_REQUEST, MSG_WS_REQUEST, Msg, PROTO_GRPC, PROTO_HTTP, Slice, TAG_GRPC_REQUEST_METADATA,
    TAG_HTTP_REQUEST_HEADERS, TAG_WS_REQUEST_HEADERS, hdr_is, msg_headers, msg_next_header,
)
from fasttunnel.engine._backend_http1 cimport open_request
from fasttunnel.engine._backend_http2 cimport open_call
from fasttunnel.engine._backend_websocket cimport open_websocket
from fasttunnel.engine._exchange cimport Endpoint, Exchange
from fasttunnel.engine._record cimport label_of, parent_of, slice_of
from fasttunnel.engine._tally cimport Tallies
from fasttunnel.engine._target cimport Plan, Target, text_of
from fasttunnel.control import counts


cdef class Backends(Acceptor):
    def __init__(self, routes, Tallies tallies not None, bint recording, bint tracing):
        self.routes = routes
        self.tallies = tallies
        self.recording = recording
        self.tracing = tracing
        self.counted = {}

    def count(self, routes):
        """These routes are the client's, and are told apart; others are for requests to itself."""
        self.counted = {id(route): self.tallies.route(str(route)) for route in routes}

    cdef object tally(self, object route):
        cdef object found = self.counted.get(id(route))
        return self.tallies.route(counts.OWN) if found is None else found

    cdef Endpoint accept(self, Exchange exchange, const Msg *m):
        cdef Plan plan = Plan()
        cdef object found, route
        cdef bytes parent_id = None         # held until it is copied
        plan.host = text_of(&m.host)
        if m.kind == MSG_GRPC_REQUEST:
            plan.url = b"/" + text_of(&m.service) + b"/" + text_of(&m.method)
        else:
            plan.url = text_of(&m.url)
        found = self.routes.match_any(exchange.protocol)
        if found is None:
            found = self.routes.match(exchange.protocol, plan.host.decode("latin-1"),
                                      plan.url.partition(b"?")[0].decode("latin-1"))
        if exchange.protocol == PROTO_GRPC:
            exchange.method = plan.url
        self.tallies.began(exchange, self.tally(found[0]) if found is not None else None)
        if self.recording:
            if self.tracing and m.trace_id.len:
                parent_id = parent_in(m)
            exchange.label = label_of(m.method if m.kind != MSG_WS_REQUEST else slice_of(b"GET"), slice_of(plan.host),
                                      slice_of(plan.url), m.trace_id, slice_of(parent_id),
                                      slice_of((<Target>found[1]).name if found is not None else None))
        if found is None:
            return None
        route, plan.target = found
        if route.strip_prefix and route.path_prefix and m.kind != MSG_GRPC_REQUEST:
            plan.url = plan.url[len(route.path_prefix):]
            if plan.url[:1] != b"/":
                plan.url = b"/" + plan.url
        if route.host_rewrite:
            plan.host = route.host_rewrite.encode()
        if exchange.protocol == PROTO_HTTP:
            return open_request(plan)
        if exchange.protocol == PROTO_GRPC:
            return open_call(plan)
        return open_websocket(plan)


cdef bytes parent_in(const Msg *m):
    """The span that asked for this request, if its trace is recorded."""
    cdef HeaderIter it
    cdef Slice name, value
    msg_headers(m, TAG_GRPC_REQUEST_METADATA if m.kind == MSG_GRPC_REQUEST
                else TAG_WS_REQUEST_HEADERS if m.kind == MSG_WS_REQUEST else TAG_HTTP_REQUEST_HEADERS, &it)
    while msg_next_header(&it, &name, &value):
        if name.len == 11 and hdr_is(name.ptr, 11, "traceparent"):
            return parent_of(value.ptr[:value.len])
    return None

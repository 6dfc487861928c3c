"""Counts of an engine. What a request is counted under is found when it begins; its messages are in the Exchange itself,
so those of requests under way are added when somebody asks, and nothing is looked up for a message.
"""
from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fasttunnel._core cimport PROTO_GRPC, PROTO_WEBSOCKET
from fasttunnel.engine._exchange cimport FLOW_IDLE

from fasttunnel import limits
from fasttunnel.control import counts

cdef enum:
    UNIMPLEMENTED = 12
    TUNNEL_LOST = 9
    WITHOUT_WORD = 1006
    SWITCHING = 101

cdef bytes REACH = counts.REACH.encode()
cdef double BOUNDS_S[BUCKETS - 1]
cdef int _i
for _i in range(BUCKETS - 1):
    BOUNDS_S[_i] = counts.DURATIONS_S[_i]
assert len(counts.DURATIONS_S) == BUCKETS - 1


cdef double monotonic_s() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef inline int bounded(int code, int beyond) noexcept nogil:
    return code if 0 <= code < beyond else beyond


cdef bint established(Exchange exchange) noexcept:
    """A WebSocket whose handshake was answered by a 101."""
    return exchange.receiving != FLOW_IDLE and exchange.sending != FLOW_IDLE and not 100 <= exchange.status < 1000


cdef class RouteTally:
    def __init__(self, str name):
        self.name = name
        self.text = name.encode()


cdef class Tallies:
    def __cinit__(self):
        self.other_route = RouteTally(counts.OTHER)
        self.other_method = MethodTally()
        self.routes = {counts.OTHER: self.other_route}
        self.methods = {}
        self.closes = {}

    def route(self, str name not None):
        """Where the requests of a route are counted. Names come from clients: there is a bound, beyond it all are one."""
        cdef RouteTally found = self.routes.get(name)
        if found is None:
            if len(self.routes) > limits.COUNTED_ROUTES:
                return self.other_route
            found = self.routes[name] = RouteTally(name)
        return found

    cdef int began(self, Exchange exchange, object route) except -1:
        """`route`: what route() has returned, None where there is none."""
        if route is None:
            route = self.route(counts.NO_ROUTE)
        exchange.tally = route
        (<RouteTally>route).flows[exchange.protocol].requests += 1
        return 0

    cdef int refused(self, int protocol, int status) noexcept:
        """An answer of ours to a request that was never in a tunnel."""
        if 0 < status < STATUSES:
            self.refusals[protocol][status] += 1
        return 0

    cdef int ended(self, Exchange exchange, double duration_s) except -1:
        cdef int protocol = exchange.protocol, status = exchange.status, i = 0
        cdef int sent = exchange.direction - 1, received = 2 - exchange.direction
        cdef int reset = bounded(exchange.reset_code, RESETS - 1) if exchange.reset_code > 0 else 0
        cdef Flow *flow
        cdef MethodTally method
        while i < BUCKETS - 1 and duration_s > BOUNDS_S[i]:
            i += 1
        self.durations[protocol][i] += 1
        self.duration_s[protocol] += duration_s
        if exchange.tally is not None:
            flow = &(<RouteTally>exchange.tally).flows[protocol]
            flow.messages[sent] += exchange.messages_sent
            flow.messages[received] += exchange.messages_received
            flow.payload_bytes[sent] += exchange.bytes_sent
            flow.payload_bytes[received] += exchange.bytes_received
        if reset:
            self.resets[protocol][reset] += 1
        if protocol == PROTO_GRPC:
            method = self.methods.get(exchange.method)
            if method is None:
                # Names come from strangers. One that a backend has served is a name; there is a bound on those as well.
                if (reset or status == UNIMPLEMENTED or exchange.method is None
                        or len(self.methods) >= limits.COUNTED_METHODS or exchange.method.startswith(REACH)):
                    method = self.other_method
                else:
                    method = self.methods[exchange.method] = MethodTally()
            method.messages[sent] += exchange.messages_sent
            method.messages[received] += exchange.messages_received
            if reset and status == 0:
                method.unanswered[reset] += 1
            else:
                method.statuses[bounded(status, GRPC_STATUSES - 1)] += 1
        elif protocol == PROTO_WEBSOCKET and established(exchange):
            self.statuses[protocol][SWITCHING] += 1
            if status:
                self.count_close(status)
            elif reset == TUNNEL_LOST and self.lost_close:
                self.count_close(self.lost_close)
            elif reset:
                self.broken[reset] += 1
            else:
                self.count_close(WITHOUT_WORD)
        elif 200 <= status < STATUSES:
            self.statuses[protocol][status] += 1
        else:
            self.unanswered[protocol][reset] += 1
        return 0

    cdef int count_close(self, int code) except -1:
        """Close codes come from strangers as well."""
        if code not in self.closes and len(self.closes) >= limits.COUNTED_CLOSE_CODES:
            code = 0
        self.closes[code] = self.closes.get(code, 0) + 1
        return 0

    def told(self, list exchanges not None):
        """Everything, as control.counts.Counts; `exchanges` are the requests under way."""
        made = counts.Counts()
        cdef RouteTally route
        cdef MethodTally method
        cdef Exchange exchange
        cdef uint64_t n
        cdef int protocol, i
        cdef int sent, received
        for route in self.routes.values():
            for protocol, name in counts.PROTOCOLS.items():
                if route.flows[protocol].requests:
                    made.flows[route.name, name] = counts.Flow(
                        route.flows[protocol].requests, 0, list(route.flows[protocol].messages),
                        list(route.flows[protocol].payload_bytes))
        for path, method in [*self.methods.items(), (counts.OTHER.encode(), self.other_method)]:
            told = counts.Method(messages=list(method.messages))
            for i in range(GRPC_STATUSES):
                if method.statuses[i]:
                    told.statuses[i] += method.statuses[i]
            for i in range(RESETS):
                if method.unanswered[i]:
                    told.statuses[counts.grpc_status_of(i)] += method.unanswered[i]
            if told.statuses:
                made.methods[path.decode("latin-1")] = told
        for protocol, name in counts.PROTOCOLS.items():
            for i in range(STATUSES):
                if self.statuses[protocol][i]:
                    made.statuses[name, i] += self.statuses[protocol][i]
                if self.refusals[protocol][i]:
                    made.refusals[name, i] += self.refusals[protocol][i]
            for i in range(RESETS):
                if self.unanswered[protocol][i]:
                    made.unanswered(name, i, self.unanswered[protocol][i])
                if self.resets[protocol][i]:
                    made.resets[name, i] += self.resets[protocol][i]
            made.durations[name] = counts.Durations(list(self.durations[protocol]), self.duration_s[protocol])
        for code, n in self.closes.items():
            made.closes[code] += n
        for i in range(RESETS):
            if self.broken[i]:
                made.closes[counts.close_code_of(i)] += self.broken[i]
        for sent in range(2):
            for i in range(16):
                if self.passed.frames[sent][i]:
                    made.frames[sent, i] += self.passed.frames[sent][i]
            made.exhausted[sent] = self.passed.exhausted[sent]
        for exchange in exchanges:
            if exchange.tally is None:
                continue
            sent, received = exchange.direction - 1, 2 - exchange.direction
            name = counts.PROTOCOLS[exchange.protocol]
            flow = made.flows[(<RouteTally>exchange.tally).name, name]
            flow.active += 1
            flow.messages[sent] += exchange.messages_sent
            flow.messages[received] += exchange.messages_received
            flow.payload_bytes[sent] += exchange.bytes_sent
            flow.payload_bytes[received] += exchange.bytes_received
            if exchange.protocol == PROTO_WEBSOCKET and established(exchange):
                made.statuses[name, SWITCHING] += 1
            elif exchange.protocol == PROTO_GRPC:
                path = exchange.method.decode("latin-1") if exchange.method in self.methods else counts.OTHER
                told = made.methods.setdefault(path, counts.Method())
                told.messages[sent] += exchange.messages_sent
                told.messages[received] += exchange.messages_received
        return made

"""The head of a record is a C struct, its texts lie behind it as they came: to leave one costs two copies of memory."""
import re

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcpy, memset

from fasttunnel._core cimport PROTO_GRPC, Slice

from fasttunnel.control.counts import PROTOCOLS
from fasttunnel.control.log import RequestRecord


cdef inline uint8_t *put(uint8_t *at, Slice *text, uint32_t *n) noexcept:
    n[0] = <uint32_t>text.len
    if text.len:
        memcpy(at, text.ptr, text.len)
    return at + text.len


cdef bytes label_of(Slice method, Slice host, Slice target, Slice trace_id, Slice parent_id, Slice peer):
    """What is known of a request as it begins (Exchange.label). No query: it may hold secrets."""
    cdef const void *query = memchr(target.ptr, 63, target.len) if target.len else NULL         # "?"
    cdef bytes made
    cdef Label *label
    cdef uint8_t *at
    if query != NULL:
        target.len = <const uint8_t *>query - target.ptr
    made = PyBytes_FromStringAndSize(NULL, sizeof(Label) + method.len + host.len + target.len + trace_id.len + parent_id.len
                                     + peer.len)
    label = <Label *>PyBytes_AS_STRING(made)
    at = <uint8_t *>label + sizeof(Label)
    at = put(at, &method, &label.method)
    at = put(at, &host, &label.host)
    at = put(at, &target, &label.path)
    at = put(at, &trace_id, &label.trace_id)
    at = put(at, &parent_id, &label.parent_id)
    put(at, &peer, &label.peer)
    return made


cdef object RECORDED = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})([0-9a-f]{16})-[0-9a-f][13579bdf](?:-.*)?").fullmatch


cdef bytes parent_of(bytes traceparent):
    """The span that asked, of a trace that is recorded (W3C Trace Context 3.2.2.4, 3.2.2.5.1); else None."""
    cdef object found = RECORDED(traceparent) if traceparent is not None else None
    return found[1] if found is not None else None


cdef tuple label_texts(bytes label):
    cdef const Label *sizes
    cdef const char *at
    if label is None:
        return "", "", ""
    sizes = <const Label *><const char *>label
    at = <const char *>label + sizeof(Label)
    return (at[:sizes.method].decode("latin-1"), at[sizes.method:sizes.method + sizes.host].decode("latin-1"),
            at[sizes.method + sizes.host:sizes.method + sizes.host + sizes.path].decode("latin-1"))


cdef int record_pack(const Record *head, bytes label, bytes route, bytes client_id, uint8_t *at) except -1:
    cdef Record *record = <Record *>at
    cdef uint8_t *texts = <uint8_t *>&record.label
    memcpy(record, head, sizeof(Record) - sizeof(Label))
    record.route = <uint32_t>len(route)
    record.client_id = <uint32_t>len(client_id)
    if label is not None:
        memcpy(texts, <const char *>label, len(label))
        texts += len(label)
    else:
        memset(texts, 0, sizeof(Label))
        texts += sizeof(Label)
    memcpy(texts, <const char *>route, len(route))
    memcpy(texts + len(route), <const char *>client_id, len(client_id))
    return 0


cdef inline const uint8_t *cut(Slice *text, const uint8_t *at, size_t n) noexcept nogil:
    text.ptr = at
    text.len = n
    return at + n


cdef void record_texts(const Record *record, Texts *texts) noexcept nogil:
    cdef const uint8_t *at = <const uint8_t *>&record.label + sizeof(Label)
    cdef size_t i
    at = cut(&texts.method, at, record.label.method)
    at = cut(&texts.host, at, record.label.host)
    at = cut(&texts.path, at, record.label.path)
    at = cut(&texts.trace_id, at, record.label.trace_id)
    at = cut(&texts.parent_id, at, record.label.parent_id)
    at = cut(&texts.peer, at, record.label.peer)
    at = cut(&texts.route, at, record.route)
    cut(&texts.client_id, at, record.client_id)
    cut(&texts.id, record.id, record.id_len)
    if record.protocol == PROTO_GRPC:       # the method of a call is the last part of its path
        i = texts.path.len
        while i and texts.path.ptr[i - 1] != 47:            # "/"
            i -= 1
        cut(&texts.method, texts.path.ptr + i, texts.path.len - i)


cdef str latin1(const Slice *text):
    return (<const char *>text.ptr)[:text.len].decode("latin-1")


cdef str utf8(const Slice *text):
    return (<const char *>text.ptr)[:text.len].decode("utf-8", "replace")


cdef object record_read(const Record *record):
    cdef Texts texts
    record_texts(record, &texts)
    return RequestRecord(
        latin1(&texts.id), PROTOCOLS[record.protocol], latin1(&texts.host), latin1(&texts.method), latin1(&texts.path),
        record.status, record.reset if record.reset >= 0 else None, record.messages_in, record.messages_out,
        record.bytes_in, record.bytes_out, record.duration_us / 1e6, utf8(&texts.route), latin1(&texts.trace_id),
        utf8(&texts.client_id), utf8(&texts.peer), latin1(&texts.parent_id))

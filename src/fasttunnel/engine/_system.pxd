"""What the data plane calls of the system: sockets and epoll. Declarations only; the header evens the systems out."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    cdef struct linger:
        int l_onoff
        int l_linger
    ssize_t c_recv "recv"(int fd, void *data, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void *data, size_t n, int flags)
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr *message, int flags)
    int c_connect "connect"(int fd, const sockaddr *address, socklen_t n)
    int c_shutdown "shutdown"(int fd, int how)
    int c_setsockopt "setsockopt"(int fd, int level, int name, const void *value, socklen_t n)
    int c_getsockopt "getsockopt"(int fd, int level, int name, void *value, socklen_t *n)
    int c_getpeername "getpeername"(int fd, sockaddr *address, socklen_t *n)
    enum:
        AF_INET
        AF_INET6
        SOL_SOCKET
        SO_ERROR
        SO_LINGER
        SHUT_WR


cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t ntohs(uint16_t port)
    uint16_t htons(uint16_t port)
    enum:
        IPPROTO_TCP


cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t n)
    int inet_pton(int family, const char *text, void *address)


cdef extern from "socket_compat.h" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int ft_accept(int fd)                       # non-blocking, closed on exec
    int ft_socket(int family)                   # TCP, the same
    int ft_epoll_create()                       # -1 where there is none
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int n, int timeout_ms)
    int c_close "close"(int fd)
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLPRI
        EPOLLERR
        EPOLLHUP
        EPOLLRDHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        MSG_NOSIGNAL
        TCP_NODELAY
    const uint32_t EPOLLET

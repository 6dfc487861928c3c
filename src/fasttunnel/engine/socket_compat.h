/* What differs between systems: epoll and accept4 are Linux's. Elsewhere the event loop watches each socket by itself. */
#ifndef FASTTUNNEL_SOCKET_COMPAT_H
#define FASTTUNNEL_SOCKET_COMPAT_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static inline int ft_prepare(int fd) {
    if (fd < 0)
        return fd;
#ifdef SO_NOSIGPIPE
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

#ifdef __linux__

#include <sys/epoll.h>

static inline int ft_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); }
static inline int ft_socket(int family) { return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }
static inline int ft_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

#else

struct epoll_event {
    uint32_t events;
    union { uint64_t u64; } data;
};
enum { EPOLLIN = 1, EPOLLPRI = 2, EPOLLOUT = 4, EPOLLERR = 8, EPOLLHUP = 16, EPOLLRDHUP = 0x2000, EPOLL_CTL_ADD = 1, EPOLL_CTL_MOD = 3 };
#define EPOLLET 0x80000000u

static inline int ft_accept(int fd) { return ft_prepare(accept(fd, NULL, NULL)); }
static inline int ft_socket(int family) { return ft_prepare(socket(family, SOCK_STREAM, 0)); }
static inline int ft_epoll_create(void) { errno = ENOSYS; return -1; }
static inline int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event) { (void)epoll, (void)op, (void)fd, (void)event; return -1; }
static inline int epoll_wait(int epoll, struct epoll_event *events, int n, int timeout) { (void)epoll, (void)events, (void)n, (void)timeout; return -1; }

#endif
#endif

#pragma once
#include <microhttpd.h>

/// MHD_start_daemon, which is variadic: one thread that serves an IP socket which listens already and is closed with the daemon.
///
/// memory: bytes for each connection's request and answer head. seconds: without a byte, after which a connection is ended.
static inline struct MHD_Daemon *tm_mhd_start(
    int listener, MHD_AccessHandlerCallback answer, MHD_NotifyConnectionCallback notify, void *context, unsigned int connections,
    unsigned int seconds, size_t memory) {
    return MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, answer, context, MHD_OPTION_LISTEN_SOCKET, listener,
        MHD_OPTION_CONNECTION_LIMIT, connections, MHD_OPTION_CONNECTION_TIMEOUT, seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, memory,
        MHD_OPTION_NOTIFY_CONNECTION, notify, context, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
}

/// MHD_get_connection_info, which is variadic, for the connection's socket; -1: there is none.
static inline int tm_mhd_socket(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

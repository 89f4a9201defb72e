#include <libpq-fe.h>
#include <sys/eventfd.h>
#include <stdint.h>

/// A descriptor that becomes readable when it is written to.
static inline int tidemark_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <malloc.h>
#include <sys/syscall.h>
#include <unistd.h>

/// syncfs(2), which the C library shows only to those who ask for GNU's extensions.
static inline int tidemark_syncfs(int descriptor) { return (int)syscall(SYS_syncfs, descriptor); }

/// Lets large blocks come from the system and go back to it, however many were freed before, and keeps the heaps of many threads few.
static inline void tidemark_return_memory(void) {
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_ARENA_MAX, 4);
}

/// pipe2(2), for the same reason: a pipe that no other thread's child inherits.
static inline int tidemark_pipe2(int ends[2], int flags) { return (int)syscall(SYS_pipe2, ends, flags); }

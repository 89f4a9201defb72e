#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/// syncfs(2), which the C library shows only to those who ask for GNU's extensions.
static inline int tidemark_syncfs(int descriptor) { return (int)syscall(SYS_syncfs, descriptor); }

#pragma once
#include <stddef.h>
#include <stdint.h>

/// Continues a CRC-32C (Castagnoli) over `count` bytes. Start with 0xFFFFFFFF and invert the last result.
uint32_t tidemark_crc32c(uint32_t crc, const void *bytes, size_t count);

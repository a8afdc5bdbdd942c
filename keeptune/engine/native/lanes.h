/* What the kernels share: the numbers that they read and write, and vectors as wide as the processor's registers. Sources are
 * compiled once for each kind of number; whatever they add up is float32. */

#ifndef KEEPTUNE_LANES_H
#define KEEPTUNE_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#ifdef FLOAT32

typedef float number;

INLINE float wide(number x) { return x; }
INLINE number narrow(float f) { return f; }

#else

typedef uint16_t number; /* bfloat16: the upper half of a float32 */

INLINE float wide(number x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To the nearest, ties to even, as torch rounds. */
INLINE number narrow(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return f == f ? (number)nearest : (number)0x7fc0u;
}

#endif

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }
INLINE int64_t up(int64_t n, int64_t multiple) { return parts_of(n, multiple) * multiple; }

#endif

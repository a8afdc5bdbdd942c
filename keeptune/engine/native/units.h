/* Units: what one multiplication takes at a time from each side, a float32, or two bfloat16 that follow each other along
 * the sum. All of them have 32 bits, so that they lie, spread and turn alike. */

#ifndef KEEPTUNE_UNITS_H
#define KEEPTUNE_UNITS_H

#include "lanes.h"

#ifdef FLOAT32
#define UNIT 1 /* numbers */
#else
#define UNIT 2
#endif

#if !defined(FLOAT32) && defined(__AVX512BF16__)
#define TWOS /* the processor has a multiplication of two bfloat16 */
#include <immintrin.h>
#endif

typedef uint32_t unit;
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define UNROLLED _Pragma("GCC unroll 32") for

INLINE lanes one_of_each(const unit *from) { return *(const lanes *)from; }

INLINE lanes one_for_all(const unit *from) { return (lanes)((whole){0} + (int32_t)*from); }

INLINE lanes multiplied(lanes sum, lanes a, lanes b)
{
#if defined(FLOAT32)
    return sum + a * b;
#elif defined(TWOS)
    return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    whole x = (whole)a, y = (whole)b; /* the upper half of each is a float32 as it stands */
    return sum + (lanes)(x << 16) * (lanes)(y << 16) + (lanes)(x & ~0xffff) * (lanes)(y & ~0xffff);
#endif
}

/* to[j][i] = from[i][j], the rows of each side `from_stride` and `to_stride` units apart. */
INLINE void turned(unit *to, int64_t to_stride, const unit *from, int64_t from_stride)
{
#ifdef __clang__
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++)
            to[j * to_stride + i] = from[i * from_stride + j];
#else
    whole r[LANES], place;
    UNROLLED(int i = 0; i < LANES; i++)
    {
        place[i] = i;
        r[i] = *(const whole *)(from + i * from_stride);
    }
    UNROLLED(int d = LANES / 2; d; d /= 2) /* blocks of d by d off the diagonal change places */
    {
        whole low = place + (place & d) / d * (LANES - d), high = low + d;
        UNROLLED(int i = 0; i < LANES; i++)
        if (!(i & d)) {
            whole a = r[i], b = r[i + d];
            r[i] = __builtin_shuffle(a, b, low);
            r[i + d] = __builtin_shuffle(a, b, high);
        }
    }
    UNROLLED(int i = 0; i < LANES; i++) *(whole *)(to + i * to_stride) = r[i];
#endif
}

#endif

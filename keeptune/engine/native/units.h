/* Units: what one multiplication takes at a time from each side, a float32, or two bfloat16 that follow each other along
 * the sum. All of them have 32 bits, so that they lie, spread and turn alike. */

#ifndef KEEPTUNE_UNITS_H
#define KEEPTUNE_UNITS_H

#include "vectors.h"

#ifdef FLOAT32
#define UNIT 1 /* numbers */
#else
#define UNIT 2
#endif

typedef uint32_t unit __attribute__((may_alias));

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

/* The unit of a column of two rows, which follow each other along the sum. */
INLINE unit both(const number *row, const number *other, int64_t column)
{
#ifdef FLOAT32
    unit found;
    (void)other;
    memcpy(&found, row + column, sizeof found);
    return found;
#else
    return (unit)row[column] | (unit)other[column] << 16;
#endif
}

/* The units of LANES columns. */
INLINE void all_both(unit *to, const number *row, const number *other)
{
#ifdef TWOS
    const __m512i in_turn = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                             20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i behind = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)row)),
                                        _mm256_loadu_si256((const __m256i *)other), 1);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(in_turn, behind));
#else
    for (int i = 0; i < LANES; i++)
        to[i] = both(row, other, i);
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

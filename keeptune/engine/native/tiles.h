/* Tiles of a product: rows times panels, with all sums in registers (Goto and van de Geijn 2008).
 *
 * A unit is what one multiplication takes from each side: a float32, or two bfloat16 that follow each other along the
 * sum. A panel holds, step by step along the sum, one unit for each of its lanes. */

#ifndef KEEPTUNE_TILES_H
#define KEEPTUNE_TILES_H

#include "lanes.h"

#ifdef FLOAT32
#define UNIT 1 /* numbers */
#define MULTIPLIES (LANES == 16)
#else
#define UNIT 2
#ifdef __AVX512BF16__
#include <immintrin.h>
#define MULTIPLIES 1
#else
#define MULTIPLIES 0
#endif
#endif

#define MOST 3                /* vectors of a panel */
#define WIDEST (MOST * LANES) /* lanes of a panel */
#define HIGH 8                /* rows of a tile; with three vectors of sums each they take 24 of 32 registers */

typedef uint32_t unit;
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define UNROLLED _Pragma("GCC unroll 32") for

#if MULTIPLIES

INLINE lanes one_of_each(const unit *from) { return *(const lanes *)from; }

INLINE lanes one_for_all(const unit *from)
{
#ifdef FLOAT32
    float one;
    memcpy(&one, from, sizeof one);
    return one - (lanes){0};
#else
    return (lanes)_mm512_set1_epi32((int)*from);
#endif
}

INLINE lanes multiplied(lanes sum, lanes a, lanes b)
{
#ifdef FLOAT32
    return sum + a * b;
#else
    return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
}

/* LANES sums as numbers. */
INLINE void narrowed(number *to, const float *from)
{
#ifdef FLOAT32
    *(lanes *)to = *(const lanes *)from;
#else
    __m256bh found = _mm512_cvtneps_pbh(_mm512_loadu_ps(from));
    memcpy(to, &found, sizeof found);
#endif
}

/* sums (R, V LANES), one row every WIDEST, = or += rows (R, steps) times a panel (steps, V LANES). Meanwhile it calls for
 * the rows that come next: nobody else can tell the processor where they are. */
#define TILE(NAME, R, V)                                                                                               \
    static void NAME(float *sums, int add, const unit *const *rows, const unit *const *next, const unit *panel,        \
                     int64_t steps)                                                                                    \
    {                                                                                                                  \
        lanes sum[R][V];                                                                                               \
        const unit *row[R];                                                                                            \
        UNROLLED(int r = 0; r < R; r++)                                                                                \
        {                                                                                                              \
            row[r] = rows[r];                                                                                          \
            UNROLLED(int v = 0; v < V; v++)                                                                            \
            sum[r][v] = add ? *(const lanes *)(sums + r * WIDEST + v * LANES) : (lanes){0};                            \
        }                                                                                                              \
        for (int64_t k = 0; k < steps; k++) {                                                                          \
            lanes right[V];                                                                                            \
            __builtin_prefetch(next[k % R] + k, 0, 2);                                                                 \
            UNROLLED(int v = 0; v < V; v++) right[v] = one_of_each(panel + (k * V + v) * LANES);                       \
            UNROLLED(int r = 0; r < R; r++)                                                                            \
            {                                                                                                          \
                lanes left = one_for_all(row[r] + k);                                                                  \
                UNROLLED(int v = 0; v < V; v++) sum[r][v] = multiplied(sum[r][v], left, right[v]);                     \
            }                                                                                                          \
        }                                                                                                              \
        UNROLLED(int r = 0; r < R; r++)                                                                                \
        UNROLLED(int v = 0; v < V; v++) *(lanes *)(sums + r * WIDEST + v * LANES) = sum[r][v];                         \
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
#endif

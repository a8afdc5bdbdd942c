/* Tiles of a product: rows times panels, with all sums in registers (Goto and van de Geijn 2008). A panel holds, step by
 * step along the sum, one unit for each of its lanes. */

#ifndef KEEPTUNE_TILES_H
#define KEEPTUNE_TILES_H

#include "units.h"

#define MOST 3                /* vectors of a panel */
#define WIDEST (MOST * LANES) /* lanes of a panel */
/* Rows of a tile: with three vectors of sums each, 8 of them take 24 of 32 registers. */
#define HIGH (LANES < 8 ? LANES : 8)

/* LANES sums as numbers. */
INLINE void narrowed(number *to, const float *from)
{
#ifdef TWOS
    __m256bh found = _mm512_cvtneps_pbh(_mm512_loadu_ps(from));
    memcpy(to, &found, sizeof found);
#else
    for (int i = 0; i < LANES; i++)
        to[i] = narrow(from[i]);
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

#endif

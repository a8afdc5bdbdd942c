/* Tiles of a product: rows times panels, with all sums in registers (Goto and van de Geijn 2008). A panel holds, step by
 * step along the sum, one unit for each of its lanes. */

#ifndef KEEPTUNE_TILES_H
#define KEEPTUNE_TILES_H

#include "units.h"

#define MOST 3                /* vectors of a panel */
#define WIDEST (MOST * LANES) /* lanes of a panel */
/* Rows of a tile: with three vectors of sums each, 8 of them take 24 of 32 registers. */
#define HIGH (LANES < 8 ? LANES : 8)

/* What a tile multiplies, one behind the other: so many steps of LANES rows. `next`: the rows that come after them, where
 * nobody else can tell the processor. */
struct stretch {
    const unit *rows[LANES], *next[LANES];
    int64_t steps;
};

/* sums (R, V LANES), one row every WIDEST, = or += R rows from the `first` of the stretches times a panel (steps, V LANES).
 * If there is a place for them, they go there as numbers, and not to the sums. `ahead`: the next rows are called for. */
#define TILE(NAME, R, V)                                                                                               \
    static void NAME(float *sums, int add, const struct stretch *stretches, int64_t count, int64_t first, int ahead,   \
                     const unit *panel, number *to, int64_t stride)                                                    \
    {                                                                                                                  \
        lanes sum[R][V];                                                                                               \
        UNROLLED(int r = 0; r < R; r++)                                                                                \
        UNROLLED(int v = 0; v < V; v++) sum[r][v] = add ? *(const lanes *)(sums + r * WIDEST + v * LANES) : (lanes){0}; \
        for (const struct stretch *one = stretches; one < stretches + count; one++) {                                  \
            const unit *row[R], *const *next = (ahead ? one->next : one->rows) + first;                                \
            UNROLLED(int r = 0; r < R; r++) row[r] = one->rows[first + r];                                             \
            for (int64_t k = 0; k < one->steps; k++, panel += V * LANES) {                                             \
                lanes right[V];                                                                                        \
                __builtin_prefetch(next[k % R] + k, 0, 3);                                                             \
                UNROLLED(int v = 0; v < V; v++) right[v] = one_of_each(panel + v * LANES);                             \
                UNROLLED(int r = 0; r < R; r++)                                                                        \
                {                                                                                                      \
                    lanes left = one_for_all(row[r] + k);                                                              \
                    UNROLLED(int v = 0; v < V; v++) sum[r][v] = multiplied(sum[r][v], left, right[v]);                 \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        if (to)                                                                                                        \
            UNROLLED(int r = 0; r < R; r++)                                                                            \
            UNROLLED(int v = 0; v < V; v++) narrowed(to + r * stride + v * LANES, sum[r][v]);                          \
        else                                                                                                           \
            UNROLLED(int r = 0; r < R; r++)                                                                            \
            UNROLLED(int v = 0; v < V; v++) *(lanes *)(sums + r * WIDEST + v * LANES) = sum[r][v];                     \
    }

#endif

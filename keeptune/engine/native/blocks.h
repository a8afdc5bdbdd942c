/* What attention and its gradient share: products of small matrices in float32, which stay in the cache. */

#ifndef KEEPTUNE_BLOCKS_H
#define KEEPTUNE_BLOCKS_H

#include "lanes.h"

#define HIGH 6 /* rows of a block of a product, and vectors across it: all of it stays in registers */
#define ACROSS 4
#define TILE 48 /* a multiple of HIGH and of every LANES */

INLINE int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Tokens of the longest row, of rows that end where the next one begins. */
INLINE int64_t longest_of(const int64_t *offsets, int64_t rows)
{
    int64_t longest = 0;
    for (int64_t row = 0; row < rows; row++)
        if (offsets[row + 1] - offsets[row] > longest)
            longest = offsets[row + 1] - offsets[row];
    return longest;
}

/* c (HIGH, vectors LANES) = or += sum_k a[m down + k along] b[k ldb + n]. */
INLINE void block(int vectors, const float *a, int64_t down, int64_t along, const float *b, int64_t ldb, int64_t depth,
                  float *c, int64_t ldc, int add)
{
    lanes sum[HIGH][ACROSS];
#pragma GCC unroll 6
    for (int m = 0; m < HIGH; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[m][v] = add ? *(const lanes *)(c + m * ldc + v * LANES) : (lanes){0};
    for (int64_t k = 0; k < depth; k++, a += along, b += ldb) {
        lanes right[ACROSS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            right[v] = *(const lanes *)(b + v * LANES);
#pragma GCC unroll 6
        for (int m = 0; m < HIGH; m++) {
            float left = a[m * down];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[m][v] += left * right[v];
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < HIGH; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            *(lanes *)(c + m * ldc + v * LANES) = sum[m][v];
}

/* The same for any width that is a multiple of LANES. */
static void product(const float *a, int64_t down, int64_t along, const float *b, int64_t ldb, int64_t depth, float *c,
                    int64_t ldc, int64_t width, int add)
{
    for (; width >= ACROSS * LANES; width -= ACROSS * LANES, b += ACROSS * LANES, c += ACROSS * LANES)
        block(4, a, down, along, b, ldb, depth, c, ldc, add);
    if (width == 3 * LANES)
        block(3, a, down, along, b, ldb, depth, c, ldc, add);
    else if (width == 2 * LANES)
        block(2, a, down, along, b, ldb, depth, c, ldc, add);
    else if (width == LANES)
        block(1, a, down, along, b, ldb, depth, c, ldc, add);
}

#endif

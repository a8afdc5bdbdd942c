/* What attention and its gradient share: products of small matrices with sums in float32, which stay in the cache. */

#ifndef KEEPTUNE_BLOCKS_H
#define KEEPTUNE_BLOCKS_H

#include "units.h"

#define HIGH 6 /* rows of a block of a product, and vectors across it: all of it stays in registers */
#define ACROSS 4
#define TILE 48 /* a multiple of HIGH and of every LANES */

/* Tokens of the longest row, of rows that end where the next one begins. */
INLINE int64_t longest_of(const int64_t *offsets, int64_t rows)
{
    int64_t longest = 0;
    for (int64_t row = 0; row < rows; row++)
        if (offsets[row + 1] - offsets[row] > longest)
            longest = offsets[row + 1] - offsets[row];
    return longest;
}

/* c (HIGH, vectors LANES) = or += sum_k a[m down + k along] b[k ldb + n], of units. */
INLINE void block(int vectors, const unit *a, int64_t down, int64_t along, const unit *b, int64_t ldb, int64_t depth, float *c,
                  int64_t ldc, int add)
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
            right[v] = one_of_each(b + v * LANES);
#pragma GCC unroll 6
        for (int m = 0; m < HIGH; m++) {
            lanes left = one_for_all(a + m * down);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[m][v] = multiplied(sum[m][v], left, right[v]);
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < HIGH; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            *(lanes *)(c + m * ldc + v * LANES) = sum[m][v];
}

/* The same for any width that is a multiple of LANES. */
static void product(const unit *a, int64_t down, int64_t along, const unit *b, int64_t ldb, int64_t depth, float *c,
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

/* So many numbers, a multiple of LANES. */
INLINE void copied(number *to, const number *from, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES)
        memcpy(to + i, from + i, LANES * sizeof(number));
}

/* Rows (rows, K), `stride` numbers apart, as units along their count, (rows / UNIT, C), of which the first K;
 * behind an odd one there are zeros. */
static void paired(unit *to, int64_t columns, const number *from, int64_t stride, int64_t rows, int64_t width)
{
    static const number none[LANES];
    for (int64_t j = 0; j < rows; j += UNIT)
        for (int64_t i = 0; i < width; i += LANES) {
            const number *row = from + j * stride + i;
            all_both(to + j / UNIT * columns + i, row, j + 1 < rows ? row + stride : none);
        }
}

/* Keys (keys, K), `stride` numbers apart, as units (K / UNIT, C); columns without a key are zero. */
static void turned_keys(unit *to, int64_t columns, const number *from, int64_t stride, int64_t keys, int64_t width)
{
    int64_t units = width / UNIT, squares = units % LANES ? 0 : keys / LANES * LANES;
    for (int64_t j = 0; j < squares; j += LANES)
        for (int64_t k = 0; k < units; k += LANES)
            turned(to + k * columns + j, columns, (const unit *)(from + j * stride) + k, stride / UNIT);
    for (int64_t k = 0; k < units; k++)
        for (int64_t j = squares; j < columns; j++)
            to[k * columns + j] = j < keys ? ((const unit *)(from + j * stride))[k] : 0;
}

#endif

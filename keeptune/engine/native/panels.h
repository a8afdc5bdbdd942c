/* Panels of a matrix for products: which lanes each of them holds, and how they are filled. */

#ifndef KEEPTUNE_PANELS_H
#define KEEPTUNE_PANELS_H

#include "tiles.h"

/* How columns are cut into panels: of three vectors each, the last one or two of fewer, but not of one if it can be. */
struct cut {
    int64_t columns, vectors, threes, panels;
};

static struct cut cut_of(int64_t columns)
{
    struct cut cut = {.columns = columns, .vectors = parts_of(columns, LANES)};
    cut.threes = cut.vectors / MOST - (cut.vectors % MOST == 1 && cut.vectors > 1);
    cut.panels = cut.threes + parts_of(cut.vectors - MOST * cut.threes, 2);
    return cut;
}

INLINE int64_t first_vector(const struct cut *cut, int64_t panel)
{
    return panel < cut->threes ? MOST * panel : MOST * cut->threes + 2 * (panel - cut->threes);
}

INLINE int64_t first_column(const struct cut *cut, int64_t panel) { return first_vector(cut, panel) * LANES; }

INLINE int64_t vectors_of(const struct cut *cut, int64_t panel)
{
    return panel < cut->threes ? MOST : least(2, cut->vectors - first_vector(cut, panel));
}

/* Of its lanes, how many are columns. */
INLINE int64_t columns_of(const struct cut *cut, int64_t panel)
{
    return least(vectors_of(cut, panel) * LANES, cut->columns - first_column(cut, panel));
}

/* Steps [from, to) of a panel from a matrix whose rows are the lanes. */
static void filled_across(unit *panel, int64_t width, const unit *rows, int64_t stride, int64_t columns, int64_t from,
                          int64_t to)
{
    int64_t squares = from + (to - from) / LANES * LANES, wide_rows = columns / LANES * LANES;
    for (int64_t j = 0; j < width; j++)
        for (int64_t k = j < wide_rows ? squares : from; k < to; k++)
            panel[(k - from) * width + j] = j < columns ? rows[j * stride + k] : 0;
    for (int64_t j = 0; j < wide_rows; j += LANES)
        for (int64_t k = from; k < squares; k += LANES) {
            for (int64_t i = 0; i < LANES; i++)
                __builtin_prefetch(rows + (j + LANES + i) * stride + k, 0, 3);
            turned(panel + (k - from) * width + j, width, rows + j * stride + k, stride);
        }
}

/* One step of a panel, from the row or the two rows of a matrix whose columns are the lanes. What is so many numbers
 * `ahead` is called for, if it is any. */
INLINE void filled_along(unit *panel, int64_t width, const number *row, const number *other, int64_t columns,
                         int64_t ahead)
{
    int64_t vectors = columns / LANES * LANES;
    for (int64_t j = 0; ahead && j < columns; j += 64 / (int64_t)sizeof(number)) {
        __builtin_prefetch(row + ahead + j, 0, 3);
        __builtin_prefetch(other + ahead + j, 0, 3);
    }
    for (int64_t j = 0; j < vectors; j += LANES)
        all_both(panel + j, row + j, other + j);
    for (int64_t j = vectors; j < width; j++)
        panel[j] = j < columns ? both(row, other, j) : 0;
}

/* Rows of units (rows, stride), up to whole LANES both ways, from numbers (length, rows). */
static void stood_up(unit *to, int64_t stride, const number *from, int64_t from_stride, int64_t length, int64_t rows)
{
    static const number none[LANES];
    for (int64_t k = 0; k < stride; k += LANES)
        for (int64_t j = 0; j < rows; j += LANES) {
            unit square[LANES][LANES];
            for (int64_t i = 0; i < LANES; i++) {
                int64_t first = (k + i) * UNIT;
                const number *row = from + first * from_stride + j;
                filled_along(square[i], LANES, first < length ? row : none, first + 1 < length ? row + from_stride : none,
                             least(LANES, rows - j), 0);
            }
            turned(to + j * stride + k, stride, square[0], LANES);
        }
}

#endif

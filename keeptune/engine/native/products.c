/* Sums of products of large matrices: c = bias + sum_s a_s b_s.
 *
 * Columns are cut into panels, as many at a time as stay in the second cache, along so much of the sum; each is filled
 * once and multiplied with all rows, which are read where they are. So a map of many tokens, x W', and its gradient,
 * g W, copy each weight once, and no token. Sums are float32, rounded once; their order depends on nothing. */

#include "panels.h"

#include <stdlib.h>

#define PARTS 4
#define NEAR (512 * 1024 / sizeof(unit)) /* what panels take of the second cache */
#define WINDOW 512                       /* steps along the sum */
#define STRIP 64                         /* steps that one thread fills */
#define AHEAD 16                         /* rows of b that are called for before they are read */

/* One product: a (rows, length) and b (length, columns), or across (columns, length). */
struct part {
    const number *a, *b;
    int64_t a_stride, b_stride, length, across;
};

#if MULTIPLIES

TILE(three_wide, HIGH, 3)
TILE(two_wide, HIGH, 2)
TILE(one_wide, LANES, 1)

/* All that the threads of one call share. */
struct work {
    const struct part *parts;
    const number *bias; /* (columns) */
    number *to;         /* (rows, columns) */
    int64_t count, rows, stride, window, at_once, bases[PARTS + 1];
    struct cut cut;
    unit *panels; /* (at_once, window, WIDEST) */
    float *kept;  /* (blocks of LANES rows, at_once, LANES, WIDEST): sums between two windows */
};

/* A panel of a window [begin, end), where columns of b lie across. */
static void filled_of_rows(const struct work *work, int64_t panel, int64_t number_of, int64_t begin, int64_t end)
{
    int64_t width = vectors_of(&work->cut, number_of) * LANES, columns = columns_of(&work->cut, number_of);
    for (int64_t s = 0; s < work->count; s++) {
        const struct part *part = work->parts + s;
        int64_t base = work->bases[s], start = most(begin, base), stop = least(end, work->bases[s + 1]);
        unit *to = work->panels + panel * work->window * WIDEST + (start - begin) * width;
        const unit *rows = (const unit *)(part->b + first_column(&work->cut, number_of) * part->b_stride);
        if (part->across && start < stop)
            filled_across(to, width, rows, part->b_stride / UNIT, columns, start - base, stop - base);
    }
}

/* Steps [from, to) of the panels of a window that begins at `begin`, where columns of b lie along. */
static void filled_of_columns(const struct work *work, int64_t first, int64_t panels, int64_t begin, int64_t from, int64_t to)
{
    for (int64_t s = 0; s < work->count; s++) {
        const struct part *part = work->parts + s;
        int64_t base = work->bases[s], stop = part->across ? from : least(to, work->bases[s + 1]);
        for (int64_t k = most(from, base); k < stop; k++) {
            const number *row = part->b + (k - base) * UNIT * part->b_stride;
            const number *other = (k - base) * UNIT + 1 == part->length ? 0 : row + part->b_stride;
            for (int64_t p = 0; p < panels; p++) {
                int64_t width = vectors_of(&work->cut, first + p) * LANES, column = first_column(&work->cut, first + p);
                unit *panel = work->panels + p * work->window * WIDEST + (k - begin) * width;
                filled_along(panel, width, row + column, other ? other + column : 0, columns_of(&work->cut, first + p),
                             AHEAD * part->b_stride);
            }
        }
    }
}

/* What a window adds to the sums of LANES rows with one panel; `ahead`: the next rows are called for. */
static void added(const struct work *work, int64_t row, int64_t panel, int64_t vectors, int64_t begin, int64_t end,
                  int ahead, float (*sums)[WIDEST], int add)
{
    int64_t rows = least(LANES, work->rows - row), high = vectors == 1 ? LANES : HIGH;
    for (int64_t s = 0; s < work->count; s++) {
        const struct part *part = work->parts + s;
        int64_t base = work->bases[s], start = most(begin, base), stop = least(end, work->bases[s + 1]);
        const unit *side = work->panels + panel * work->window * WIDEST + (start - begin) * vectors * LANES;
        for (int64_t r = 0; start < stop && r < rows; r += high) {
            const unit *here[LANES], *next[LANES];
            for (int64_t i = 0; i < high; i++) {
                const number *of = part->a + (row + least(r + i, rows - 1)) * part->a_stride;
                here[i] = (const unit *)of + (start - base);
                next[i] = ahead ? here[i] + LANES * part->a_stride / UNIT : here[i];
            }
            if (vectors == 3)
                three_wide(sums[r], add, here, next, side, stop - start);
            else if (vectors == 2)
                two_wide(sums[r], add, here, next, side, stop - start);
            else
                one_wide(sums[r], add, here, next, side, stop - start);
        }
        add |= start < stop;
    }
}

static void stored(const struct work *work, int64_t row, int64_t column, int64_t columns, float (*sums)[WIDEST])
{
    for (int64_t i = 0; i < least(LANES, work->rows - row); i++) {
        number *to = work->to + (row + i) * work->stride + column;
        int64_t j = 0;
        for (; j + LANES <= columns; j += LANES)
            narrowed(to + j, sums[i] + j);
        for (; j < columns; j++)
            to[j] = narrow(sums[i][j]);
    }
}

/* LANES rows with all panels of a window. */
static void multiplied_with(const struct work *work, int64_t row, int64_t first, int64_t panels, int64_t begin,
                            int64_t end, int last)
{
    float own[LANES][WIDEST] __attribute__((aligned(64)));
    for (int64_t p = 0; p < panels; p++) {
        int64_t column = first_column(&work->cut, first + p), columns = columns_of(&work->cut, first + p);
        float(*sums)[WIDEST] = own;
        if (work->kept)
            sums = (float(*)[WIDEST])(work->kept + (row * work->at_once + p * LANES) * WIDEST);
        if (!begin && work->bias)
            for (int64_t i = 0; i < LANES; i++)
                for (int64_t j = 0; j < WIDEST; j++)
                    sums[i][j] = j < columns ? wide(work->bias[column + j]) : 0.0f;
        int ahead = p + 1 == panels && row + 2 * LANES <= work->rows;
        added(work, row, p, vectors_of(&work->cut, first + p), begin, end, ahead, sums, begin || work->bias);
        if (last)
            stored(work, row, column, columns, sums);
    }
}

static void all(const struct work *work, int64_t depth, int threads)
{
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < work->cut.panels; first += work->at_once) {
        int64_t panels = least(work->at_once, work->cut.panels - first);
        for (int64_t begin = 0; begin < depth; begin += work->window) {
            int64_t end = least(depth, begin + work->window);
#pragma omp for nowait
            for (int64_t p = 0; p < panels; p++)
                filled_of_rows(work, p, first + p, begin, end);
#pragma omp for
            for (int64_t k = begin; k < end; k += STRIP)
                filled_of_columns(work, first, panels, begin, k, least(end, k + STRIP));
#pragma omp for
            for (int64_t row = 0; row < work->rows; row += LANES)
                multiplied_with(work, row, first, panels, begin, end, end == depth);
        }
    }
}

#endif

/* Whether the function below serves this processor. */
int multiplies(void) { return MULTIPLIES; }

/* The length of a sum is not zero; strides and lengths are even in bfloat16, but for the length of a b that is not across,
 * whose a has a zero behind each row. */
int products(const struct part *parts, int64_t count, const number *bias, number *to, int64_t rows, int64_t columns,
             int64_t stride, int threads)
{
#if MULTIPLIES
    struct work work = {.parts = parts, .count = count, .bias = bias, .to = to, .rows = rows, .stride = stride};
    work.cut = cut_of(columns);
    for (int64_t s = 0; s < count; s++)
        work.bases[s + 1] = work.bases[s] + parts_of(parts[s].length, UNIT);
    int64_t depth = work.bases[count], windows = parts_of(depth, WINDOW), blocks = parts_of(rows, LANES);
    work.window = parts_of(depth, windows);
    work.at_once = parts_of(work.cut.panels, parts_of(work.cut.panels, NEAR / (work.window * WIDEST)));
    work.panels = aligned_alloc(64, work.at_once * work.window * WIDEST * sizeof(unit));
    work.kept = windows > 1 ? aligned_alloc(64, blocks * work.at_once * LANES * WIDEST * sizeof(float)) : 0;
    int short_of_memory = !work.panels || (windows > 1 && !work.kept);
    if (!short_of_memory)
        all(&work, depth, threads);
    free(work.panels);
    free(work.kept);
    return short_of_memory;
#else
    (void)parts, (void)count, (void)bias, (void)to, (void)rows, (void)columns, (void)stride, (void)threads;
    return 1;
#endif
}

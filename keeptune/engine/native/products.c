/* Products of large matrices that share a side: c = sum_s a_s b_s, for several c at once.
 *
 * Columns are cut into panels, as many at a time as stay in the second cache, along so much of the sum; each is filled
 * once and multiplied with all rows. Rows are read where they are. So a map of many tokens, y' = W x', copies no weight,
 * and its gradient, g W, copies each weight once. Sums are float32, rounded once. */

#include "panels.h"

#include <stdlib.h>

#define PARTS 4
#define NEAR (512 * 1024 / sizeof(unit)) /* what panels take of the second cache */
#define WINDOW 512                       /* steps along the sum */
#define STRIP 64                         /* steps that one thread fills */

/* One b of the sum, its columns the lanes: (length, columns), or across (columns, length). */
struct part {
    const number *from;
    int64_t stride, length, across;
};

/* One a: (rows, length), which multiplies the b of its place from the row `first` on. */
struct side {
    const number *from;
    int64_t stride, first, length;
};

/* One c: (rows, columns), or across (columns, rows); to each row its number of the bias, if there is one. */
struct result {
    number *to;
    const number *bias;
    int64_t stride, rows, across;
    struct side sides[PARTS];
};

#if MULTIPLIES

TILE(three_wide, HIGH, 3)
TILE(two_wide, HIGH, 2)
TILE(one_wide, LANES, 1)

/* All that the threads of one call share. */
struct work {
    const struct part *parts;
    const struct result *results;
    struct cut cut;
    int64_t count, results_count, blocks, window, at_once, bases[PARTS + 1];
    unit *panels; /* (at_once, window, WIDEST) */
    float *kept;  /* (blocks, at_once, LANES, WIDEST): sums between two windows */
};

/* Steps [from, to) of the panels of a window that begins at `begin`. */
static void filled(const struct work *work, int64_t first, int64_t panels, int64_t begin, int64_t from, int64_t to)
{
    for (int64_t s = 0; s < work->count; s++) {
        const struct part *part = work->parts + s;
        int64_t base = work->bases[s], start = most(from, base), end = least(to, work->bases[s + 1]);
        for (int64_t k = start; k < end; k += part->across ? STRIP : 1)
            for (int64_t p = 0; p < panels; p++) {
                int64_t width = vectors_of(&work->cut, first + p) * LANES, column = first_column(&work->cut, first + p);
                int64_t columns = columns_of(&work->cut, first + p);
                unit *panel = work->panels + p * work->window * WIDEST + (k - begin) * width;
                if (part->across) {
                    const unit *rows = (const unit *)(part->from + column * part->stride);
                    filled_across(panel, width, rows, part->stride / UNIT, columns, k - base, least(end, k + STRIP) - base);
                } else {
                    const number *row = part->from + (k - base) * UNIT * part->stride + column;
                    int alone = (k - base) * UNIT + 1 == part->length;
                    filled_along(panel, width, row, alone ? 0 : row + part->stride, columns);
                }
            }
    }
}

/* What a window adds to the sums of LANES rows with one panel. */
static void added(const struct work *work, const struct result *result, int64_t row, int64_t panel, int64_t vectors,
                  int64_t begin, int64_t end, int ahead, float (*sums)[WIDEST], int add)
{
    int64_t rows = least(LANES, result->rows - row), high = vectors == 1 ? LANES : HIGH;
    for (int64_t s = 0; s < work->count; s++) {
        const struct side *side = result->sides + s;
        int64_t base = work->bases[s] + side->first / UNIT, start = most(begin, base);
        int64_t stop = least(end, base + parts_of(side->length, UNIT));
        if (start >= stop)
            continue;
        const unit *lanes_side = work->panels + panel * work->window * WIDEST + (start - begin) * vectors * LANES;
        for (int64_t r = 0; r < rows; r += high) {
            const unit *here[LANES], *next[LANES];
            for (int64_t i = 0; i < high; i++) {
                const number *of = side->from + (row + least(r + i, rows - 1)) * side->stride;
                here[i] = (const unit *)of + (start - base);
                next[i] = ahead && row + 2 * LANES <= result->rows ? here[i] + LANES * side->stride / UNIT : here[i];
            }
            (vectors == 3 ? three_wide : vectors == 2 ? two_wide : one_wide)(sums[r], add, here, next, lanes_side,
                                                                             stop - start);
        }
        add = 1;
    }
    if (!add)
        memset(sums, 0, LANES * sizeof *sums);
}

static void begun(const struct result *result, int64_t row, float (*sums)[WIDEST])
{
    for (int64_t i = 0; i < LANES; i++) {
        float bias = row + i < result->rows ? wide(result->bias[row + i]) : 0.0f;
        for (int64_t j = 0; j < WIDEST; j++)
            sums[i][j] = bias;
    }
}

static void stored(const struct result *result, int64_t row, int64_t column, int64_t columns, float (*sums)[WIDEST])
{
    int64_t rows = least(LANES, result->rows - row);
    if (!result->across) {
        for (int64_t i = 0; i < rows; i++) {
            number *to = result->to + (row + i) * result->stride + column;
            int64_t j = 0;
            for (; j + LANES <= columns; j += LANES)
                narrowed(to + j, sums[i] + j);
            for (; j < columns; j++)
                to[j] = narrow(sums[i][j]);
        }
        return;
    }
    for (int64_t start = 0; start < columns; start += LANES) {
        float sides[LANES][LANES];
        turned((unit *)sides, LANES, (const unit *)(sums[0] + start), WIDEST);
        for (int64_t j = start; j < least(columns, start + LANES); j++) {
            number *to = result->to + (column + j) * result->stride + row;
            if (rows == LANES)
                narrowed(to, sides[j - start]);
            else
                for (int64_t i = 0; i < rows; i++)
                    to[i] = narrow(sides[j - start][i]);
        }
    }
}

/* The block of LANES rows that has this number, among those of all results. */
static const struct result *found(const struct work *work, int64_t block, int64_t *row)
{
    const struct result *result = work->results;
    for (int64_t blocks; block >= (blocks = parts_of(result->rows, LANES)); result++)
        block -= blocks;
    *row = block * LANES;
    return result;
}

static void multiplied_with(const struct work *work, int64_t block, int64_t first, int64_t panels, int64_t begin,
                            int64_t end, int last)
{
    int64_t row;
    const struct result *result = found(work, block, &row);
    float own[LANES][WIDEST] __attribute__((aligned(64)));
    for (int64_t p = 0; p < panels; p++) {
        float(*sums)[WIDEST] = own;
        if (work->kept)
            sums = (float(*)[WIDEST])(work->kept + (block * work->at_once + p) * LANES * WIDEST);
        if (!begin && result->bias)
            begun(result, row, sums);
        added(work, result, row, p, vectors_of(&work->cut, first + p), begin, end, p + 1 == panels, sums,
              begin || result->bias);
        if (last)
            stored(result, row, first_column(&work->cut, first + p), columns_of(&work->cut, first + p), sums);
    }
}

static void all(const struct work *work, int64_t depth, int threads)
{
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < work->cut.panels; first += work->at_once) {
        int64_t panels = least(work->at_once, work->cut.panels - first);
        for (int64_t begin = 0; begin < depth; begin += work->window) {
            int64_t end = least(depth, begin + work->window);
#pragma omp for
            for (int64_t k = begin; k < end; k += STRIP)
                filled(work, first, panels, begin, k, least(end, k + STRIP));
#pragma omp for
            for (int64_t block = 0; block < work->blocks; block++)
                multiplied_with(work, block, first, panels, begin, end, end == depth);
        }
    }
}

#endif

/* Whether the function below serves this processor. */
int multiplies(void) { return MULTIPLIES; }

/* Numbers along the sum, strides and beginnings are even in bfloat16, but for the length of a part that is not across. */
int products(const struct part *parts, int64_t count, const struct result *results, int64_t results_count, int64_t columns,
             int threads)
{
#if MULTIPLIES
    struct work work = {parts, results, cut_of(columns), count, results_count};
    for (int64_t s = 0; s < count; s++)
        work.bases[s + 1] = work.bases[s] + parts_of(parts[s].length, UNIT);
    for (int64_t i = 0; i < results_count; i++)
        work.blocks += parts_of(results[i].rows, LANES);
    int64_t depth = work.bases[count], windows = parts_of(depth, WINDOW);
    work.window = parts_of(depth, windows);
    int64_t rounds = parts_of(work.cut.panels, most(threads, NEAR / (work.window * WIDEST)));
    work.at_once = parts_of(work.cut.panels, rounds);
    work.panels = aligned_alloc(64, work.at_once * work.window * WIDEST * sizeof(unit));
    work.kept = windows > 1 ? aligned_alloc(64, work.blocks * work.at_once * LANES * WIDEST * sizeof(float)) : 0;
    int short_of_memory = !work.panels || (windows > 1 && !work.kept);
    if (!short_of_memory)
        all(&work, depth, threads);
    free(work.panels);
    free(work.kept);
    return short_of_memory;
#else
    (void)parts, (void)count, (void)results, (void)results_count, (void)columns, (void)threads;
    return 1;
#endif
}

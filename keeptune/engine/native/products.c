/* Sums of products of large matrices: c = f (d + sum_s a_s b_s).
 *
 * Columns are cut into panels, as many at a time as stay in the second cache, along so much of the sum; each is filled
 * once and multiplied with all rows, which are read where they are. So a map of many tokens, x W', and its gradient,
 * g W, copy each weight once, and no token. Threads share nothing: each has columns and rows of its own, and none waits.
 * Sums are float32, rounded once; their order depends on nothing. */

#include "kernels.h"
#include "panels.h"

#include <stdlib.h>

#define PARTS 4
#define NEAR (512 * 1024 / sizeof(unit)) /* what panels take of the second cache */
#define WINDOW 2048                      /* steps along the sum */
#define LONG 4096                        /* steps of a sum so long that its a comes from far away each time it is read */
#define FEW 48                           /* rows to which filling is most of the work */
#define LEAST_WINDOW 32
#define AHEAD 12                         /* rows of b that are called for before they are read */
#define FILLING 24                       /* rows whose products take as long as a panel takes to be filled */

/* One product: a (rows, length), or lying (length, rows), and b (length, columns), or across (columns, length). */
struct part {
    const number *a, *b;
    int64_t a_stride, b_stride, length, lying, across;
};

/* A sum of such products and of d (rows, columns), where there is one; a d with a stride of 0 is that of each row. It goes, times
 * f, to c (rows, columns) as numbers, or as float32 where it is wide, and those may lie across, (columns, rows). */
struct sum {
    double f;
    const number *d;
    void *c;
    int64_t d_stride, c_stride, rows, columns, wide, across, count;
    struct part parts[];
};

TILE(three_wide, HIGH, 3)
TILE(two_wide, HIGH, 2)
TILE(one_wide, LANES, 1)

/* All that the threads of one call share. */
struct work {
    const struct sum *sum;
    struct part parts[PARTS]; /* none of them lies */
    int64_t count, rows, depth, window, at_once, bases[PARTS + 1];
    struct cut cut;
};

/* What one thread computes, and its room. */
struct share {
    int64_t first_panel, last_panel, first_row, last_row;
    unit *panels; /* (at_once, window, WIDEST) */
    float *kept;  /* (rows, up to whole LANES, at_once, WIDEST): sums between two windows */
};

/* A panel of a window [begin, end), where columns of b lie across. */
static void filled_of_rows(const struct work *work, unit *panel, int64_t number_of, int64_t begin, int64_t end)
{
    int64_t width = vectors_of(&work->cut, number_of) * LANES, columns = columns_of(&work->cut, number_of);
    for (int64_t s = 0; s < work->count; s++) {
        const struct part *part = work->parts + s;
        int64_t base = work->bases[s], start = most(begin, base), stop = least(end, work->bases[s + 1]);
        const unit *rows = (const unit *)(part->b + first_column(&work->cut, number_of) * part->b_stride);
        if (part->across && start < stop)
            filled_across(panel + (start - begin) * width, width, rows, part->b_stride / UNIT, columns, start - base,
                          stop - base);
    }
}

/* Panels of a window [begin, end), where columns of b lie along. */
static void filled_of_columns(const struct work *work, unit *panels, int64_t first, int64_t last, int64_t begin, int64_t end)
{
    static const number none[WIDEST];
    for (int64_t s = 0; s < work->count; s++) {
        const struct part *part = work->parts + s;
        int64_t base = work->bases[s], stop = part->across ? begin : least(end, work->bases[s + 1]);
        int64_t ahead = part->length * part->b_stride > (int64_t)NEAR ? AHEAD * part->b_stride : 0;
        for (int64_t k = most(begin, base); k < stop; k++) {
            const number *row = part->b + (k - base) * UNIT * part->b_stride;
            int alone = (k - base) * UNIT + 1 == part->length; /* a sum of an odd length ends there */
            for (int64_t p = first; p < last; p++) {
                int64_t width = vectors_of(&work->cut, p) * LANES, column = first_column(&work->cut, p);
                unit *panel = panels + (p - first) * work->window * WIDEST + (k - begin) * width;
                filled_along(panel, width, row + column, alone ? none : row + part->b_stride + column,
                             columns_of(&work->cut, p), ahead);
            }
        }
    }
}

/* Of LANES rows, what a window [begin, end) multiplies with each panel; behind the last row it stands again. */
static int64_t stretches_of(const struct work *work, int64_t row, int64_t begin, int64_t end, struct stretch *stretches)
{
    int64_t count = 0;
    for (int64_t s = 0; s < work->count; s++) {
        const struct part *part = work->parts + s;
        int64_t base = work->bases[s], start = most(begin, base), stop = least(end, work->bases[s + 1]);
        if (start >= stop)
            continue;
        struct stretch *found = stretches + count++;
        found->steps = stop - start;
        for (int64_t i = 0; i < LANES; i++) {
            const number *of = part->a + least(row + i, work->rows - 1) * part->a_stride;
            found->rows[i] = (const unit *)of + (start - base);
            found->next[i] = found->rows[i] + LANES * part->a_stride / UNIT;
        }
    }
    return count;
}

/* What sums of LANES rows at `row` begin with. */
static void begun(const struct sum *sum, int64_t row, int64_t column, int64_t columns, float (*sums)[WIDEST])
{
    for (int64_t i = 0; i < LANES; i++) {
        const number *d = sum->d + least(row + i, sum->rows - 1) * sum->d_stride + column;
        for (int64_t j = 0; j < WIDEST; j += LANES)
            *(lanes *)(sums[i] + j) = some(d + j, columns - j);
    }
}

static void scaled(float (*sums)[WIDEST], float f)
{
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t j = 0; j < WIDEST; j += LANES)
            *(lanes *)(sums[i] + j) *= f;
}

/* Sums of rows [from, rows) at `row`, as numbers. */
static void stored(const struct sum *sum, int64_t row, int64_t from, int64_t column, int64_t columns, float (*sums)[WIDEST])
{
    for (int64_t i = from; i < least(LANES, sum->rows - row); i++)
        for (int64_t j = 0; j < columns; j += LANES)
            put((number *)sum->c + (row + i) * sum->c_stride + column + j, *(const lanes *)(sums[i] + j), columns - j);
}

/* Sums of LANES rows at `row`, as they are. */
static void stored_wide(const struct sum *sum, int64_t row, int64_t column, int64_t columns, float (*sums)[WIDEST])
{
    int64_t rows = least(LANES, sum->rows - row), squares = rows == LANES ? columns / LANES * LANES : 0;
    float *c = (float *)sum->c + (sum->across ? column * sum->c_stride + row : row * sum->c_stride + column);
    for (int64_t i = 0; i < rows && !sum->across; i++)
        memcpy(c + i * sum->c_stride, sums[i], columns * sizeof(float));
    for (int64_t j = 0; j < squares && sum->across; j += LANES)
        turned((unit *)(c + j * sum->c_stride), sum->c_stride, (const unit *)(sums[0] + j), WIDEST);
    for (int64_t j = squares; j < columns && sum->across; j++)
        for (int64_t i = 0; i < rows; i++)
            c[j * sum->c_stride + i] = sums[i][j];
}

/* LANES rows with panels [first, last) of a window [begin, end). */
static void multiplied_with(const struct work *work, const struct share *own, int64_t row, int64_t first, int64_t last,
                            int64_t begin, int64_t end)
{
    const struct sum *sum = work->sum;
    struct stretch stretches[PARTS];
    int64_t count = stretches_of(work, row, begin, end, stretches), rows = least(LANES, work->rows - row);
    float here[LANES][WIDEST] __attribute__((aligned(64)));
    for (int64_t p = first; p < last; p++) {
        int64_t column = first_column(&work->cut, p), columns = columns_of(&work->cut, p);
        int64_t vectors = vectors_of(&work->cut, p), high = vectors == 1 ? LANES : HIGH;
        const unit *panel = own->panels + (p - first) * work->window * WIDEST;
        float(*sums)[WIDEST] = here;
        if (own->kept)
            sums = (float(*)[WIDEST])(own->kept + ((row - own->first_row) * work->at_once + (p - first) * LANES) * WIDEST);
        if (!begin && sum->d)
            begun(sum, row, column, columns, sums);
        int add = begin || sum->d, ahead = p + 1 == last && row + 2 * LANES <= work->rows, done = end == work->depth;
        int64_t whole = done && !sum->wide && sum->f == 1.0 && columns == vectors * LANES ? rows / high * high : 0;
        for (int64_t r = 0; r < rows; r += high) {
            number *to = r < whole ? (number *)sum->c + (row + r) * sum->c_stride + column : 0;
            if (vectors == 3)
                three_wide(sums[r], add, stretches, count, r, ahead, panel, to, sum->c_stride);
            else if (vectors == 2)
                two_wide(sums[r], add, stretches, count, r, ahead, panel, to, sum->c_stride);
            else
                one_wide(sums[r], add, stretches, count, r, ahead, panel, to, sum->c_stride);
        }
        if (done && sum->f != 1.0)
            scaled(sums, (float)sum->f);
        if (done && sum->wide)
            stored_wide(sum, row, column, columns, sums);
        else if (done)
            stored(sum, row, whole, column, columns, sums);
    }
}

static void computed(const struct work *work, const struct share *own)
{
    for (int64_t first = own->first_panel; first < own->last_panel; first += work->at_once) {
        int64_t last = least(own->last_panel, first + work->at_once);
        for (int64_t begin = 0; begin < work->depth; begin += work->window) {
            int64_t end = least(work->depth, begin + work->window);
            for (int64_t p = first; p < last; p++)
                filled_of_rows(work, own->panels + (p - first) * work->window * WIDEST, p, begin, end);
            filled_of_columns(work, own->panels, first, last, begin, end);
            for (int64_t row = own->first_row; row < own->last_row; row += LANES)
                multiplied_with(work, own, row, first, last, begin, end);
        }
    }
}

/* Into how many parts, of `threads` in all, columns are cut so that nobody has much more to do than the others. */
static int64_t cut_for(const struct work *work, int64_t threads)
{
    int64_t best = 1, least_time = INT64_MAX, blocks = parts_of(work->rows, LANES);
    for (int64_t across = 1; across <= least(threads, work->cut.panels); across++) {
        int64_t rows = parts_of(blocks, threads / across) * LANES;
        int64_t time = parts_of(work->cut.panels, across) * (rows + FILLING);
        if (time < least_time) {
            least_time = time;
            best = across;
        }
    }
    return best;
}

/* Sums are put down between two windows: better never. But a long a is read once if all panels are near at a time, and few
 * rows are multiplied while b comes, in the order of memory, beside which panels then have half of the room. */
static int64_t window_for(const struct work *work, int64_t panels)
{
    int64_t all = NEAR / (panels * WIDEST), window = WINDOW;
    if (work->rows <= FEW)
        window = most(LEAST_WINDOW, least(WINDOW, all / 2));
    else if (work->depth > LONG && all >= 4 * LEAST_WINDOW)
        window = least(WINDOW, all);
    return parts_of(work->depth, parts_of(work->depth, window));
}

/* The share of a thread, in a grid of so many. 1: no memory. */
static int run(const struct work *work, int64_t number_of, int64_t across, int64_t down)
{
    int64_t blocks = parts_of(work->rows, LANES), i = number_of % across, j = number_of / across;
    struct share own = {work->cut.panels * i / across, work->cut.panels * (i + 1) / across, blocks * j / down * LANES,
                        least(work->rows, blocks * (j + 1) / down * LANES), 0, 0};
    int64_t rows = up(own.last_row - own.first_row, LANES);
    int kept = work->window < work->depth;
    own.panels = aligned_alloc(64, up(work->at_once * work->window * WIDEST * sizeof(unit), 64));
    own.kept = kept ? aligned_alloc(64, up(rows * work->at_once * WIDEST * sizeof(float), 64)) : 0;
    int short_of_memory = !own.panels || (kept && !own.kept);
    if (!short_of_memory)
        computed(work, &own);
    free(own.panels);
    free(own.kept);
    return short_of_memory;
}

/* Whether the function below reaches the rate of the processor's multipliers: its tiles want 32 registers of 512 bits. */
int multiplies(void)
{
#if defined(FLOAT32) || defined(TWOS)
    return LANES == 16;
#else
    return 0;
#endif
}

/* Copies of all a that lie, standing: rows of units, with zeros behind an odd length. 1: no memory. */
static int stood(struct work *work, number **room)
{
    for (int64_t s = 0; s < work->count; s++) {
        struct part *part = work->parts + s;
        if (!part->lying)
            continue;
        int64_t stride = up(parts_of(part->length, UNIT), LANES);
        unit *to = aligned_alloc(64, up(work->rows, LANES) * stride * sizeof(unit));
        if (!to)
            return 1;
        stood_up(to, stride, part->a, part->a_stride, part->length, work->rows);
        part->a = room[s] = (number *)to;
        part->a_stride = stride * UNIT;
    }
    return 0;
}

static int all_computed(struct work *work, int threads)
{
    int64_t across = cut_for(work, threads), down = least(threads / across, parts_of(work->rows, LANES));
    int64_t panels = parts_of(work->cut.panels, across);
    work->window = window_for(work, panels);
    work->at_once = parts_of(panels, parts_of(panels, NEAR / (work->window * WIDEST)));
    int short_of_memory = 0;
#pragma omp parallel for num_threads(across * down) reduction(| : short_of_memory) schedule(static, 1) if (across * down > 1)
    for (int64_t each = 0; each < across * down; each++)
        short_of_memory |= run(work, each, across, down);
    return short_of_memory;
}

/* The length of a sum is not zero; strides and lengths are even in bfloat16, but for those of an a that lies, and for the
 * length of a b that is not across, whose a lies or has a zero behind each row. */
int products(const struct sum *sum, int threads)
{
    struct work work = {.sum = sum, .count = sum->count, .rows = sum->rows, .cut = cut_of(sum->columns)};
    number *room[PARTS] = {0};
    memcpy(work.parts, sum->parts, sum->count * sizeof(struct part));
    for (int64_t s = 0; s < work.count; s++)
        work.bases[s + 1] = work.bases[s] + parts_of(work.parts[s].length, UNIT);
    work.depth = work.bases[work.count];
    int short_of_memory = stood(&work, room) || all_computed(&work, threads);
    for (int64_t s = 0; s < work.count; s++)
        free(room[s]);
    return short_of_memory;
}

/* The gradient of causal attention over packed rows (Dao et al. 2022, arXiv:2205.14135, algorithm 4), with sums in float32:
 *
 *     P = exp(c q k' - z),   dP = dO v',   dS = c P (dP - rowsum(P dP)),   dq = dS k,   dk = dS' q,   dv = P' dO
 *
 * A row may have more keys than queries: its queries are the last of its tokens, and all of them see what is before.
 * A task is a row of the batch and a key head; its query heads follow one another, and their queries go TILE at a time.
 * Whatever lies behind the diagonal is not computed, but for the edges of blocks. */

#include <stdlib.h>

#include "kernels.h"
#include "blocks.h"

/* A row of the batch and one of its key heads; a pointer stands at its first token and its first head. */
struct task {
    const number *query, *key, *value, *gradient;
    const float *log_sum;
    number *d_query, *d_key, *d_value;
    int64_t length, past; /* queries, and keys before the first of them */
};

struct shape {
    int64_t heads, groups, width; /* H, G, K */
    float scale;
};

/* Room for a task; rows that a row of the batch does not have are zero. Pairs: units along the rows. */
struct space {
    int64_t columns;                    /* C, of a row of the batch, a multiple of TILE */
    unit *keys, *values, *key_pairs;    /* (K / UNIT, C) twice, (C / UNIT, K) */
    float *d_key, *d_value;             /* (C, K) */
    number *query, *gradient;           /* (TILE, K) */
    unit *query_pairs, *gradient_pairs; /* (TILE / UNIT, K) */
    float *d_query;                     /* (HIGH, K) */
    float *scores, *slopes;             /* c q k' and dO v', (HIGH, C) */
    number *weights, *change;           /* P and dS, (TILE, C) */
    unit *weight_pairs, *change_pairs;  /* (TILE / UNIT, C); in float32 these are their rows */
};

static size_t floats_of(int64_t columns, int64_t width)
{
    return 5 * columns * width + (4 * TILE + HIGH) * width + (2 * HIGH + 4 * TILE) * columns;
}

static struct space laid_out(float *at, int64_t columns, int64_t width)
{
    int64_t all = columns * width, tile = TILE * width, block = TILE * columns;
    float *tiles = at + 5 * all, *d_query = tiles + 4 * tile, *scores = d_query + HIGH * width;
    float *slopes = scores + HIGH * columns, *blocks = slopes + HIGH * columns, *pairs = blocks + 2 * block * (UNIT > 1);
    return (struct space){columns, (unit *)at, (unit *)(at + all), (unit *)(at + 2 * all), at + 3 * all, at + 4 * all,
                          (number *)tiles, (number *)(tiles + tile), (unit *)(tiles + 2 * tile), (unit *)(tiles + 3 * tile),
                          d_query, scores, slopes, (number *)blocks, (number *)(blocks + block),
                          (unit *)pairs, (unit *)(pairs + block)};
}

static void load_keys(const struct task *task, const struct shape *of, const struct space *in)
{
    int64_t width = of->width, columns = in->columns, stride = of->groups * width, keys = task->past + task->length;
    turned_keys(in->keys, columns, task->key, stride, keys, width);
    turned_keys(in->values, columns, task->value, stride, keys, width);
    paired(in->key_pairs, width, task->key, stride, keys, width);
    memset(in->d_key, 0, 2 * columns * width * sizeof(float)); /* and d_value */
}

static void load_queries(const number *query, const number *gradient, int64_t count, const struct shape *of,
                         const struct space *in)
{
    int64_t width = of->width, stride = of->heads * width, rest = (up(count, HIGH) - count) * width;
    for (int64_t i = 0; i < count; i++) {
        copied(in->query + i * width, query + i * stride, width);
        copied(in->gradient + i * width, gradient + i * stride, width);
    }
    memset(in->query + count * width, 0, rest * sizeof(number));
    memset(in->gradient + count * width, 0, rest * sizeof(number));
    paired(in->query_pairs, width, in->query, width, up(count, HIGH), width);
    paired(in->gradient_pairs, width, in->gradient, width, up(count, HIGH), width);
}

/* c q k' and dO v' of a query become P and dS; `seen` keys are its past, the others up to `end` get zeros. The sum of P is
 * taken again: z may be of scores that were rounded, as they are on a processor without units for bfloat16. */
static void weigh(float *scores, float *slopes, float log_sum, float scale, int64_t seen, int64_t end, number *weights,
                  number *change)
{
    lanes masses = {0}, totals = {0};
    for (int64_t j = 0; j < seen; j += LANES) {
        lanes each = first(exponentials(scale * *(lanes *)(scores + j) - log_sum), seen - j, 0.0f);
        *(lanes *)(scores + j) = each;
        masses += each;
        totals += each * *(lanes *)(slopes + j);
    }
    float share = seen ? 1.0f / total(masses) : 0.0f, mean = total(totals) * share;
    for (int64_t j = 0; j < seen; j += LANES) {
        lanes each = share * *(lanes *)(scores + j);
        narrowed(weights + j, each);
        narrowed(change + j, scale * each * (*(lanes *)(slopes + j) - mean));
    }
    for (int64_t j = up(seen, LANES); j < end; j += LANES) {
        narrowed(weights + j, (lanes){0});
        narrowed(change + j, (lanes){0});
    }
}

/* What queries [first, end), of which so many rows are there, add to d_key and d_value. */
static void add_to_keys(int64_t first, int64_t end, int64_t rows, int64_t width, const struct space *in)
{
    int64_t columns = in->columns;
    for (int64_t j = 0; j < end; j += HIGH) {
        int64_t from = j > first ? (j - first) / HIGH * HIGH : 0; /* no query before it sees a key of the block */
        int64_t at = from / UNIT * columns + j, with = from / UNIT * width, depth = (rows - from) / UNIT;
        product(in->change_pairs + at, 1, columns, in->query_pairs + with, width, depth, in->d_key + j * width, width, width, 1);
        product(in->weight_pairs + at, 1, columns, in->gradient_pairs + with, width, depth, in->d_value + j * width, width, width, 1);
    }
}

/* Queries `start` to `start + count` of a query head; d_key and d_value collect. */
static void tile(const struct task *task, int64_t head, int64_t start, int64_t count, const struct shape *of,
                 const struct space *in)
{
    int64_t width = of->width, units = width / UNIT, columns = in->columns, stride = of->heads * width, rows = up(count, HIGH);
    int64_t at = start * stride + head * width, first = task->past + start, last = least(up(first + TILE + HIGH, LANES), columns);
    load_queries(task->query + at, task->gradient + at, count, of, in);
    for (int64_t i = 0; i < rows; i += HIGH) {
        int64_t seen = least(first + i + HIGH, task->past + task->length), across = up(seen, LANES);
        number *weights = in->weights + i * columns, *change = in->change + i * columns;
        product((const unit *)(in->query + i * width), units, 1, in->keys, columns, units, in->scores, columns, across, 0);
        product((const unit *)(in->gradient + i * width), units, 1, in->values, columns, units, in->slopes, columns, across, 0);
        for (int64_t m = 0; m < HIGH; m++) {
            int real = i + m < count;
            float log_sum = real ? task->log_sum[(start + i + m) * of->heads + head] : 0.0f;
            weigh(in->scores + m * columns, in->slopes + m * columns, log_sum, of->scale, real ? first + i + m + 1 : 0, last,
                  weights + m * columns, change + m * columns);
        }
        product((const unit *)change, columns / UNIT, 1, in->key_pairs, width, parts_of(seen, UNIT), in->d_query, width, width, 0);
        for (int64_t m = 0; m < least(HIGH, count - i); m++)
            for (int64_t x = 0; x < width; x += LANES)
                narrowed(task->d_query + at + (i + m) * stride + x, *(const lanes *)(in->d_query + m * width + x));
    }
    if (UNIT > 1) {
        paired(in->weight_pairs, columns, in->weights, columns, rows, last);
        paired(in->change_pairs, columns, in->change, columns, rows, last);
    }
    add_to_keys(first, first + count, rows, width, in);
}

static void finish(const struct task *task, const struct shape *of, const struct space *in)
{
    int64_t width = of->width, stride = of->groups * width;
    for (int64_t j = 0; j < task->past + task->length; j++)
        for (int64_t i = 0; i < width; i += LANES) {
            narrowed(task->d_key + j * stride + i, *(const lanes *)(in->d_key + j * width + i));
            narrowed(task->d_value + j * stride + i, *(const lanes *)(in->d_value + j * width + i));
        }
}

/* q, dO, dq (T, H, K); k, v, dk, dv (T', G, K); z (T, H); K a multiple of LANES. Offsets (rows + 1) of the rows in T and
 * in T'. 1: no memory. */
int attention_back(const number *query, const number *key, const number *value, const number *gradient, const float *log_sum,
                   number *d_query, number *d_key, number *d_value, const int64_t *offsets, const int64_t *key_offsets,
                   int64_t rows, int64_t heads, int64_t groups, int64_t width, float scale, int threads)
{
    struct shape of = {heads, groups, width, scale};
    int64_t share = heads / groups, columns = up(longest_of(key_offsets, rows), TILE);
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *room = malloc(floats_of(columns, width) * sizeof(float));
        if (!room)
            failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < rows * groups; number++) {
            int64_t row = number / groups, group = number % groups, at = offsets[row], key_at = key_offsets[row];
            int64_t q = (at * heads + group * share) * width, k = (key_at * groups + group) * width;
            int64_t length = offsets[row + 1] - at, keys = key_offsets[row + 1] - key_at;
            struct task task = {query + q, key + k, value + k, gradient + q, log_sum + at * heads + group * share,
                                d_query + q, d_key + k, d_value + k, length, keys - length};
            if (!room)
                continue;
            struct space in = laid_out(room, up(keys, TILE), width);
            load_keys(&task, &of, &in);
            for (int64_t head = 0; head < share; head++)
                for (int64_t start = 0; start < length; start += TILE)
                    tile(&task, head, start, least(TILE, length - start), &of, &in);
            finish(&task, &of, &in);
        }
        free(room);
    }
    return failed;
}

/* The gradient of causal attention over packed rows (Dao et al. 2022, arXiv:2205.14135, algorithm 4), with sums in float32:
 *
 *     P = exp(c q k' - z),   dP = dO v',   dS = c P (dP - rowsum(P dP)),   dq = dS k,   dk = dS' q,   dv = P' dO
 *
 * A row may have more keys than queries: its queries are the last of its tokens, and all of them see what is before.
 * A task is a row of the batch and a key head; its query heads follow one another, and their queries go TILE at a time.
 * Whatever lies behind the diagonal is not computed, but for the edges of blocks. */

#include <stdlib.h>

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

/* Room for a task; rows that a row of the batch does not have are zero. */
struct space {
    int64_t columns;                   /* C, of a row of the batch, a multiple of TILE */
    unit *keys, *values;               /* (K / UNIT, C) */
    float *key;                        /* (C, K) */
    float *d_key, *d_value;            /* (C, K) */
    number *queries, *gradients;       /* (TILE, K) */
    float *query, *gradient, *d_query; /* the same, and (TILE, K) */
    float *weights, *change;           /* P and dS, (TILE, C) */
};

static size_t floats_of(int64_t columns, int64_t width)
{
    return 5 * columns * width + 5 * TILE * width + 2 * TILE * columns;
}

static struct space laid_out(float *at, int64_t columns, int64_t width)
{
    int64_t all = columns * width, tile = TILE * width;
    float *tiles = at + 5 * all;
    return (struct space){columns, (unit *)at, (unit *)(at + all), at + 2 * all, at + 3 * all, at + 4 * all,
                          (number *)tiles, (number *)(tiles + tile), tiles + 2 * tile, tiles + 3 * tile,
                          tiles + 4 * tile, tiles + 5 * tile, tiles + 5 * tile + TILE * columns};
}

static void load_keys(const struct task *task, const struct shape *of, const struct space *in)
{
    int64_t width = of->width, columns = in->columns, stride = of->groups * width, keys = task->past + task->length;
    turned_keys(in->keys, columns, task->key, stride, keys, width);
    turned_keys(in->values, columns, task->value, stride, keys, width);
    memset(in->key, 0, 3 * columns * width * sizeof(float)); /* and d_key and d_value */
    for (int64_t j = 0; j < keys; j++)
        for (int64_t i = 0; i < width; i++)
            in->key[j * width + i] = wide(task->key[j * stride + i]);
}

static void load_queries(const number *query, const number *gradient, int64_t count, const struct shape *of,
                         const struct space *in)
{
    int64_t width = of->width, stride = of->heads * width, rows = up(count, HIGH);
    for (int64_t i = 0; i < rows; i++) {
        number *queries = in->queries + i * width, *gradients = in->gradients + i * width;
        if (i < count) {
            memcpy(queries, query + i * stride, width * sizeof(number));
            memcpy(gradients, gradient + i * stride, width * sizeof(number));
        } else {
            memset(queries, 0, width * sizeof(number));
            memset(gradients, 0, width * sizeof(number));
        }
        for (int64_t x = 0; x < width; x++) {
            in->query[i * width + x] = wide(queries[x]);
            in->gradient[i * width + x] = wide(gradients[x]);
        }
    }
}

/* c q k' and dO v' of a query become P and dS; `seen` keys are its past, the others up to `end` get zeros. The sum of P is
 * taken again: z may be of scores that were rounded, as they are on a processor without units for bfloat16. */
static void weigh(float *weights, float *change, float log_sum, float scale, int64_t seen, int64_t end)
{
    float mass = 0.0f, total = 0.0f;
#pragma omp simd reduction(+ : mass, total)
    for (int64_t j = 0; j < seen; j++) {
        weights[j] = exponential(scale * weights[j] - log_sum);
        mass += weights[j];
        total += weights[j] * change[j];
    }
    float share = seen ? 1.0f / mass : 0.0f, mean = total * share;
#pragma omp simd
    for (int64_t j = 0; j < seen; j++) {
        weights[j] *= share;
        change[j] = scale * weights[j] * (change[j] - mean);
    }
    for (int64_t j = seen; j < end; j++)
        weights[j] = change[j] = 0.0f;
}

/* Queries `start` to `start + count` of a query head; d_key and d_value collect. */
static void tile(const struct task *task, int64_t head, int64_t start, int64_t count, const struct shape *of,
                 const struct space *in)
{
    int64_t width = of->width, columns = in->columns, stride = of->heads * width, rows = up(count, HIGH);
    int64_t at = start * stride + head * width, first = task->past + start, last = least(first + TILE + HIGH, columns);
    load_queries(task->query + at, task->gradient + at, count, of, in);
    for (int64_t i = 0; i < rows; i += HIGH) {
        int64_t seen = least(first + i + HIGH, task->past + task->length), across = up(seen, LANES);
        float *weights = in->weights + i * columns, *change = in->change + i * columns;
        scored(in->queries + i * width, width, in->keys, columns, weights, across);
        scored(in->gradients + i * width, width, in->values, columns, change, across);
        for (int64_t m = 0; m < HIGH; m++) {
            int real = i + m < count;
            float log_sum = real ? task->log_sum[(start + i + m) * of->heads + head] : 0.0f;
            weigh(weights + m * columns, change + m * columns, log_sum, of->scale, real ? first + i + m + 1 : 0, last);
        }
        product(change, columns, 1, in->key, width, seen, in->d_query + i * width, width, width, 0);
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t x = 0; x < width; x++)
            task->d_query[at + i * stride + x] = narrow(in->d_query[i * width + x]);
    for (int64_t j = 0; j < first + count; j += HIGH) {
        int64_t from = j > first ? (j - first) / HIGH * HIGH : 0; /* no query before it sees a key of the block */
        const float *change = in->change + from * columns + j, *weights = in->weights + from * columns + j;
        const float *query = in->query + from * width, *gradient = in->gradient + from * width;
        product(change, 1, columns, query, width, rows - from, in->d_key + j * width, width, width, 1);
        product(weights, 1, columns, gradient, width, rows - from, in->d_value + j * width, width, width, 1);
    }
}

static void finish(const struct task *task, const struct shape *of, const struct space *in)
{
    int64_t width = of->width, stride = of->groups * width;
    for (int64_t j = 0; j < task->past + task->length; j++)
        for (int64_t i = 0; i < width; i++) {
            task->d_key[j * stride + i] = narrow(in->d_key[j * width + i]);
            task->d_value[j * stride + i] = narrow(in->d_value[j * width + i]);
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

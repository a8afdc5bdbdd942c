/* Causal attention over packed rows, with sums in float32:
 *
 *     s = c q k',   m = max s,   P = exp(s - m),   o = P v / sum P,   z = m + log sum P
 *
 * Rows, heads and what a query sees are those of the gradient (attention_back.c). A task is a row of the batch and a key head;
 * queries go HIGH at a time, and their scores stay in the cache. Whatever lies behind the diagonal is not computed, but for
 * the edges of blocks. */

#include <stdlib.h>

#include "kernels.h"
#include "blocks.h"

/* A row of the batch and one of its key heads; a pointer stands at its first token and its first head. */
struct asked {
    const number *query, *key, *value;
    number *output;
    float *log_sum;
    int64_t length, past; /* queries, and keys before the first of them */
};

/* Room for a task. */
struct room {
    int64_t columns;         /* C, of a row of the batch, a multiple of TILE */
    unit *keys, *values;     /* (K / UNIT, C), (C / UNIT, K) */
    number *query, *odds;    /* (HIGH, K), and P, (HIGH, C) */
    float *output, *weights; /* (HIGH, K), (HIGH, C) */
};

static struct room laid_out(float *at, int64_t columns, int64_t width)
{
    float *queries = at + 2 * columns * width, *odds = queries + HIGH * width, *output = odds + HIGH * columns;
    return (struct room){columns, (unit *)at, (unit *)(at + columns * width), (number *)queries, (number *)odds, output,
                         output + HIGH * width};
}

static void read_keys(const struct asked *task, int64_t groups, int64_t width, const struct room *in)
{
    int64_t stride = groups * width, keys = task->past + task->length;
    turned_keys(in->keys, in->columns, task->key, stride, keys, width);
    paired(in->values, width, task->value, stride, keys, width);
}

/* P from q k' of a query, over the `seen` keys of its past; those behind, up to `end`, get zeros. Gives the sum of P, before
 * it is rounded, and leaves z. */
static float softmax(const float *weights, float scale, int64_t seen, int64_t end, number *odds, float *log_sum)
{
    lanes tops = lanes_of(-INFINITY), masses = {0};
    for (int64_t j = 0; j < seen; j += LANES)
        tops = larger(first(*(const lanes *)(weights + j), seen - j, -INFINITY), tops);
    float most = scale * highest(tops);
    for (int64_t j = 0; j < seen; j += LANES) {
        lanes each = first(exponentials(scale * *(const lanes *)(weights + j) - most), seen - j, 0.0f);
        narrowed(odds + j, each);
        masses += each;
    }
    for (int64_t j = up(seen, LANES); j < end; j += LANES)
        narrowed(odds + j, (lanes){0});
    float mass = total(masses);
    *log_sum = most + logf(mass);
    return mass;
}

/* Queries `start` to `start + count` of a query head. */
static void attend(const struct asked *task, int64_t head, int64_t start, int64_t count, int64_t heads, int64_t width,
                   float scale, const struct room *in)
{
    int64_t stride = heads * width, at = start * stride + head * width;
    int64_t end = task->past + start + count, across = up(end, LANES);
    memset(in->query + count * width, 0, (HIGH - count) * width * sizeof(number));
    for (int64_t i = 0; i < count; i++)
        copied(in->query + i * width, task->query + at + i * stride, width);
    product((const unit *)in->query, width / UNIT, 1, in->keys, in->columns, width / UNIT, in->weights, in->columns, across, 0);
    float mass[HIGH];
    for (int64_t i = 0; i < count; i++)
        mass[i] = softmax(in->weights + i * in->columns, scale, task->past + start + i + 1, across,
                          in->odds + i * in->columns, task->log_sum + (start + i) * heads + head);
    product((const unit *)in->odds, in->columns / UNIT, 1, in->values, width, parts_of(end, UNIT), in->output, width, width, 0);
    for (int64_t i = 0; i < count; i++)
        for (int64_t x = 0; x < width; x += LANES)
            narrowed(task->output + at + i * stride + x, *(const lanes *)(in->output + i * width + x) / mass[i]);
}

/* q, o (T, H, K); k, v (T', G, K); z (T, H); K a multiple of LANES. Offsets (rows + 1) of the rows in T and in T'.
 * 1: no memory. */
int attention(const number *query, const number *key, const number *value, number *output, float *log_sum,
              const int64_t *offsets, const int64_t *key_offsets, int64_t rows, int64_t heads, int64_t groups,
              int64_t width, float scale, int threads)
{
    int64_t share = heads / groups, most = up(longest_of(key_offsets, rows), TILE);
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *at = malloc((2 * most * width + 2 * HIGH * width + 2 * HIGH * most) * sizeof(float));
        if (!at)
            failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t number_of = 0; number_of < rows * groups; number_of++) {
            int64_t row = number_of / groups, group = number_of % groups, first = offsets[row], key_first = key_offsets[row];
            int64_t q = (first * heads + group * share) * width, k = (key_first * groups + group) * width;
            int64_t length = offsets[row + 1] - first, keys = key_offsets[row + 1] - key_first, columns = up(keys, TILE);
            struct asked task = {query + q, key + k, value + k, output + q, log_sum + first * heads + group * share,
                                 length, keys - length};
            if (!at || !length)
                continue;
            struct room in = laid_out(at, columns, width);
            read_keys(&task, groups, width, &in);
            for (int64_t head = 0; head < share; head++)
                for (int64_t start = 0; start < length; start += HIGH)
                    attend(&task, head, start, least(HIGH, length - start), heads, width, scale, &in);
        }
        free(at);
    }
    return failed;
}

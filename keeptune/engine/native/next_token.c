/* Cross-entropy of the next token: loss = w (log sum_v e^z_v - z_y), dz_v = w (p_v - [v = y]), p = softmax(z). */

#include <stdlib.h>

#include "kernels.h"
#include "vectors.h"

static float top_of(const number *z, int64_t vocabulary)
{
    lanes tops[CHAINS] = {lanes_of(-INFINITY), lanes_of(-INFINITY), lanes_of(-INFINITY), lanes_of(-INFINITY)};
    int64_t v = 0;
    for (; v + CHAINS * LANES <= vocabulary; v += CHAINS * LANES)
        UNROLLED(int i = 0; i < CHAINS; i++) tops[i] = larger(widened(z + v + i * LANES), tops[i]);
    lanes all = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
    float top = highest(all);
    for (; v < vocabulary; v++)
        top = wide(z[v]) > top ? wide(z[v]) : top;
    return top;
}

/* e^(z - top) and their sum. */
static float odds_of(const number *z, float top, float *odds, int64_t vocabulary)
{
    lanes sums[CHAINS] = {0};
    float mass = 0.0f;
    int64_t v = 0;
    for (; v + CHAINS * LANES <= vocabulary; v += CHAINS * LANES)
        UNROLLED(int i = 0; i < CHAINS; i++)
        {
            lanes each = exponentials(widened(z + v + i * LANES) - top);
            *(lanes *)(odds + v + i * LANES) = each;
            sums[i] += each;
        }
    for (; v < vocabulary; v += LANES) {
        int64_t count = least(LANES, vocabulary - v);
        *(lanes *)(odds + v) = exponentials(some(z + v, count) - top);
        for (int64_t i = 0; i < count; i++)
            mass += odds[v + i];
    }
    return mass + total(all_of(sums));
}

/* z (rows, vocabulary), where dz takes its place; y (rows); w (rows), or NULL for ones; loss (rows). 1: no memory. */
int next_token(number *logits, const int64_t *target, const float *weight, float *loss, int64_t rows, int64_t vocabulary,
               int threads)
{
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *odds = malloc(up(vocabulary, LANES) * sizeof(float));
        if (!odds)
            failed = 1;
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            if (!odds)
                continue;
            number *z = logits + row * vocabulary;
            float gold = wide(z[target[row]]), w = weight ? weight[row] : 1.0f;
            float top = top_of(z, vocabulary), mass = odds_of(z, top, odds, vocabulary);
            float nats = top + logf(mass) - gold, share = w / mass;
            for (int64_t v = 0; v < vocabulary; v += LANES)
                put(z + v, *(const lanes *)(odds + v) * share, vocabulary - v);
            z[target[row]] = narrow(w * expm1f(-nats));
            loss[row] = w * nats;
        }
        free(odds);
    }
    return failed;
}

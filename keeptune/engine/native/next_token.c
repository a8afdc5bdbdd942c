/* Cross-entropy of the next token: loss = w (log sum_v e^z_v - z_y), dz_v = w (p_v - [v = y]), p = softmax(z). */

#include <stdlib.h>

#include "lanes.h"

/* z (rows, vocabulary), where dz takes its place; y (rows); w (rows), or NULL for ones; loss (rows). 1: no memory. */
int next_token(number *logits, const int64_t *target, const float *weight, float *loss, int64_t rows, int64_t vocabulary,
               int threads)
{
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *odds = malloc(vocabulary * sizeof(float));
        if (!odds)
            failed = 1;
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            if (!odds)
                continue;
            number *z = logits + row * vocabulary;
            float top = -INFINITY, mass = 0.0f, gold = wide(z[target[row]]), w = weight ? weight[row] : 1.0f;
#pragma omp simd reduction(max : top)
            for (int64_t v = 0; v < vocabulary; v++) {
                float each = wide(z[v]);
                top = each > top ? each : top;
            }
#pragma omp simd reduction(+ : mass)
            for (int64_t v = 0; v < vocabulary; v++) {
                float each = exponential(wide(z[v]) - top);
                odds[v] = each;
                mass += each;
            }
            float nats = top + logf(mass) - gold, share = w / mass;
#pragma omp simd
            for (int64_t v = 0; v < vocabulary; v++)
                z[v] = narrow(odds[v] * share);
            z[target[row]] = narrow(w * expm1f(-nats));
            loss[row] = w * nats;
        }
        free(odds);
    }
    return failed;
}

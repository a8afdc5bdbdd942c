/* SwiGLU: x = a u, a = t s, s = sigmoid(t), and its gradient dt = g u (s + a (1 - s)), du = g a. */

#include "lanes.h"

#define BLOCK 4096

/* t, u, x (count). */
void gated(const number *restrict gate, const number *restrict up, number *restrict value, int64_t count, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t end = start + BLOCK < count ? start + BLOCK : count;
#pragma omp simd
        for (int64_t i = start; i < end; i++) {
            float t = wide(gate[i]), s = 1.0f / (1.0f + exponential(-t));
            value[i] = narrow(rounded(t * s) * wide(up[i]));
        }
    }
}

/* t, u, g, dt, du (count); value (count), or NULL when it is not wanted. */
void gated_back(const number *restrict gradient, const number *restrict gate, const number *restrict up,
                number *restrict value, number *restrict d_gate, number *restrict d_up, int64_t count, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t end = start + BLOCK < count ? start + BLOCK : count;
#pragma omp simd
        for (int64_t i = start; i < end; i++) {
            float t = wide(gate[i]), g = wide(gradient[i]);
            float s = 1.0f / (1.0f + exponential(-t)), a = t * s;
            d_gate[i] = narrow(g * wide(up[i]) * (s + a * (1.0f - s)));
            d_up[i] = narrow(g * a);
            if (value)
                value[i] = narrow(rounded(a) * wide(up[i]));
        }
    }
}

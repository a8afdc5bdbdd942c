/* SwiGLU: x = a u, a = t s, s = sigmoid(t), and its gradient dt = g u (s + a (1 - s)), du = g a. */

#include "kernels.h"
#include "vectors.h"

#define BLOCK 4096 /* a multiple of LANES */

INLINE lanes sigmoids(lanes t)
{
    lanes below = 1.0f + exponentials(-t);
#ifdef TWOS
    lanes near = (lanes)_mm512_rcp14_ps((__m512)below); /* a step of Newton's: within 2^-23 */
    return near * (2.0f - below * near);
#else
    return 1.0f / below;
#endif
}

/* t, u, x (count). */
void gated(const number *restrict gate, const number *restrict up, number *restrict value, int64_t count, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t end = least(start + BLOCK, count);
        for (int64_t i = start; i < end; i += LANES) {
            lanes t = some(gate + i, end - i), u = some(up + i, end - i);
            put(value + i, t * sigmoids(t) * u, end - i);
        }
    }
}

/* t, u, g, dt, du (count); value (count), or NULL when it is not wanted. */
void gated_back(const number *restrict gradient, const number *restrict gate, const number *restrict up,
                number *restrict value, number *restrict d_gate, number *restrict d_up, int64_t count, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t end = least(start + BLOCK, count);
        for (int64_t i = start; i < end; i += LANES) {
            lanes t = some(gate + i, end - i), u = some(up + i, end - i), g = some(gradient + i, end - i);
            lanes s = sigmoids(t), a = t * s;
            put(d_gate + i, g * u * (s + a * (1.0f - s)), end - i);
            put(d_up + i, g * a, end - i);
            if (value)
                put(value + i, a * u, end - i);
        }
    }
}

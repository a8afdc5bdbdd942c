/* The rotary embedding: (a, b) -> (a c - b s, b c + a s) for the halves a, b of a head; products are rounded first. */

#include "lanes.h"

/* x, turned (rows, heads, 2 half); c, s (rows, half), `stride` apart; sign -1 turns back. */
void rotate(const bf16 *x, const bf16 *cosine, const bf16 *sine, int64_t stride, float sign, bf16 *turned, int64_t rows,
            int64_t heads, int64_t half, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *c = cosine + row * stride, *s = sine + row * stride;
        for (int64_t head = 0; head < heads; head++) {
            const bf16 *a = x + (row * heads + head) * 2 * half, *b = a + half;
            bf16 *left = turned + (row * heads + head) * 2 * half, *right = left + half;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float p = wide(c[i]), q = sign * wide(s[i]), u = wide(a[i]), v = wide(b[i]);
                left[i] = narrow(rounded(u * p) - rounded(v * q));
                right[i] = narrow(rounded(v * p) + rounded(u * q));
            }
        }
    }
}

/* The rotary embedding: (a, b) -> (a c - b s, b c + a s) for the halves a, b of a head; products are rounded first. */

#ifdef __clang__
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include "kernels.h"
#include "vectors.h"

/* x, turned (rows, heads, 2 half); c, s (rows, half), `stride` apart; sign -1 turns back. */
void rotate(const number *x, const number *cosine, const number *sine, int64_t stride, float sign, number *turned, int64_t rows,
            int64_t heads, int64_t half, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const number *c = cosine + row * stride, *s = sine + row * stride;
        for (int64_t head = 0; head < heads; head++) {
            const number *a = x + (row * heads + head) * 2 * half, *b = a + half;
            number *left = turned + (row * heads + head) * 2 * half, *right = left + half;
            for (int64_t i = 0; i < half; i += LANES) {
                int64_t more = half - i;
                lanes p = some(c + i, more), q = sign * some(s + i, more), u = some(a + i, more), v = some(b + i, more);
                put(left + i, all_rounded(u * p) - all_rounded(v * q), more);
                put(right + i, all_rounded(v * p) + all_rounded(u * q), more);
            }
        }
    }
}

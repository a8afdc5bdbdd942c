/* Low-rank updates of rows that have factors of their own: y = h + B' (s A x), each row with its own A, B and s. */

#include "kernels.h"
#include "lanes.h"

#define BLOCK 512
#define RANKS 256

/* x (rows, inputs); h, y (rows, outputs); A (sets, rank, inputs); B (sets, rank, outputs); s (sets, rank); set (rows), -1
 * for a row without one. Rank is at most RANKS. */
void low_rank(const number *x, const number *h, const number *A, const number *B, const float *scale, const int64_t *set,
              number *y, int64_t rows, int64_t inputs, int64_t outputs, int64_t rank, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const number *from = x + row * inputs, *old = h + row * outputs;
        number *to = y + row * outputs;
        if (set[row] < 0) {
            memcpy(to, old, outputs * sizeof(number));
            continue;
        }
        const number *a = A + set[row] * rank * inputs, *b = B + set[row] * rank * outputs;
        float inner[RANKS];
        for (int64_t j = 0; j < rank; j++) {
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < inputs; i++)
                sum += wide(a[j * inputs + i]) * wide(from[i]);
            inner[j] = sum * scale[set[row] * rank + j];
        }
        for (int64_t start = 0; start < outputs; start += BLOCK) {
            int64_t count = start + BLOCK < outputs ? BLOCK : outputs - start;
            float change[BLOCK] = {0};
            for (int64_t j = 0; j < rank; j++) {
                const number *line = b + j * outputs + start;
#pragma omp simd
                for (int64_t i = 0; i < count; i++)
                    change[i] += inner[j] * wide(line[i]);
            }
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                to[start + i] = narrow(wide(old[start + i]) + change[i]);
        }
    }
}

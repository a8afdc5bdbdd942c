/* The root-mean-square norm: x = w h r, r = (mean(h^2) + eps)^-1/2, and its gradient dh = r (w g - h r^2 mean(w g h)). */

#include "kernels.h"
#include "vectors.h"

/* w h r, from i on, of which so many are left. */
INLINE void scaled(const number *h, const number *weight, float r, number *x, int64_t i, int64_t left)
{
    put(x + i, all_rounded(some(h + i, left) * r) * some(weight + i, left), left);
}

/* h, x (rows, width); w (width). */
void norm(const number *input, const number *weight, float epsilon, number *value, int64_t rows, int64_t width, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const number *h = input + row * width;
        number *x = value + row * width;
        lanes squares[CHAINS] = {0};
        for (int64_t i = 0; i < width; i += CHAINS * LANES)
            UNROLLED(int64_t j = 0; j < CHAINS; j++)
            {
                lanes each = some(h + i + j * LANES, width - i - j * LANES);
                squares[j] += each * each;
            }
        float r = 1.0f / sqrtf(total(all_of(squares)) / (float)width + epsilon);
        for (int64_t i = 0; i < width; i += LANES)
            scaled(h, weight, r, x, i, width - i);
    }
}

/* h, g, dh (rows, width); w (width); what dh is added to (rows, width), or NULL; value (rows, width), or NULL when it is not
 * wanted. */
void norm_back(const number *gradient, const number *input, const number *weight, const number *onto, float epsilon,
               number *value, number *d_input, int64_t rows, int64_t width, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const number *h = input + row * width, *g = gradient + row * width;
        number *dh = d_input + row * width;
        lanes squares[CHAINS] = {0}, shared[CHAINS] = {0};
        for (int64_t i = 0; i < width; i += CHAINS * LANES)
            UNROLLED(int64_t j = 0; j < CHAINS; j++)
            {
                int64_t at = i + j * LANES, left = width - at;
                lanes each = some(h + at, left);
                squares[j] += each * each;
                shared[j] += some(g + at, left) * some(weight + at, left) * each;
            }
        float r = 1.0f / sqrtf(total(all_of(squares)) / (float)width + epsilon);
        float along = -total(all_of(shared)) * r * r * r / (float)width;
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t left = width - i;
            lanes slope = some(g + i, left) * some(weight + i, left) * r + some(h + i, left) * along;
            if (onto)
                slope += some(onto + row * width + i, left);
            put(dh + i, slope, left);
            if (value)
                scaled(h, weight, r, value + row * width, i, left);
        }
    }
}

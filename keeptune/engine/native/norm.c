/* The root-mean-square norm: x = w h r, r = (mean(h^2) + eps)^-1/2, and its gradient dh = r (w g - h r^2 mean(w g h)). */

#include "lanes.h"

/* h, x (rows, width); w (width). */
void norm(const number *input, const number *weight, float epsilon, number *value, int64_t rows, int64_t width, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const number *h = input + row * width;
        number *x = value + row * width;
        float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; i++)
            squares += wide(h[i]) * wide(h[i]);
        float r = 1.0f / sqrtf(squares / (float)width + epsilon);
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            x[i] = narrow(rounded(wide(h[i]) * r) * wide(weight[i]));
    }
}

/* h, g, dh (rows, width); w (width); value (rows, width), or NULL when it is not wanted. */
void norm_back(const number *gradient, const number *input, const number *weight, float epsilon, number *value, number *d_input,
               int64_t rows, int64_t width, int threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const number *h = input + row * width, *g = gradient + row * width;
        number *dh = d_input + row * width;
        float squares = 0.0f, shared = 0.0f;
#pragma omp simd reduction(+ : squares, shared)
        for (int64_t i = 0; i < width; i++) {
            squares += wide(h[i]) * wide(h[i]);
            shared += wide(g[i]) * wide(weight[i]) * wide(h[i]);
        }
        float r = 1.0f / sqrtf(squares / (float)width + epsilon);
        float along = -shared * r * r * r / (float)width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            dh[i] = narrow(wide(g[i]) * wide(weight[i]) * r + wide(h[i]) * along);
        if (value) {
            number *x = value + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                x[i] = narrow(rounded(wide(h[i]) * r) * wide(weight[i]));
        }
    }
}

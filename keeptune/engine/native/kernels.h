/* The kernels; each stands in the file of its name, the gradients of norms and gated units beside their values. Those that
 * answer say 1 where memory was short. */

#ifndef KEEPTUNE_KERNELS_H
#define KEEPTUNE_KERNELS_H

#include "lanes.h"

struct sum;

void norm(const number *input, const number *weight, float epsilon, number *value, int64_t rows, int64_t width, int threads);
void norm_back(const number *gradient, const number *input, const number *weight, const number *onto, float epsilon,
               number *value, number *d_input, int64_t rows, int64_t width, int threads);
void gated(const number *gate, const number *up, number *value, int64_t count, int threads);
void gated_back(const number *gradient, const number *gate, const number *up, number *value, number *d_gate, number *d_up,
                int64_t count, int threads);
void rotate(const number *x, const number *cosine, const number *sine, int64_t stride, float sign, number *turned, int64_t rows,
            int64_t heads, int64_t half, int threads);
int attention(const number *query, const number *key, const number *value, number *output, float *log_sum,
              const int64_t *offsets, const int64_t *key_offsets, int64_t rows, int64_t heads, int64_t groups, int64_t width,
              float scale, int threads);
int attention_back(const number *query, const number *key, const number *value, const number *gradient, const float *log_sum,
                   number *d_query, number *d_key, number *d_value, const int64_t *offsets, const int64_t *key_offsets,
                   int64_t rows, int64_t heads, int64_t groups, int64_t width, float scale, int threads);
int next_token(number *logits, const int64_t *target, const float *weight, float *loss, int64_t rows, int64_t vocabulary,
               int threads);
void low_rank(const number *x, const number *h, const number *A, const number *B, const float *scale, const int64_t *set,
              number *y, int64_t rows, int64_t inputs, int64_t outputs, int64_t rank, int threads);
int products(const struct sum *sum, int threads);

#endif

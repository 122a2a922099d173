// Kernels of which a whole layer is made; see kernels.cpp.

#pragma once

#include <cstdint>
#include <cstring>

using bf16 = uint16_t;  // stored as integers

inline float widen(bf16 value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// To the nearest, ties to even; what is no number stays none.
inline bf16 narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return value != value ? bf16(0x7fc0) : bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// What decides on dropout: an element is dropped if 15 random bits, as a number, are less than the threshold.
struct Dropout {
    uint64_t seed;  // of this mask
    int32_t threshold;  // 0: nothing is dropped
    float scale;  // of elements that are kept

    // Factors, 0 or `scale`, of `count` elements. They follow from `place`, of which there are fewer than 2^32 in a mask.
    void factors(int64_t place, int count, float* target) const;
};

struct Attention {
    const bf16 *query, *key, *value;
    int64_t query_stride, key_stride;  // of query and of key and value
    const int64_t* lengths;
    int rows, heads;
    bool first_only;
    Dropout dropout;
    float alpha;  // of scores
    float* weights;  // (cells): after softmax, before dropout; null: not needed
    int threads;
};

extern "C" {

int64_t attention_cells(const int64_t* lengths, int rows, int heads, int first_only);

void attention_forward(const Attention* task, int size, bf16* out, int64_t out_stride);

void attention_backward(
    const Attention* task, int size, const bf16* gradient, int64_t gradient_stride,
    bf16* to_query, int64_t to_query_stride, bf16* to_key, bf16* to_value, int64_t to_key_stride);

void residual_norm_forward(
    const float* residual, const bf16* values, const Dropout* dropout, const float* weight, const float* bias,
    float epsilon, int64_t rows, int size, float* out, bf16* low, float* normed, float* inverse, int threads);

void residual_norm_backward(
    const float* gradient, const bf16* low_gradient, const Dropout* dropout, const float* weight,
    const float* normed, const float* inverse, int64_t rows, int size, float* to_residual, bf16* to_values,
    float* partial, int threads);

void join_low(const float* const* parts, const int64_t* counts, int number, bf16* out, int threads);

void column_sums(const bf16* in, int64_t rows, int64_t columns, bf16* out, int threads);

void gelu_forward(const bf16* in, bf16* out, int64_t count, int threads);

void gelu_backward(const bf16* in, const bf16* gradient, bf16* out, int64_t count, int threads);

}  // extern "C"

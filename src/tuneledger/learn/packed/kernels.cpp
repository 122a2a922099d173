// What a training step does beside its matrix products, each in one pass over memory: attention, the sum and norm at
// the end of a block, GELU, the optimizer. bf16 is stored as 16-bit integers; sums are in fp32.

#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;  // wider vectors than the processor's are kept in memory
#endif
typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));

template <typename Wide, typename Number>
inline Wide load(const Number* source) {
    Wide result;
    std::memcpy(&result, source, sizeof result);
    return result;
}

inline void store(float* target, Vector value) { std::memcpy(target, &value, sizeof value); }

// The i-th number of a sequence; SplitMix64, https://doi.org/10.1145/2660193.2660195, needs none of those before it.
inline uint64_t random_word(uint64_t start, uint64_t i) {
    uint64_t bits = start + (i + 1) * 0x9e3779b97f4a7c15;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    return bits ^ (bits >> 31);
}

}  // namespace

void Dropout::factors(int64_t place, int count, float* target) const {
    if (!threshold) {
        std::fill(target, target + count, scale);
        return;
    }
    const int limit = threshold;
    const float factor = scale;
    const uint64_t start = seed + (uint64_t(place) << 32);
    constexpr int PART = 256;
    uint64_t words[PART / 4];
    int16_t fields[PART];
    for (int begin = 0; begin < count; begin += PART) {
        const int rest = std::min(PART, count - begin);
        for (int i = 0; i < (rest + 3) / 4; i++) words[i] = random_word(start, begin / 4 + i);
        std::memcpy(fields, words, sizeof fields);
        for (int i = 0; i < rest; i++) target[begin + i] = (fields[i] & 0x7fff) >= limit ? factor : 0.0f;
    }
}

namespace {

// exp(x) for x <= 0, to 3e-7 of itself: 2^n times a Taylor polynomial on [-ln 2 / 2, ln 2 / 2].
inline float exponential(float x) {
    x = std::max(x, -87.0f);
    float n = std::floor(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, so that n times it is exact
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

// x times the normal distribution's probability below x, and its slope, of every bf16 number there is.
struct Gelu {
    std::vector<bf16> values;
    std::vector<float> slopes;

    Gelu() : values(1 << 16), slopes(1 << 16) {
        for (int bits = 0; bits < 1 << 16; bits++) {
            const double x = widen(bf16(bits)), below = 0.5 * std::erfc(-x * std::sqrt(0.5));
            values[bits] = narrow(float(x * below));
            slopes[bits] = float(below + x * std::exp(-0.5 * x * x) / std::sqrt(2 * std::acos(-1.0)));
        }
    }
};

const Gelu& gelu() {
    static const Gelu tables;
    return tables;
}

// Two bf16 numbers that lie side by side, the first in the lower half.
typedef uint32_t __attribute__((may_alias)) Pair;
typedef uint32_t Pairs __attribute__((vector_size(LANES * sizeof(uint32_t))));

// sums += a's two numbers times b's, products and sums in fp32. The instruction takes numbers below 2^-126 as 0.
inline void add_products(Vector& sums, Pair a, Pairs b) {
#ifdef __AVX512BF16__
    sums = (Vector)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)b);
#else
    const Pairs lower = b << 16, upper = b & 0xffff0000u;
    sums += widen(bf16(a)) * (Vector)lower + widen(bf16(a >> 16)) * (Vector)upper;
#endif
}

constexpr int BLOCK = 4;  // rows of a product that are computed together

// c (rows, width) = a (rows, 2 * count) times b (2 * count, width). a's pair k of row i lies at i * down + k * right;
// b's, of rows 2 k and 2 k + 1, at k * width + column; width is a multiple of LANES.
void multiply(const Pair* a, int64_t down, int64_t right, const Pair* b, float* c, int rows, int count, int width) {
    for (int i = 0; i < rows; i += BLOCK) {
        const int last = rows - 1;  // rows beyond the last are computed as the last
        const Pair* rows_of_a[BLOCK];
        for (int r = 0; r < BLOCK; r++) rows_of_a[r] = a + std::min(i + r, last) * down;
        for (int j = 0; j < width; j += 2 * LANES) {
            const int next = std::min(j + LANES, width - LANES);  // of an odd number of vectors one is computed twice
            Vector sums[BLOCK][2] = {};
            for (int k = 0; k < count; k++) {
                const Pairs here = load<Pairs>(b + k * width + j), there = load<Pairs>(b + k * width + next);
                for (int r = 0; r < BLOCK; r++) {
                    const Pair pair = rows_of_a[r][k * right];
                    add_products(sums[r][0], pair, here);
                    add_products(sums[r][1], pair, there);
                }
            }
            for (int r = 0; r < BLOCK; r++) {
                store(c + std::min(i + r, last) * width + j, sums[r][0]);
                store(c + std::min(i + r, last) * width + next, sums[r][1]);
            }
        }
    }
}

inline const Pair* pairs(const bf16* numbers) { return reinterpret_cast<const Pair*>(numbers); }

// Rows, `stride` numbers apart, as the other side of a product of which they are columns: (size / 2, width).
void columns_of(const bf16* source, int64_t stride, int rows, int size, int width, Pair* target) {
    for (int k = 0; k < size / 2; k++) {
        for (int i = 0; i < rows; i++) target[k * width + i] = pairs(source + i * stride)[k];
        std::fill(target + k * width + rows, target + (k + 1) * width, 0u);
    }
}

// Rows two by two, as the other side of a product of which they are rows: (half of the rows, rounded up, size).
void rows_of(const bf16* source, int64_t stride, int rows, int size, Pair* target) {
    for (int i = 0; i < rows; i += 2) {
        const bf16 *first = source + i * stride, *second = first + stride;
        Pair* pair = target + i / 2 * size;
        if (i + 1 < rows)
            for (int k = 0; k < size; k++) pair[k] = first[k] | Pair(second[k]) << 16;
        else
            for (int k = 0; k < size; k++) pair[k] = first[k];
    }
}

template <int SIZE>
void write_head(const float* source, int rows, bf16* target, int64_t stride) {
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < SIZE; k++) target[i * stride + k] = narrow(source[i * SIZE + k]);
}

// One text's part of a batch, of which all heads are alike.
struct Text {
    int queries, keys, width;  // width: keys rounded up to LANES
    int64_t first_query, first_key, cells;  // cells: where its (heads, queries, width) begin among all texts'
};

std::vector<Text> texts_of(const int64_t* lengths, int rows, int heads, bool first_only) {
    std::vector<Text> texts(rows);
    int64_t token = 0, cells = 0;
    for (int row = 0; row < rows; row++) {
        int keys = int(lengths[row]), queries = first_only ? 1 : keys, width = (keys + LANES - 1) / LANES * LANES;
        texts[row] = {queries, keys, width, first_only ? row : token, token, cells};
        token += keys;
        cells += int64_t(heads) * queries * width;
    }
    return texts;
}

// Memory of this thread for `count` numbers, which keep what was in them.
float* scratch(size_t count) {
    static thread_local std::vector<float> memory;
    if (memory.size() < count) memory.resize(count);
    return memory.data();
}

template <int SIZE>
void attend(const Attention& task, bf16* out, int64_t out_stride) {
    auto texts = texts_of(task.lengths, task.rows, task.heads, task.first_only);
#pragma omp parallel for schedule(dynamic) num_threads(task.threads)
    for (int number = 0; number < task.rows * task.heads; number++) {
        const Text& text = texts[number / task.heads];
        const int head = number % task.heads, width = text.width;
        const int queries = text.queries, half = (text.keys + 1) / 2;
        float* memory = scratch(SIZE * (queries + width / 2 + half) + queries * (2 * width + width / 2));
        float *mixed = memory, *used = mixed + SIZE * queries, *factors = used + queries * width;
        Pair *key = reinterpret_cast<Pair*>(factors + queries * width), *value = key + SIZE / 2 * width;
        bf16* low = reinterpret_cast<bf16*>(value + SIZE * half);  // (queries, width): as used in the second product
        const int64_t offset = head * SIZE, cell = text.cells + int64_t(head) * queries * width;
        const bf16* query = task.query + text.first_query * task.query_stride + offset;
        columns_of(task.key + text.first_key * task.key_stride + offset, task.key_stride, text.keys, SIZE, width, key);
        rows_of(task.value + text.first_key * task.key_stride + offset, task.key_stride, text.keys, SIZE, value);
        multiply(pairs(query), task.query_stride / 2, 1, key, used, queries, SIZE / 2, width);
        task.dropout.factors(number, queries * width, factors);
        for (int i = 0; i < queries; i++) {
            float *row = used + i * width, *weights = task.weights ? task.weights + cell + int64_t(i) * width : row;
            float largest = row[0], sum = 0;
            for (int j = 0; j < text.keys; j++) largest = std::max(largest, row[j]);
            for (int j = 0; j < text.keys; j++) row[j] = exponential(task.alpha * (row[j] - largest));
            for (int j = 0; j < text.keys; j++) sum += row[j];
            const float inverse = 1 / sum;
            for (int j = 0; j < text.keys; j++) weights[j] = row[j] * inverse;
            for (int j = text.keys; j < width; j++) weights[j] = 0;
            for (int j = 0; j < width; j++) low[i * width + j] = narrow(weights[j] * factors[i * width + j]);
        }
        multiply(pairs(low), width / 2, 1, value, mixed, queries, half, SIZE);
        write_head<SIZE>(mixed, queries, out + text.first_query * out_stride + offset, out_stride);
    }
}

template <int SIZE>
void attend_back(
    const Attention& task, const bf16* gradient, int64_t gradient_stride,
    bf16* to_query, int64_t to_query_stride, bf16* to_key, bf16* to_value, int64_t to_key_stride) {
    auto texts = texts_of(task.lengths, task.rows, task.heads, task.first_only);
#pragma omp parallel for schedule(dynamic) num_threads(task.threads)
    for (int number = 0; number < task.rows * task.heads; number++) {
        const Text& text = texts[number / task.heads];
        const int head = number % task.heads, width = text.width, queries = text.queries, keys = text.keys;
        const int half_queries = (queries + 1) / 2, half_keys = (keys + 1) / 2;
        const size_t sides = SIZE * (2 * half_queries + half_keys + width / 2);
        float* memory = scratch(SIZE * std::max(queries, keys) + sides + width * (3 * queries + 2 * half_queries));
        float *result = memory, *used = result + SIZE * std::max(queries, keys), *scores = used + queries * width;
        Pair *query = reinterpret_cast<Pair*>(scores + queries * width), *incoming = query + SIZE * half_queries;
        Pair *key = incoming + SIZE * half_queries, *value = key + SIZE * half_keys;
        Pair *used_pairs = value + SIZE / 2 * width, *score_pairs = used_pairs + width * half_queries;
        bf16 *low_used = reinterpret_cast<bf16*>(score_pairs + width * half_queries), *low_scores = low_used + queries * width;
        const int64_t offset = head * SIZE, cell = text.cells + int64_t(head) * queries * width;
        const bf16* given = gradient + text.first_query * gradient_stride + offset;
        rows_of(task.query + text.first_query * task.query_stride + offset, task.query_stride, queries, SIZE, query);
        rows_of(given, gradient_stride, queries, SIZE, incoming);
        rows_of(task.key + text.first_key * task.key_stride + offset, task.key_stride, keys, SIZE, key);
        columns_of(task.value + text.first_key * task.key_stride + offset, task.key_stride, keys, SIZE, width, value);
        multiply(pairs(given), gradient_stride / 2, 1, value, scores, queries, SIZE / 2, width);
        task.dropout.factors(number, queries * width, used);
        for (int i = 0; i < queries; i++) {
            const float* weights = task.weights + cell + int64_t(i) * width;
            float *row = scores + i * width, *seen = used + i * width;
            float sum = 0;
            for (int j = 0; j < width; j++) {
                row[j] *= seen[j];
                seen[j] *= weights[j];
            }
            for (int j = 0; j < width; j++) sum += row[j] * weights[j];
            for (int j = 0; j < width; j++) {
                low_scores[i * width + j] = narrow(task.alpha * weights[j] * (row[j] - sum));
                low_used[i * width + j] = narrow(seen[j]);
            }
        }
        rows_of(low_scores, width, queries, width, score_pairs);
        rows_of(low_used, width, queries, width, used_pairs);
        multiply(pairs(low_scores), width / 2, 1, key, result, queries, half_keys, SIZE);
        write_head<SIZE>(result, queries, to_query + text.first_query * to_query_stride + offset, to_query_stride);
        multiply(score_pairs, 1, width, query, result, keys, half_queries, SIZE);
        write_head<SIZE>(result, keys, to_key + text.first_key * to_key_stride + offset, to_key_stride);
        multiply(used_pairs, 1, width, incoming, result, keys, half_queries, SIZE);
        write_head<SIZE>(result, keys, to_value + text.first_key * to_key_stride + offset, to_key_stride);
    }
}

struct Parameter {
    float *values, *first, *second;  // (count); moments of the gradient
    const void* gradient;  // fp32 or bf16, (count), or (rows in `slots`, width)
    const int32_t* slots;  // for each row of `width` values its row in `gradient`, -1: zeros; null: all are there
    int64_t count, width, given;  // given: numbers in `gradient`
    int32_t low;  // whether the gradient is bf16
    float rate, decay;
    float beta1, rest1, beta2, rest2;  // rest: 1 - beta, which fp32 has no digits left for near 1
    float correction1, correction2, epsilon;
};

constexpr int64_t CHUNK = 1 << 14;  // values that one thread takes at a time

struct Chunk {
    const Parameter* parameter;
    int64_t begin, end;
};

std::vector<Chunk> chunks_of(const Parameter* parameters, int count, bool gradients) {
    std::vector<Chunk> chunks;
    for (const Parameter* p = parameters; p < parameters + count; p++) {
        const int64_t total = gradients ? p->given : p->count;
        const int64_t size = p->slots ? std::max<int64_t>(1, CHUNK / p->width) * p->width : CHUNK;  // whole rows
        for (int64_t begin = 0; begin < total; begin += size) chunks.push_back({p, begin, std::min(begin + size, total)});
    }
    return chunks;
}

inline float gradient_at(const float* gradient, int64_t i) { return gradient[i]; }
inline float gradient_at(const bf16* gradient, int64_t i) { return widen(gradient[i]); }
inline float gradient_at(std::nullptr_t, int64_t) { return 0.0f; }

template <typename Number>
double squares(const Number* gradient, int64_t begin, int64_t end) {
    float sum = 0;
    for (int64_t i = begin; i < end; i++) {
        const float g = gradient_at(gradient, i);
        sum += g * g;
    }
    return sum;
}

// One step of AdamW on values begin to end, `gradient` being that of value `begin`.
template <typename Pointer>
void step(const Parameter& p, Pointer gradient, float scale, int64_t begin, int64_t end) {
    float *values = p.values + begin, *first = p.first + begin, *second = p.second + begin;
    const float kept = 1 - p.rate * p.decay, size = p.rate / p.correction1, root = 1 / std::sqrt(p.correction2);
    for (int64_t i = 0; i < end - begin; i++) {
        const float g = scale * gradient_at(gradient, i);
        first[i] = p.beta1 * first[i] + p.rest1 * g;
        second[i] = p.beta2 * second[i] + p.rest2 * g * g;
        values[i] = kept * values[i] - size * first[i] / (std::sqrt(second[i]) * root + p.epsilon);
    }
}

template <typename Number>
void step_chunk(const Chunk& chunk, const Number* gradient, float scale) {
    const Parameter& p = *chunk.parameter;
    if (!p.slots) return step(p, gradient + chunk.begin, scale, chunk.begin, chunk.end);
    for (int64_t begin = chunk.begin; begin < chunk.end; begin += p.width) {
        const int64_t slot = p.slots[begin / p.width];
        if (slot < 0)
            step(p, nullptr, scale, begin, begin + p.width);
        else
            step(p, gradient + slot * p.width, scale, begin, begin + p.width);
    }
}

}  // namespace

extern "C" {

// One step of AdamW, https://arxiv.org/abs/1711.05101, on gradients scaled down to a total norm of at most `largest`
// (0: as they are).
void adamw(const Parameter* parameters, int count, double largest, int threads) {
    double total = 0;
    if (largest > 0) {
        auto chunks = chunks_of(parameters, count, true);
        std::vector<double> sums(chunks.size());  // added in order, so that threads make no difference
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (size_t i = 0; i < chunks.size(); i++) {
            const Chunk& c = chunks[i];
            const void* gradient = c.parameter->gradient;
            sums[i] = c.parameter->low ? squares((const bf16*)gradient, c.begin, c.end)
                                       : squares((const float*)gradient, c.begin, c.end);
        }
        for (double sum : sums) total += sum;
        total = std::sqrt(total);
    }
    const double ratio = largest / (total + 1e-6);  // as torch.nn.utils.clip_grad_norm_ has it
    const float scale = largest <= 0 || ratio >= 1 ? 1.0f : float(ratio);  // no number if the norm is none
    auto chunks = chunks_of(parameters, count, false);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t i = 0; i < chunks.size(); i++) {
        const void* gradient = chunks[i].parameter->gradient;
        if (chunks[i].parameter->low)
            step_chunk(chunks[i], (const bf16*)gradient, scale);
        else
            step_chunk(chunks[i], (const float*)gradient, scale);
    }
}

// Sizes of Dropout, Attention and Parameter, for their copies on the other side to be checked against.
void struct_sizes(int64_t* sizes) {
    sizes[0] = sizeof(Dropout);
    sizes[1] = sizeof(Attention);
    sizes[2] = sizeof(Parameter);
}

// Numbers of cells, each a pair of a query and a key with the padding to LANES.
int64_t attention_cells(const int64_t* lengths, int rows, int heads, int first_only) {
    auto texts = texts_of(lengths, rows, heads, first_only);
    const Text& last = texts.back();
    return last.cells + int64_t(heads) * last.queries * last.width;
}

void attention_forward(const Attention* task, int size, bf16* out, int64_t out_stride) {
    auto forward = size == 16 ? attend<16> : size == 32 ? attend<32> : attend<64>;
    forward(*task, out, out_stride);
}

void attention_backward(
    const Attention* task, int size, const bf16* gradient, int64_t gradient_stride,
    bf16* to_query, int64_t to_query_stride, bf16* to_key, bf16* to_value, int64_t to_key_stride) {
    auto back = size == 16 ? attend_back<16> : size == 32 ? attend_back<32> : attend_back<64>;
    back(*task, gradient, gradient_stride, to_query, to_query_stride, to_key, to_value, to_key_stride);
}

// norm(residual + dropout(values)), in fp32 and rounded to bf16; keeps what the way back needs.
void residual_norm_forward(
    const float* residual, const bf16* values, const Dropout* dropout, const float* weight, const float* bias,
    float epsilon, int64_t rows, int size, float* out, bf16* low, float* normed, float* inverse, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; i++) {
        const int64_t start = i * size;
        float* row = normed + start;
        float sum = 0, squares = 0;
        dropout->factors(i, size, row);
        for (int j = 0; j < size; j++) row[j] = residual[start + j] + widen(values[start + j]) * row[j];
        for (int j = 0; j < size; j++) sum += row[j];
        const float mean = sum / size;
        for (int j = 0; j < size; j++) {
            row[j] -= mean;
            squares += row[j] * row[j];
        }
        const float factor = 1 / std::sqrt(squares / size + epsilon);
        inverse[i] = factor;
        for (int j = 0; j < size; j++) {
            row[j] *= factor;
            out[start + j] = row[j] * weight[j] + bias[j];
            low[start + j] = narrow(out[start + j]);
        }
    }
}

// Gradients of the former. `partial` holds (threads, 2, size), sums for weight and bias over a thread's rows.
void residual_norm_backward(
    const float* gradient, const bf16* low_gradient, const Dropout* dropout, const float* weight,
    const float* normed, const float* inverse, int64_t rows, int size, float* to_residual, bf16* to_values,
    float* partial, int threads) {
    std::fill(partial, partial + int64_t(threads) * 2 * size, 0.0f);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int thread = 0; thread < threads; thread++) {
        float *to_weight = partial + int64_t(thread) * 2 * size, *to_bias = to_weight + size, *keep = scratch(size);
        for (int64_t i = rows * thread / threads; i < rows * (thread + 1) / threads; i++) {
            const int64_t start = i * size;
            const float* row = normed + start;
            float* result = to_residual + start;
            float sum = 0, product = 0;
            for (int j = 0; j < size; j++) {
                const float g = (gradient ? gradient[start + j] : 0.0f) + (low_gradient ? widen(low_gradient[start + j]) : 0.0f);
                to_weight[j] += g * row[j];
                to_bias[j] += g;
                result[j] = g * weight[j];
                sum += result[j];
                product += result[j] * row[j];
            }
            const float mean = sum / size, slope = product / size, factor = inverse[i];
            for (int j = 0; j < size; j++) result[j] = factor * (result[j] - mean - row[j] * slope);
            dropout->factors(i, size, keep);
            for (int j = 0; j < size; j++) to_values[start + j] = narrow(result[j] * keep[j]);
        }
    }
}

// Weights, one behind the other, rounded.
void join_low(const float* const* parts, const int64_t* counts, int number, bf16* out, int threads) {
    for (int part = 0; part < number; out += counts[part++]) {
        const float* source = parts[part];
        bf16* target = out;
        const int64_t count = counts[part];
#pragma omp parallel for simd schedule(static) num_threads(threads) if (parallel : count > CHUNK)
        for (int64_t i = 0; i < count; i++) target[i] = narrow(source[i]);
    }
}

// The sum of each column, rounded.
void column_sums(const bf16* in, int64_t rows, int64_t columns, bf16* out, int threads) {
    constexpr int PART = 4 * LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t begin = 0; begin < columns; begin += PART) {
        const int count = int(std::min<int64_t>(PART, columns - begin));
        float sums[PART] = {};
        for (int64_t i = 0; i < rows; i++) {
            const bf16* row = in + i * columns + begin;
            if (count == PART)
                for (int j = 0; j < PART; j++) sums[j] += widen(row[j]);
            else
                for (int j = 0; j < count; j++) sums[j] += widen(row[j]);
        }
        for (int j = 0; j < count; j++) out[begin + j] = narrow(sums[j]);
    }
}

void gelu_forward(const bf16* in, bf16* out, int64_t count, int threads) {
    const bf16* values = gelu().values.data();
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++) out[i] = values[in[i]];
}

void gelu_backward(const bf16* in, const bf16* gradient, bf16* out, int64_t count, int threads) {
    const float* slopes = gelu().slopes.data();
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++) out[i] = narrow(widen(gradient[i]) * slopes[in[i]]);
}

}  // extern "C"

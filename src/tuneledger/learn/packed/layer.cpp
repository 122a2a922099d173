// A layer of a BERT-family encoder, forward and back, in one call each: what Python, autograd and the allocator do
// between a layer's kernels and products took a few percent of a step, one thread at work. Products are PyTorch's.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace {

// Where each product's weights begin among a layer's parameters; its biases follow. JOINT is query, key and value.
enum Part { JOINT = 0, MIX = 6, INNER = 8, OUTER = 10, PARTS = 12 };

}  // namespace

// The end of either block: dropout, sum and norm.
struct Norm {
    const float *weight, *bias;  // (width)
    float epsilon;
    Dropout dropout;
};

struct Layer {
    int64_t lines, tokens;  // rows of what goes in; behind `tokens` they are empty
    int64_t width, inner;  // of hidden states, of the feed-forward block
    int rows, head;  // texts, size of a head
    bool first_only;  // whether only the texts' first tokens come out
    int threads;
    const int64_t *lengths, *starts;  // of texts: tokens, line of the first one
    Dropout dropout;  // of attention
    Norm norms[2];
    const float* parameters[PARTS];

    int64_t out_lines() const { return first_only ? rows : lines; }
    int64_t out_tokens() const { return first_only ? rows : tokens; }
};

namespace {

constexpr int64_t ALIGNMENT = 64;

// Hands out parts of a block of memory; of none it tells how large it would have to be.
struct Memory {
    char* start;
    int64_t used = 0;

    template <typename Number>
    Number* take(int64_t count) {
        char* part = start ? start + used : nullptr;
        used += (count * int64_t(sizeof(Number)) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        return reinterpret_cast<Number*>(part);
    }
};

struct Aligned {
    void operator()(char* block) const { ::operator delete[](block, std::align_val_t(ALIGNMENT)); }
};

// Memory of this thread, the same at each call: fresh one comes in pages that the system fills with zeros first.
char* workspace(int64_t size) {
    static thread_local std::unique_ptr<char[], Aligned> block;
    static thread_local int64_t held = 0;
    if (held < size) {
        block.reset();
        held = 0;
        block.reset(new (std::align_val_t(ALIGNMENT)) char[size]);
        held = size;
    }
    return block.get();
}

// A matrix in somebody else's memory.
struct Matrix {
    bf16* data;
    int64_t rows, columns, down, right;  // down, right: to the next row, to the next column

    Matrix(const bf16* data, int64_t rows, int64_t columns) : Matrix(data, rows, columns, columns, 1) {}
    Matrix(const bf16* data, int64_t rows, int64_t columns, int64_t down, int64_t right)
        : data(const_cast<bf16*>(data)), rows(rows), columns(columns), down(down), right(right) {}

    Matrix transposed() const { return {data, columns, rows, right, down}; }
};

void check(AOTITorchError error) {
    if (error) throw std::runtime_error(torch_exception_get_what_without_backtrace());
}

struct Tensor {
    AtenTensorHandle handle;

    explicit Tensor(const Matrix& matrix) {
        const int64_t sizes[] = {matrix.rows, matrix.columns}, strides[] = {matrix.down, matrix.right};
        check(aoti_torch_create_tensor_from_blob(
            matrix.data, 2, sizes, strides, 0, aoti_torch_dtype_bfloat16(), aoti_torch_device_type_cpu(), 0, &handle));
    }
    Tensor(const Tensor&) = delete;
    ~Tensor() { aoti_torch_delete_tensor_object(handle); }
};

void multiply(const Matrix& a, const Matrix& b, const Matrix& out) {
    check(aoti_torch_cpu_mm_out(Tensor(out).handle, Tensor(a).handle, Tensor(b).handle));
}

// Linear layers side by side, in bf16.
struct Linear {
    bf16* weight;  // (outputs, inputs)
    bf16* bias;  // (outputs)
    int64_t outputs, inputs;

    Linear(Memory& memory, int64_t outputs, int64_t inputs)
        : weight(memory.take<bf16>(outputs * inputs + outputs)), outputs(outputs), inputs(inputs) {
        bias = weight ? weight + outputs * inputs : nullptr;
    }
    Linear(bf16* weight, bf16* bias, int64_t outputs, int64_t inputs)
        : weight(weight), bias(bias), outputs(outputs), inputs(inputs) {}

    // Some of the outputs.
    Linear part(int64_t begin, int64_t count) const {
        return {weight + begin * inputs, bias + begin, count, inputs};
    }

    // Takes `number` weights, and biases behind them, each with the same share of the outputs.
    void read(const float* const* parameters, int number, int threads) const {
        int64_t counts[6];
        std::fill(counts, counts + number, outputs / number * inputs);
        std::fill(counts + number, counts + 2 * number, outputs / number);
        join_low(parameters, counts, 2 * number, weight, threads);
    }

    void forward(const bf16* values, int64_t lines, bf16* out, int threads) const {
        const Tensor from(Matrix(values, lines, inputs)), to(Matrix(out, lines, outputs));
        const Tensor by(Matrix(weight, outputs, inputs).transposed());
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t line = 0; line < lines; line++) std::copy_n(bias, outputs, out + line * outputs);
        check(aoti_torch_cpu_addmm_out(to.handle, to.handle, from.handle, by.handle, 1, 1));  // in place: out + product
    }

    // `gradients` gets those of weight and bias; `to_values` may be null.
    void backward(
        const bf16* gradient, const bf16* values, int64_t lines, bf16* to_values, const Linear& gradients, int threads)
        const {
        const Matrix incoming(gradient, lines, outputs);
        if (to_values) multiply(incoming, Matrix(weight, outputs, inputs), Matrix(to_values, lines, inputs));
        multiply(incoming.transposed(), Matrix(values, lines, inputs), Matrix(gradients.weight, outputs, inputs));
        column_sums(gradient, lines, outputs, gradients.bias, threads);
    }
};

struct Linears {
    Linear joint, mix, inner, outer;  // joint: query, key and value

    Linears(Memory& memory, const Layer& layer)
        : joint(memory, 3 * layer.width, layer.width), mix(memory, layer.width, layer.width),
          inner(memory, layer.inner, layer.width), outer(memory, layer.width, layer.inner) {}
};

// What the way back needs of the way there.
struct Kept {
    Linears linears;
    bf16 *first_low, *query;  // of first tokens, (rows, width); null if all come out
    bf16* joint;  // (lines, 3 * width), or without the query
    bf16 *mixed, *low;  // (out_lines, width): what attention gathered, hidden states between the blocks
    bf16 *before, *after;  // (out_lines, inner): GELU
    float* normed[2];  // (out_lines, width)
    float* inverse[2];  // (out_lines)
    float* cells;  // attention's weights; null if they are not needed

    Kept(Memory& memory, const Layer& layer, bool way_back) : linears(memory, layer) {
        const int64_t lines = layer.out_lines(), size = lines * layer.width;
        first_low = layer.first_only ? memory.take<bf16>(size) : nullptr;
        query = layer.first_only ? memory.take<bf16>(size) : nullptr;
        joint = memory.take<bf16>(layer.lines * layer.width * (layer.first_only ? 2 : 3));
        mixed = memory.take<bf16>(size);
        low = memory.take<bf16>(size);
        before = memory.take<bf16>(lines * layer.inner);
        // What is not kept is overwritten while it is in the processor's cache.
        after = way_back ? memory.take<bf16>(lines * layer.inner) : before;
        for (int i = 0; i < 2; i++) {
            normed[i] = way_back || i == 0 ? memory.take<float>(size) : normed[0];
            inverse[i] = memory.take<float>(lines);
        }
        const int heads = int(layer.width / layer.head);
        cells = way_back ? memory.take<float>(attention_cells(layer.lengths, layer.rows, heads, layer.first_only)) : nullptr;
    }
};

// What is needed on one way only.
struct Scratch {
    float* partial;  // (threads, 2, width)
    float *between, *residual;  // (out_lines, width)
    bf16 *values, *inputs;  // (out_lines, width)
    bf16* inner;  // (out_lines, inner)
    bf16 *joint, *query, *first;  // as in Kept

    Scratch(Memory& memory, const Layer& layer) {
        const int64_t lines = layer.out_lines(), size = lines * layer.width;
        partial = memory.take<float>(2 * layer.width * layer.threads);
        between = memory.take<float>(size);
        residual = memory.take<float>(size);
        values = memory.take<bf16>(size);
        inputs = memory.take<bf16>(size);
        inner = memory.take<bf16>(lines * layer.inner);
        joint = memory.take<bf16>(layer.lines * layer.width * (layer.first_only ? 2 : 3));
        query = layer.first_only ? memory.take<bf16>(size) : joint;
        first = layer.first_only ? memory.take<bf16>(size) : nullptr;
    }
};

int64_t bytes(const Layer& layer, bool way_back) {
    Memory measure{nullptr};
    Kept(measure, layer, way_back);
    return measure.used;
}

Attention attention_of(const Layer& layer, const Kept& kept) {
    const bf16* key = layer.first_only ? kept.joint : kept.joint + layer.width;
    const int64_t stride = layer.width * (layer.first_only ? 2 : 3);
    return {
        layer.first_only ? kept.query : kept.joint, key, key + layer.width, layer.first_only ? layer.width : stride,
        stride, layer.lengths, layer.rows, int(layer.width / layer.head), layer.first_only, layer.dropout,
        float(1 / std::sqrt(double(layer.head))), kept.cells, layer.threads};
}

template <typename Number>
void clear(Number* matrix, int64_t begin, int64_t end, int64_t width) {
    std::memset(matrix + begin * width, 0, size_t((end - begin) * width) * sizeof(Number));
}

template <typename Number>
void gather(const Number* lines, const Layer& layer, Number* first) {
    for (int row = 0; row < layer.rows; row++)
        std::copy_n(lines + layer.starts[row] * layer.width, layer.width, first + row * layer.width);
}

void norm_forward(
    const Layer& layer, const Kept& kept, int block, const float* residual, const bf16* values, float* out, bf16* low) {
    const Norm& norm = layer.norms[block];
    residual_norm_forward(
        residual, values, &norm.dropout, norm.weight, norm.bias, norm.epsilon, layer.out_lines(), int(layer.width), out,
        low, kept.normed[block], kept.inverse[block], layer.threads);
}

void forward(
    const Layer& layer, const Kept& kept, const Scratch& scratch, const float* hidden, const bf16* low, float* out,
    bf16* low_out) {
    const int64_t lines = layer.out_lines(), width = layer.width;
    const auto& [joint, mix, inner, outer] = kept.linears;
    joint.read(layer.parameters + JOINT, 3, layer.threads);
    mix.read(layer.parameters + MIX, 1, layer.threads);
    inner.read(layer.parameters + INNER, 1, layer.threads);
    outer.read(layer.parameters + OUTER, 1, layer.threads);
    if (layer.first_only) {
        gather(hidden, layer, scratch.residual);
        gather(low, layer, kept.first_low);
        joint.part(0, width).forward(kept.first_low, lines, kept.query, layer.threads);
        joint.part(width, 2 * width).forward(low, layer.lines, kept.joint, layer.threads);
    } else {
        joint.forward(low, lines, kept.joint, layer.threads);
    }
    const Attention attention = attention_of(layer, kept);
    attention_forward(&attention, layer.head, kept.mixed, width);
    clear(kept.mixed, layer.out_tokens(), lines, width);
    mix.forward(kept.mixed, lines, scratch.values, layer.threads);
    const float* residual = layer.first_only ? scratch.residual : hidden;
    norm_forward(layer, kept, 0, residual, scratch.values, scratch.between, kept.low);
    inner.forward(kept.low, lines, kept.before, layer.threads);
    gelu_forward(kept.before, kept.after, lines * layer.inner, layer.threads);
    outer.forward(kept.after, lines, scratch.values, layer.threads);
    norm_forward(layer, kept, 1, scratch.between, scratch.values, out, low_out);
}

// Where gradients go: those of weights and then of biases of each product, and of norms, (2, 2, width).
struct Gradients {
    bf16 *joint, *mix, *inner, *outer;
    float* norms;
};

void norm_backward(
    const Layer& layer, const Kept& kept, const Scratch& scratch, int block, const float* gradient,
    const bf16* low_gradient, float* to_residual, float* gradients) {
    const Norm& norm = layer.norms[block];
    const int64_t size = 2 * layer.width;
    residual_norm_backward(
        gradient, low_gradient, &norm.dropout, norm.weight, kept.normed[block], kept.inverse[block], layer.out_lines(),
        int(layer.width), to_residual, scratch.values, scratch.partial, layer.threads);
    float* sums = gradients + block * size;
    std::copy_n(scratch.partial, size, sums);
    for (int thread = 1; thread < layer.threads; thread++)
        for (int64_t i = 0; i < size; i++) sums[i] += scratch.partial[thread * size + i];
}

// From the gradient of what attention gathered, which lies in scratch.inputs.
void joint_backward(
    const Layer& layer, const Kept& kept, const Scratch& scratch, const bf16* low, const Linear& gradients, bf16* to_low) {
    const int64_t width = layer.width, stride = width * (layer.first_only ? 2 : 3);
    const Linear& joint = kept.linears.joint;
    bf16* to_key = layer.first_only ? scratch.joint : scratch.joint + width;
    const Attention attention = attention_of(layer, kept);
    attention_backward(
        &attention, layer.head, scratch.inputs, width, scratch.query, attention.query_stride, to_key, to_key + width,
        stride);
    clear(scratch.joint, layer.tokens, layer.lines, stride);
    if (!layer.first_only) return joint.backward(scratch.joint, low, layer.lines, to_low, gradients, layer.threads);
    const Linear query = joint.part(0, width), rest = joint.part(width, 2 * width);
    bf16* to_first = to_low ? scratch.first : nullptr;
    query.backward(scratch.query, kept.first_low, layer.rows, to_first, gradients.part(0, width), layer.threads);
    rest.backward(scratch.joint, low, layer.lines, to_low, gradients.part(width, 2 * width), layer.threads);
    for (int row = 0; to_low && row < layer.rows; row++) {
        bf16* target = to_low + layer.starts[row] * width;
        for (int64_t i = 0; i < width; i++) target[i] = narrow(widen(target[i]) + widen(to_first[row * width + i]));
    }
}

void backward(
    const Layer& layer, const Kept& kept, const Scratch& scratch, const bf16* low, const float* gradient,
    const bf16* low_gradient, const Gradients& gradients, float* to_hidden, bf16* to_low) {
    const int64_t lines = layer.out_lines(), width = layer.width;
    const auto& [joint, mix, inner, outer] = kept.linears;
    const auto to = [](bf16* target, const Linear& linear) {
        return Linear(target, target + linear.outputs * linear.inputs, linear.outputs, linear.inputs);
    };
    float* to_residual = to_hidden && !layer.first_only ? to_hidden : scratch.residual;
    norm_backward(layer, kept, scratch, 1, gradient, low_gradient, scratch.between, gradients.norms);
    outer.backward(scratch.values, kept.after, lines, scratch.inner, to(gradients.outer, outer), layer.threads);
    gelu_backward(kept.before, scratch.inner, scratch.inner, lines * layer.inner, layer.threads);
    inner.backward(scratch.inner, kept.low, lines, scratch.inputs, to(gradients.inner, inner), layer.threads);
    norm_backward(layer, kept, scratch, 0, scratch.between, scratch.inputs, to_residual, gradients.norms);
    mix.backward(scratch.values, kept.mixed, lines, scratch.inputs, to(gradients.mix, mix), layer.threads);
    joint_backward(layer, kept, scratch, low, to(gradients.joint, joint), to_low);
    if (!to_hidden || !layer.first_only) return;
    clear(to_hidden, 0, layer.lines, width);
    for (int row = 0; row < layer.rows; row++)
        std::copy_n(to_residual + row * width, width, to_hidden + layer.starts[row] * width);
}

// Does `work`, which gets memory of this thread for Scratch and `more` bytes. Null, or why it failed.
template <typename Work>
const char* attempt(const Layer& layer, int64_t more, Work work) {
    static thread_local std::string reason;
    Memory measure{nullptr};
    Scratch(measure, layer);
    try {
        Memory memory{workspace(measure.used + more)};
        work(memory);
        return nullptr;
    } catch (const std::exception& error) {
        reason = error.what();
        return reason.c_str();
    }
}

}  // namespace

extern "C" {

// Sizes of Norm, Layer and Gradients, for their copies on the other side to be checked against.
void layer_struct_sizes(int64_t* sizes) {
    sizes[0] = sizeof(Norm);
    sizes[1] = sizeof(Layer);
    sizes[2] = sizeof(Gradients);
}

// Bytes that the way back needs of the way there.
int64_t layer_bytes(const Layer* layer) { return bytes(*layer, true); }

// From hidden states, (lines, width), in fp32 and in bf16, to those of the next layer. `kept` is for the way back;
// null: there is none. Gives null, or why it failed.
const char* layer_forward(
    const Layer* layer, const float* hidden, const bf16* low, char* kept, float* out, bf16* low_out) {
    return attempt(*layer, kept ? 0 : bytes(*layer, false), [&](Memory& memory) {
        const Scratch scratch(memory, *layer);
        Memory given{kept};
        const Kept keep(kept ? given : memory, *layer, kept != nullptr);
        forward(*layer, keep, scratch, hidden, low, out, low_out);
    });
}

// Gradients of the former, from those of either output, of which one may be null. `to_hidden` and `to_low` are null
// where nobody asks. Gives null, or why it failed.
const char* layer_backward(
    const Layer* layer, const bf16* low, char* kept, const float* gradient, const bf16* low_gradient,
    const Gradients* gradients, float* to_hidden, bf16* to_low) {
    return attempt(*layer, 0, [&](Memory& memory) {
        const Scratch scratch(memory, *layer);
        Memory given{kept};
        backward(*layer, Kept(given, *layer, true), scratch, low, gradient, low_gradient, *gradients, to_hidden, to_low);
    });
}

}  // extern "C"

// A plan: the kernels of a network in their order, over buffers that are laid out once.
//
// A plan has programs (forward, backward), a program has stages, and a stage has operations. In a
// stage "of tiles" each tile goes through all operations on one thread, some rows at a time, so
// that what one writes is still in the cache when the next reads it. Threads wait for each other
// between stages only. In a stage "of its own" each operation happens once; there sums over tiles
// are added up, always in the same order. plan.py says what is done, and when; nothing is decided
// here.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <initializer_list>

#include "kernels.h"
#include "pool.h"

namespace {

enum Kind { OF_TILE, OF_THREAD, OF_ALL, KINDS };

struct Buffer {
    int kind;
    size_t offset;  // in floats, from the beginning of what a tile, thread or all have
    size_t row;     // floats of a row of pixels
    int rows;       // that it holds: the row after the last takes the place of the first
};

struct Memory {
    size_t sizes[KINDS];
    float* begin[KINDS];
};

// What an operation is given of the run that it is part of.
struct At {
    const std::vector<Buffer>& buffers;
    const Memory& memory;
    float* const* tensors;
    const double* numbers;
    const int64_t* integers;
    int images, tiles, tile, thread;

    float* operator[](int buffer) const { return of_tile(buffer, tile); }
    float* row(int buffer, int which) const {
        return of_tile(buffer, tile) + which % buffers[buffer].rows * buffers[buffer].row;
    }
    // Whether these rows follow each other in memory.
    bool in_order(int buffer, int first, int end) const {
        const int rows = buffers[buffer].rows;
        return end <= rows || first / rows == (end - 1) / rows;
    }
    // How many rows from the first on follow each other in all of these buffers.
    int together(int first, int end, std::initializer_list<int> of) const {
        int rows = end - first;
        for (int buffer : of)
            rows = within(rows, buffers[buffer].rows - first % buffers[buffer].rows);
        return rows;
    }
    float* of_tile(int buffer, int which) const {
        if (buffer < 0) return nullptr;
        const Buffer& b = buffers[buffer];
        const size_t index = b.kind == OF_TILE ? which : b.kind == OF_THREAD ? thread : 0;
        return memory.begin[b.kind] + index * memory.sizes[b.kind] + b.offset;
    }
    float* tensor(int which) const { return which < 0 ? nullptr : tensors[which]; }
    int images_of(int which) const { return within(images - which * LANES, LANES); }
    int images_here() const { return images_of(tile); }
};

// Makes the rows first..end-1 of its result, or adds them to its sums.
typedef std::function<void(const At&, int first, int end)> Work;

struct Operation {
    Work run;
    double seconds = 0;  // in a run that is timed
};

// Some rows of an operation.
struct Step {
    int operation, first, end;
};

struct Stage {
    bool of_tiles;
    std::vector<Operation> operations;
    std::vector<Step> steps;  // of a stage of tiles
};

// The time that this thread has had a processor.
double seconds_of_thread() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

// Bytes of a value of the whole batch, of which little is left in the caches when a later stage,
// which goes through several such values, reads it.
constexpr size_t MUCH = 3 * 1024 * 1024;
constexpr size_t LINE = 64;               // bytes that the cache moves at once
constexpr size_t PAGE = 2 * 1024 * 1024;  // a large page of memory, where the system has such

}  // namespace

struct Plan {
    std::vector<Buffer> buffers;
    size_t sizes[KINDS] = {};
    std::vector<std::vector<Stage>> programs;

    void add(Work run) { programs.back().back().operations.push_back({std::move(run)}); }
};

extern "C" {

int lanes() { return LANES; }
int pixel_floats(int channels) { return int(pixel_of(channels)); }
void set_threads(int count) { Threads::of_process().count = count; }

Plan* plan_new() { return new Plan; }
void plan_free(Plan* plan) { delete plan; }

// How many floats each tile, each thread, and all together need.
void plan_sizes(Plan* plan, int64_t of_tile, int64_t of_thread, int64_t of_all) {
    plan->sizes[OF_TILE] = of_tile, plan->sizes[OF_THREAD] = of_thread,
    plan->sizes[OF_ALL] = of_all;
}
void plan_buffer(Plan* plan, int kind, int64_t offset, int64_t row, int rows) {
    plan->buffers.push_back({kind, size_t(offset), size_t(row), rows});
}
void plan_program(Plan* plan) { plan->programs.emplace_back(); }
void plan_stage(Plan* plan, int of_tiles) {
    plan->programs.back().push_back({bool(of_tiles), {}, {}});
}
void plan_step(Plan* plan, int operation, int first, int end) {
    plan->programs.back().back().steps.push_back({operation, first, end});
}

// Memory for so many tiles and threads; null where there is none left.
Memory* memory_new(const Plan* plan, int tiles, int threads) {
    const int counts[KINDS] = {tiles, threads, 1};
    auto* memory = new Memory{};
    for (int kind = 0; kind < KINDS; kind++) {
        // An odd number of lines from one tile to the next, so that not all of them fall upon the
        // same few places of a cache.
        memory->sizes[kind] = (plan->sizes[kind] * sizeof(float) / LINE | 1) * LINE / sizeof(float);
        const size_t bytes = memory->sizes[kind] * sizeof(float) * counts[kind];
        memory->begin[kind] =
            static_cast<float*>(std::aligned_alloc(PAGE, (bytes / PAGE + 1) * PAGE));
#if defined(MADV_HUGEPAGE)
        if (memory->begin[kind])
            madvise(memory->begin[kind], (bytes / PAGE + 1) * PAGE, MADV_HUGEPAGE);
#endif
        if (!memory->begin[kind]) {
            for (float* begin : memory->begin) std::free(begin);
            delete memory;
            return nullptr;
        }
    }
    return memory;
}
void memory_free(Memory* memory) {
    for (float* begin : memory->begin) std::free(begin);
    delete memory;
}

}  // extern "C"

namespace {

void run(Operation& operation, const At& at, int first, int end, bool timed) {
    const double begun = timed ? seconds_of_thread() : 0;
    operation.run(at, first, end);
    if (timed) operation.seconds += seconds_of_thread() - begun;
}

}  // namespace

extern "C" {

// Run a program for a batch of images, on as many threads as `set_threads` said.
void plan_run(Plan* plan, const Memory* memory, int program, int images, float* const* tensors,
              const double* numbers, const int64_t* integers, int timed) {
    auto& stages = plan->programs[program];
    const int tiles = pieces_of(images, LANES);
    Barrier barrier;
    Threads::of_process().run([&](int thread, int threads) {
        for (size_t s = 0; s < stages.size(); s++) {
            Stage& stage = stages[s];
            const int tasks = stage.of_tiles ? tiles : int(stage.operations.size());
            // A tile always has the same thread, in whose cache it is.
            const int first = piece(tasks, threads, thread),
                      end = piece(tasks, threads, thread + 1);
            for (int task = first; task < end; task++) {
                const At at{plan->buffers, *memory, tensors, numbers,
                            integers,      images,  tiles,   stage.of_tiles ? task : 0,
                            thread};
                if (!stage.of_tiles) run(stage.operations[task], at, 0, 1, timed);
                for (const Step& step : stage.steps)
                    run(stage.operations[step.operation], at, step.first, step.end, timed);
            }
            if (threads > 1 && s + 1 < stages.size()) barrier.wait(threads);
        }
    });
}

// The seconds of each operation of a program in all its timed runs, in order; returns how many.
int plan_seconds(const Plan* plan, int program, double* seconds) {
    int count = 0;
    for (const Stage& stage : plan->programs[program])
        for (const Operation& operation : stage.operations) {
            if (seconds) seconds[count] = operation.seconds;
            count++;
        }
    return count;
}

// ---- In and out ---------------------------------------------------------------------------------

// A tensor (N, channels, pixels) into tiles. In lanes without an image stands the last one again,
// so that they hold nothing that an image does not; of gradients, zero.
void add_load(Plan* plan, int tensor, int y, int channels, int pixels, int gradient) {
    plan->add([=](const At& at, int, int) {
        const ptrdiff_t size = ptrdiff_t(channels) * pixels;
        const float* from = at.tensor(tensor) + at.tile * LANES * size;
        float* to = at[y];
        const int images = at.images_here();
        for (int lane = 0; lane < LANES; lane++) {
            const float* image = from + within(lane, images - 1) * size;
            const bool empty = gradient && lane >= images;
            for (int c = 0; c < channels; c++)
                for (int i = 0; i < pixels; i++)
                    to[i * pixel_of(channels) + c * LANES + lane] =
                        empty ? 0.f : image[c * pixels + i];
        }
    });
}

// And back, without the lanes that have no image.
void add_store(Plan* plan, int x, int tensor, int channels, int pixels) {
    plan->add([=](const At& at, int, int) {
        const ptrdiff_t size = ptrdiff_t(channels) * pixels;
        float* to = at.tensor(tensor) + at.tile * LANES * size;
        const float* from = at[x];
        for (int lane = 0; lane < at.images_here(); lane++)
            for (int c = 0; c < channels; c++)
                for (int i = 0; i < pixels; i++)
                    to[lane * size + c * pixels + i] =
                        from[i * pixel_of(channels) + c * LANES + lane];
    });
}

// ---- Convolution --------------------------------------------------------------------------------

// Vectors of sums as numbers, of the lanes that hold images.
static void to_numbers(const float* vectors, float* numbers, int count, IntVec lanes) {
    for (int i = 0; i < count; i++)
        numbers[i] = sum_of_lanes(lanes ? load(vectors + i * LANES) : Vec{});
}

static Conv geometry(int inputs, int outputs, int groups, int taps_y, int taps_x, int width,
                     int step_x, int apart_x) {
    const ptrdiff_t in = pixel_of(inputs * groups), out = pixel_of(outputs * groups);
    return {inputs, outputs, groups, taps_y, taps_x, width, apart_x * in, step_x * in, in, out};
}

void add_pack(Plan* plan, int weight, int packed, int inputs, int outputs, int groups, int taps_y,
              int taps_x, int turned) {
    const Conv g = geometry(inputs, outputs, groups, taps_y, taps_x, 1, 1, 1);
    plan->add([=](const At& at, int, int) {
        (turned ? pack_turned : pack)(g, at.tensor(weight), at[packed]);
    });
}

void add_conv(Plan* plan, int x, int y, int packed, int bias, int relu, int inputs, int outputs,
              int groups, int taps_y, int taps_x, int width, int step_y, int step_x, int apart_y,
              int apart_x) {
    const Conv g = geometry(inputs, outputs, groups, taps_y, taps_x, width, step_x, apart_x);
    plan->add([=](const At& at, int first, int end) {
        std::vector<const float*> rows(taps_y);
        for (int i = first; i < end; i++) {
            for (int r = 0; r < taps_y; r++) rows[r] = at.row(x, i * step_y + r * apart_y);
            (g.depthwise() ? depthwise : conv)(g, rows.data(), at[packed], at.tensor(bias), relu,
                                               at.row(y, i));
        }
    });
}

void add_conv_weights(Plan* plan, int x, int dy, int sums, int partial, int height, int in_width,
                      int inputs, int outputs, int groups, int taps_y, int taps_x, int width,
                      int step_y, int step_x, int apart_y, int apart_x) {
    const Conv g = geometry(inputs, outputs, groups, taps_y, taps_x, width, step_x, apart_x);
    const int weights = inputs * outputs * groups * taps_y * taps_x;
    plan->add([=](const At& at, int first, int end) {
        if (first == 0) std::memset(at[sums], 0, sizeof(float) * weights * LANES);
        std::vector<const float*> rows(taps_y);
        const int last = (end - 1) * step_y + (taps_y - 1) * apart_y + 1;
        const bool together = at.in_order(x, first * step_y, last) && at.in_order(dy, first, end);
        const int most = together ? end - first : 1;
        const ptrdiff_t in_y = ptrdiff_t(step_y) * in_width * g.in_pixel;
        for (int i = first; i < end; i += most) {
            for (int r = 0; r < taps_y; r++) rows[r] = at.row(x, i * step_y + r * apart_y);
            conv_weights(g, rows.data(), at.row(dy, i), at[sums], most, in_y);
        }
        // Lanes without an image have no gradient.
        if (end == height) to_numbers(at[sums], at[partial], weights, first_lanes(LANES));
    });
}

// Rows of a picture, put apart and into the middle of zeros; what a negative border cuts off is
// left out.
void add_place(Plan* plan, int x, int y, int channels, int height, int width, int to_width, int top,
               int left, int spread_y, int spread_x) {
    plan->add([=](const At& at, int first, int end) {
        const ptrdiff_t pixel = pixel_of(channels);
        for (int row = first; row < end; row++) {
            float* to = at.row(y, row);
            const int i = (row - top) / spread_y;
            const bool has = row >= top && (row - top) % spread_y == 0 && i < height;
            if (!has || spread_x > 1 || left < 0 || left + width > to_width)
                std::memset(to, 0, sizeof(float) * to_width * pixel);
            if (!has) continue;
            const float* from = at.row(x, i);
            if (spread_x == 1 && left >= 0 && left + width <= to_width) {
                std::memset(to, 0, sizeof(float) * left * pixel);
                std::memcpy(to + left * pixel, from, sizeof(float) * width * pixel);
                std::memset(to + (left + width) * pixel, 0,
                            sizeof(float) * (to_width - left - width) * pixel);
                continue;
            }
            for (int j = 0; j < width; j++) {
                const int column = left + j * spread_x;
                if (column >= 0 && column < to_width)
                    std::memcpy(to + column * pixel, from + j * pixel, sizeof(float) * pixel);
            }
        }
    });
}

void add_channel_sums(Plan* plan, int x, int sums, int partial, int channels, int width,
                      int height) {
    plan->add([=](const At& at, int first, int end) {
        if (first == 0) std::memset(at[sums], 0, sizeof(float) * channels * LANES);
        for (int row = first; row < end; row++) {
            const float* from = at.row(x, row);
            for (int i = 0; i < width; i++, from += pixel_of(channels))
                for (ptrdiff_t c = 0; c < channels * LANES; c += LANES)
                    store(at[sums] + c, load(at[sums] + c) + load(from + c));
        }
        if (end == height)
            to_numbers(at[sums], at[partial], channels, first_lanes(at.images_here()));
    });
}

// A gradient is `by`, or, where a tensor is used `again`, more by that.
static void raise(float& gradient, double by, int again) {
    gradient = float((again ? gradient : 0) + by);
}

// A gradient: the sum of what each use of a weight has of each tile, and, `again`, of what is
// there.
void add_sum_tiles(Plan* plan, const int* partials, int uses, int tensor, int again, int floats) {
    const std::vector<int> all(partials, partials + uses);
    plan->add([=](const At& at, int, int) {
        float* to = at.tensor(tensor);
        std::vector<double> sums(floats);
        for (int partial : all)
            for (int tile = 0; tile < at.tiles; tile++) {
                const float* from = at.of_tile(partial, tile);
                for (int i = 0; i < floats; i++) sums[i] += from[i];
            }
        for (int i = 0; i < floats; i++) raise(to[i], sums[i], again);
    });
}

// ---- Batch normalisation ------------------------------------------------------------------------

// Of each channel: slope, offset, mean and 1 / standard deviation, one after the other.
struct Norm {
    float *slope, *offset, *mean, *inverse;
    Norm(float* at, int channels)
        : slope(at), offset(at + channels), mean(at + 2 * channels), inverse(at + 3 * channels) {}
    void set(int c, double m, double variance, double eps, const float* weight, const float* bias) {
        const double inv = 1 / std::sqrt(variance + eps);
        mean[c] = float(m), inverse[c] = float(inv);
        slope[c] = float((weight ? weight[c] : 1) * inv);
        offset[c] = float((bias ? bias[c] : 0) - (weight ? weight[c] : 1) * inv * m);
    }
};

// The mean of each channel of a tile, and the sum of squares of differences from it. Of each lane
// for itself, rows joined to rows before as `add_norm` joins tiles; the lanes at the end.
void add_moments(Plan* plan, int x, int sums, int partial, int channels, int width, int height) {
    plan->add([=](const At& at, int first, int end) {
        float* mean = at[sums];
        if (first == 0) std::memset(mean, 0, sizeof(float) * 2 * channels * LANES);
        for (int row = first, rows; row < end; row += rows) {
            rows = at.together(row, end, {x});
            lane_moments(at.row(x, row), rows * width, row * width, channels, mean);
        }
        if (end < height) return;
        const int images = at.images_here(), pixels = width * height;
        for (int c = 0; c < channels; c++) {
            double sum = 0, squares = 0;
            for (int lane = 0; lane < images; lane++) sum += mean[c * LANES + lane];
            for (int lane = 0; lane < images; lane++) {
                const double difference = mean[c * LANES + lane] - sum / images;
                squares += mean[(channels + c) * LANES + lane] + pixels * difference * difference;
            }
            at[partial][c] = float(sum / images), at[partial][channels + c] = float(squares);
        }
    });
}

// From the moments of the tiles to those of the batch (Chan, Golub and LeVeque 1979), and, as torch
// does, into the moving averages: of the mean, and of the unbiased variance.
void add_norm(Plan* plan, int partial, int norm, int weight, int bias, int running_mean,
              int running_var, int momentum, int channels, int pixels, double eps) {
    plan->add([=](const At& at, int, int) {
        Norm n(at[norm], channels);
        for (int c = 0; c < channels; c++) {
            double count = 0, mean = 0, squares = 0;
            for (int tile = 0; tile < at.tiles; tile++) {
                const float* found = at.of_tile(partial, tile);
                const double more = double(pixels) * at.images_of(tile),
                             difference = found[c] - mean;
                squares +=
                    found[channels + c] + difference * difference * count * more / (count + more);
                mean += difference * more / (count + more);
                count += more;
            }
            n.set(c, mean, squares / count, eps, at.tensor(weight), at.tensor(bias));
            if (running_mean >= 0) {
                const double m = at.numbers[momentum];
                float &moving_mean = at.tensor(running_mean)[c],
                      &moving_var = at.tensor(running_var)[c];
                moving_mean = float((1 - m) * moving_mean + m * mean);
                moving_var = float((1 - m) * moving_var + m * squares / (count - 1));
            }
        }
    });
}

// The same by moving averages that stay as they are.
void add_fixed_norm(Plan* plan, int norm, int weight, int bias, int running_mean, int running_var,
                    int channels, double eps) {
    plan->add([=](const At& at, int, int) {
        Norm n(at[norm], channels);
        for (int c = 0; c < channels; c++)
            n.set(c, at.tensor(running_mean)[c], at.tensor(running_var)[c], eps, at.tensor(weight),
                  at.tensor(bias));
    });
}

// The gradients of weight and bias; and of each channel a, b and c in dx = a d + b x + c (Ioffe and
// Szegedy 2015), where d is the gradient behind the normalisation.
void add_norm_gradient(Plan* plan, int partial, int norm, int terms, int dweight, int weight_again,
                       int dbias, int bias_again, int channels, int pixels, int fixed) {
    plan->add([=](const At& at, int, int) {
        const Norm n(at[norm], channels);
        float* to = at[terms];
        for (int c = 0; c < channels; c++) {
            double sum = 0, product = 0;  // of d, and of d * normalised x
            for (int tile = 0; tile < at.tiles; tile++) {
                const float* found = at.of_tile(partial, tile);
                sum += found[c], product += found[channels + c];
            }
            if (dbias >= 0) raise(at.tensor(dbias)[c], sum, bias_again);
            if (dweight >= 0) raise(at.tensor(dweight)[c], product, weight_again);
            const double count = double(at.images) * pixels;
            const double by_x = fixed ? 0 : -double(n.slope[c]) * n.inverse[c] * product / count;
            to[c] = n.slope[c];
            to[channels + c] = float(by_x);
            to[2 * channels + c] = float(fixed ? 0 : -n.slope[c] * sum / count - by_x * n.mean[c]);
        }
    });
}

// ---- Elementwise --------------------------------------------------------------------------------

}  // extern "C"

// f(std::integral_constant) for each activation: its loops are compiled for it.
template <typename F>
static void with_activation(int activation, F&& f) {
    switch (activation) {
        case IDENTITY:
            return f(std::integral_constant<int, IDENTITY>{});
        case RELU:
            return f(std::integral_constant<int, RELU>{});
        case SILU:
            return f(std::integral_constant<int, SILU>{});
        case GELU:
            return f(std::integral_constant<int, GELU>{});
        case GELU_TANH:
            return f(std::integral_constant<int, GELU_TANH>{});
        case TANH:
            return f(std::integral_constant<int, TANH>{});
        default:
            return f(std::integral_constant<int, SIGMOID>{});
    }
}

// What is read is read in the order of memory, all channels of a pixel and then the next pixel: to
// take the channels some at a time and keep what belongs to each in registers is slower, and so is
// to take some pixels at a time.

// What an earlier stage has made comes from far away: it is fetched so many pixels before its use.
constexpr int AHEAD = 4;

// f(channel, count) for channels, two at a time.
template <typename F>
static void for_channels(int channels, F&& f) {
    int c = 0;
    for (; c + 2 <= channels; c += 2) f(c, std::integral_constant<int, 2>{});
    if (c < channels) f(c, std::integral_constant<int, 1>{});
}

// What dropout multiplies by, number by number of a row; without dropout, with nothing.
struct Kept {
    uint32_t share;  // in 2**-16
    float scale;
    Random random;

    // Which share is kept, and the seed of a layer are the `which` and next of the integers.
    Kept(const At& at, int which, int row)
        : share(uint32_t(at.integers[which])),
          scale(share ? 65536.f / float(share) : 0.f),
          random(uint64_t(at.integers[which + 1]) +
                 (uint64_t(at.tile) << 16 | uint64_t(row)) * 0xD1342543DE82EF95u) {}
    template <int N>
    void multiply(Vec (&numbers)[N]) {
        IntVec lanes[N];
        random.below(share, lanes);
        // What is no number stays so, dropped or not, as in torch.
        EACH(p, N) numbers[p] *= lanes[p] ? all(scale) : Vec{};
    }
};
struct AllKept {
    template <int N>
    void multiply(Vec (&)[N]) {}
};

// f(kept, first row, rows) for rows that lie in order in all of the buffers, one at a time where
// some numbers are dropped.
template <typename F>
static void for_rows(const At& at, int first, int end, int drop, std::initializer_list<int> of,
                     F&& f) {
    for (int row = first, rows; row < end; row += rows) {
        rows = drop >= 0 ? 1 : at.together(row, end, of);
        if (drop >= 0)
            f(Kept(at, drop, row), row, rows);
        else
            f(AllKept(), row, rows);
    }
}

// y = dropout(activation(slope * x + offset)), where there is a slope, of each channel.
template <int ACTIVATION, typename K>
static void map_pixels(const float* x, float* y, const float* norm, K kept, int channels,
                       int pixels) {
    const ptrdiff_t pixel = pixel_of(channels);
    for (int i = 0; i < pixels; i++, x += pixel, y += pixel)
        for_channels(channels, [&](int first, auto count) {
            constexpr int N = count;
            Vec v[N];
            EACH(n, N) {
                const int c = first + n;
                __builtin_prefetch(x + c * LANES + AHEAD * pixel);
                v[n] = load(x + c * LANES);
                if (norm) v[n] = v[n] * norm[c] + norm[channels + c];
                v[n] = activated(ACTIVATION, v[n]);
            }
            kept.multiply(v);
            EACH(n, N) store(y + (first + n) * LANES, v[n]);
        });
}

// d = dy times what dropout kept and the slope of the activation; and if there is a norm, sums of d
// and of its product with the difference of x from the mean.
template <int ACTIVATION, typename K>
static void map_back_pixels(const float* dy, const float* x, float* d, const float* norm,
                            float* sums, K kept, bool past_cache, int channels, int pixels) {
    const ptrdiff_t pixel = pixel_of(channels);
    for (int i = 0; i < pixels; i++, dy += pixel, x += pixel, d += pixel)
        for_channels(channels, [&](int first, auto count) {
            constexpr int N = count;
            Vec v[N];
            EACH(n, N) v[n] = load(dy + (first + n) * LANES);
            EACH(n, N) __builtin_prefetch(x + (first + n) * LANES + AHEAD * pixel);
            kept.multiply(v);
            EACH(n, N) {
                const int c = first + n;
                const Vec in = load(x + c * LANES);
                const Vec y = norm ? in * norm[c] + norm[channels + c] : in;
                if (ACTIVATION == RELU)
                    v[n] = y <= 0.f ? Vec{} : v[n];
                else if (ACTIVATION != IDENTITY)
                    v[n] *= slope_of(ACTIVATION, y);
                (past_cache ? store_past_cache : store)(d + c * LANES, v[n]);
                if (!norm) continue;
                float *sum = sums + c * LANES, *product = sum + channels * LANES;
                store(sum, load(sum) + v[n]);
                store(product, load(product) + v[n] * (in - norm[2 * channels + c]));
            }
        });
}

// dx = a d + b x + c of each channel, where `lanes` hold images; and where x is above zero, if
// `relu`.
static void norm_back_pixels(const float* d, const float* x, float* dx, const float* terms,
                             IntVec lanes, bool relu, int channels, int pixels) {
    const float *a = terms, *b = terms + channels, *t = terms + 2 * channels;
    const ptrdiff_t pixel = pixel_of(channels);
    for (int i = 0; i < pixels; i++, d += pixel, x += pixel, dx += pixel)
        for (int c = 0; c < channels; c++) {
            const Vec in = load(x + c * LANES), v = a[c] * load(d + c * LANES) + b[c] * in + t[c];
            store(dx + c * LANES, (relu ? lanes & ~(in <= 0.f) : lanes) ? v : Vec{});
        }
}

extern "C" {

// If `relu`, x is what a ReLU made, behind which the gradient is wanted.
void add_norm_back(Plan* plan, int d, int x, int dx, int terms, int relu, int channels, int width) {
    plan->add([=](const At& at, int first, int end) {
        const IntVec lanes = first_lanes(at.images_here());
        for (int row = first, rows; row < end; row += rows) {
            rows = at.together(row, end, {d, x, dx});
            norm_back_pixels(at.row(d, row), at.row(x, row), at.row(dx, row), at[terms], lanes,
                             relu, channels, rows * width);
        }
    });
}

// y = dropout(activation(slope * x + offset)); each of the three may be left out (norm < 0,
// IDENTITY, drop < 0).
void add_map(Plan* plan, int x, int y, int norm, int activation, int drop, int channels,
             int width) {
    plan->add([=](const At& at, int first, int end) {
        for_rows(at, first, end, drop, {x, y}, [&](auto kept, int row, int rows) {
            with_activation(activation, [&](auto which) {
                map_pixels<which>(at.row(x, row), at.row(y, row), at[norm], kept, channels,
                                  rows * width);
            });
        });
    });
}

// d = the gradient behind the normalisation, of that of y; and if partial >= 0, its sums by channel
// and those of its product with the normalised x.
void add_map_back(Plan* plan, int dy, int x, int d, int norm, int activation, int drop, int sums,
                  int partial, int channels, int width, int height) {
    plan->add([=](const At& at, int first, int end) {
        // Those of all rows, and behind them those of these rows.
        const ptrdiff_t numbers = norm >= 0 ? 2 * ptrdiff_t(channels) * LANES : 0;
        float *of_all = at[sums], *own = of_all + numbers;
        if (first == 0) std::fill_n(of_all, numbers, 0.f);
        std::fill_n(own, numbers, 0.f);
        const size_t floats = size_t(at.tiles) * height * width * pixel_of(channels);
        const bool past_cache = norm >= 0 && floats * sizeof(float) > MUCH;
        for_rows(at, first, end, drop, {dy, x, d}, [&](auto kept, int row, int rows) {
            with_activation(activation, [&](auto which) {
                map_back_pixels<which>(at.row(dy, row), at.row(x, row), at.row(d, row), at[norm],
                                       own, kept, past_cache, channels, rows * width);
            });
        });
        for (ptrdiff_t i = 0; i < numbers; i += LANES)
            store(of_all + i, load(of_all + i) + load(own + i));
        if (norm < 0 || end < height) return;
        to_numbers(of_all, at[partial], 2 * channels, first_lanes(at.images_here()));
        const Norm n(at[norm], channels);
        for (int c = 0; c < channels; c++) at[partial][channels + c] *= n.inverse[c];
    });
}

// y = scale * x + shift, of rows of so many vectors.
void add_affine(Plan* plan, int x, int y, double scale, double shift, int vectors) {
    const float a = float(scale), b = float(shift);
    plan->add([=](const At& at, int first, int end) {
        for (int row = first; row < end; row++) {
            const float* from = at.row(x, row);
            float* to = at.row(y, row);
            for (ptrdiff_t i = 0; i < ptrdiff_t(vectors) * LANES; i += LANES)
                store(to + i, load(from + i) * a + b);
        }
    });
}

// y = a + sign * b, or a * b where sign is 0, of rows of so many vectors.
void add_join(Plan* plan, int a, int b, int y, int sign, int vectors) {
    plan->add([=](const At& at, int first, int end) {
        for (int row = first; row < end; row++) {
            const float *left = at.row(a, row), *right = at.row(b, row);
            float* to = at.row(y, row);
            for (ptrdiff_t i = 0; i < ptrdiff_t(vectors) * LANES; i += LANES) {
                const Vec u = load(left + i), v = load(right + i);
                store(to + i, sign > 0 ? u + v : sign < 0 ? u - v : u * v);
            }
        }
    });
}

// y = a + sign * b, or a * b where sign is 0. An operand may have one pixel or one channel only,
// which then stands for all.
void add_combine(Plan* plan, int a, int b, int y, int sign, int a_pixels, int a_channels,
                 int b_pixels, int b_channels) {
    const int pixels = a_pixels > b_pixels ? a_pixels : b_pixels;
    const int channels = a_channels > b_channels ? a_channels : b_channels;
    plan->add([=](const At& at, int, int) {
        for (int i = 0; i < pixels; i++) {
            const float* left = at[a] + (a_pixels > 1 ? i : 0) * pixel_of(a_channels);
            const float* right = at[b] + (b_pixels > 1 ? i : 0) * pixel_of(b_channels);
            float* to = at[y] + i * pixel_of(channels);
            for (int c = 0; c < channels; c++, to += LANES) {
                const Vec u = load(left + (a_channels > 1 ? c : 0) * LANES);
                const Vec v = load(right + (b_channels > 1 ? c : 0) * LANES);
                store(to, sign > 0 ? u + v : sign < 0 ? u - v : u * v);
            }
        }
    });
}

// y = the sum of x over what `combine` has repeated: pixels, channels or both.
void add_reduce(Plan* plan, int x, int y, int pixels, int channels, int to_pixels,
                int to_channels) {
    plan->add([=](const At& at, int, int) {
        std::memset(at[y], 0, sizeof(float) * to_pixels * pixel_of(to_channels));
        for (int i = 0; i < pixels; i++) {
            const float* from = at[x] + i * pixel_of(channels);
            float* row = at[y] + (to_pixels > 1 ? i : 0) * pixel_of(to_channels);
            for (int c = 0; c < channels; c++, from += LANES) {
                float* sum = row + (to_channels > 1 ? c : 0) * LANES;
                store(sum, load(sum) + load(from));
            }
        }
    });
}

// The channels of several values, one behind the other.
void add_concatenate(Plan* plan, const int* xs, int count, int y, int pixels, const int* channels) {
    const std::vector<int> from(xs, xs + count), counts(channels, channels + count);
    plan->add([=](const At& at, int, int) {
        int whole = 0;
        for (int count : counts) whole += count;
        for (int i = 0; i < pixels; i++) {
            float* to = at[y] + i * pixel_of(whole);
            for (size_t part = 0; part < from.size(); part++) {
                const ptrdiff_t floats = ptrdiff_t(counts[part]) * LANES;
                std::memcpy(to, at[from[part]] + i * pixel_of(counts[part]),
                            sizeof(float) * floats);
                to += floats;
            }
        }
    });
}

// y = some channels of x.
void add_take_channels(Plan* plan, int x, int y, int pixels, int channels, int first, int count) {
    plan->add([=](const At& at, int, int) {
        for (int i = 0; i < pixels; i++)
            std::memcpy(at[y] + i * pixel_of(count), at[x] + i * pixel_of(channels) + first * LANES,
                        sizeof(float) * count * LANES);
    });
}

// Features in torch's order, channel by channel, of pixels; and, if `back`, pixels of features.
void add_flatten(Plan* plan, int x, int y, int pixels, int channels, int back) {
    plan->add([=](const At& at, int, int) {
        for (int c = 0; c < channels; c++)
            for (int i = 0; i < pixels; i++) {
                const ptrdiff_t feature = (ptrdiff_t(c) * pixels + i) * LANES,
                                pixel = i * pixel_of(channels) + c * LANES;
                store(at[y] + (back ? pixel : feature), load(at[x] + (back ? feature : pixel)));
            }
    });
}

// ---- Pooling ------------------------------------------------------------------------------------

}  // extern "C"

namespace {
// A pooling: of each row and column of the output, the rows and columns of the input (from, to); of
// each of the input, those of the output that are of it; and by what a mean divides.
struct Windows {
    int width, in_width, channels;
    std::vector<int> rows, columns, of_rows, of_columns;
    std::vector<float> divisors;  // (height, width)
    const int* row(int i) const { return &rows[2 * i]; }
    const int* column(int j) const { return &columns[2 * j]; }
};

template <bool MEAN>
void pool_row(const Windows& w, const At& at, int x, int y, int i) {
    const int channels = w.channels, top = w.row(i)[0], down = w.row(i)[1] - top;
    const ptrdiff_t pixel = pixel_of(channels);
    std::vector<const float*> rows(down);
    for (int r = 0; r < down; r++) rows[r] = at.row(x, top + r);
    float* to = at.row(y, i);
    for (int j = 0; j < w.width; j++, to += pixel) {
        const int left = w.column(j)[0], across = w.column(j)[1] - left;
        for (int c = 0; c < channels; c++) {
            Vec found = all(MEAN ? 0.f : -INFINITY);
            for (int r = 0; r < down; r++)
                for (int s = 0; s < across; s++) {
                    const Vec v = load(rows[r] + (left + s) * pixel + c * LANES);
                    if (MEAN)
                        found += v;
                    else
                        found = (v > found) | (v != v) ? v : found;
                }
            store(to + c * LANES, MEAN ? found / w.divisors[i * w.width + j] : found);
        }
    }
}

// The gradient of a row of the input, from those of all windows that it is in. Of a maximum, the
// first pixel that has it gets the gradient, as in torch.
template <bool MEAN>
void pool_back_row(const Windows& w, const At& at, int x, int y, int dy, int dx, int row) {
    const ptrdiff_t pixel = pixel_of(w.channels), floats = ptrdiff_t(w.channels) * LANES;
    std::vector<const float*> before;  // the pixels of a window that come first
    float* to = at.row(dx, row);
    for (int column = 0; column < w.in_width; column++, to += pixel) {
        std::memset(to, 0, sizeof(float) * floats);
        for (int i = w.of_rows[2 * row]; i < w.of_rows[2 * row + 1]; i++)
            for (int j = w.of_columns[2 * column]; j < w.of_columns[2 * column + 1]; j++) {
                const float* d = at.row(dy, i) + j * pixel;
                if (MEAN) {
                    const float share = 1 / w.divisors[i * w.width + j];
                    for (ptrdiff_t c = 0; c < floats; c += LANES)
                        store(to + c, load(to + c) + load(d + c) * share);
                    continue;
                }
                const int top = w.row(i)[0], left = w.column(j)[0], right = w.column(j)[1];
                before.clear();
                for (int r = top; r <= row; r++)
                    for (int s = left; s < (r < row ? right : column); s++)
                        before.push_back(at.row(x, r) + s * pixel);
                const float *most = at.row(y, i) + j * pixel,
                            *own = at.row(x, row) + column * pixel;
                for (ptrdiff_t c = 0; c < floats; c += LANES) {
                    const Vec m = load(most + c);
                    const auto has = [&](const float* of) {
                        const Vec v = load(of + c);
                        return (v == m) | (v != v);
                    };
                    IntVec is_first = has(own);
                    for (const float* other : before) is_first &= ~has(other);
                    store(to + c, load(to + c) + (is_first ? load(d + c) : Vec{}));
                }
            }
    }
}

Windows windows(int height, int width, int in_height, int in_width, int channels, const int* rows,
                const int* columns, const int* of_rows, const int* of_columns,
                const float* divisors) {
    return {width,
            in_width,
            channels,
            {rows, rows + 2 * height},
            {columns, columns + 2 * width},
            {of_rows, of_rows + 2 * in_height},
            {of_columns, of_columns + 2 * in_width},
            {divisors, divisors + height * width}};
}
}  // namespace

extern "C" {

void add_pool(Plan* plan, int x, int y, int mean, int height, int width, int in_height,
              int in_width, int channels, const int* rows, const int* columns, const int* of_rows,
              const int* of_columns, const float* divisors) {
    const Windows w = windows(height, width, in_height, in_width, channels, rows, columns, of_rows,
                              of_columns, divisors);
    plan->add([=](const At& at, int first, int end) {
        for (int i = first; i < end; i++) (mean ? pool_row<true> : pool_row<false>)(w, at, x, y, i);
    });
}

void add_pool_back(Plan* plan, int x, int y, int dy, int dx, int mean, int height, int width,
                   int in_height, int in_width, int channels, const int* rows, const int* columns,
                   const int* of_rows, const int* of_columns, const float* divisors) {
    const Windows w = windows(height, width, in_height, in_width, channels, rows, columns, of_rows,
                              of_columns, divisors);
    plan->add([=](const At& at, int first, int end) {
        for (int i = first; i < end; i++)
            (mean ? pool_back_row<true> : pool_back_row<false>)(w, at, x, y, dy, dx, i);
    });
}

// ---- Logarithm of softmax, over channels --------------------------------------------------------

void add_log_softmax(Plan* plan, int x, int y, int channels, int pixels) {
    plan->add([=](const At& at, int, int) {
        for (int i = 0; i < pixels; i++) {
            const float* from = at[x] + i * pixel_of(channels);
            float* to = at[y] + i * pixel_of(channels);
            Vec most = load(from), sum{};
            for (int c = 1; c < channels; c++) {
                const Vec v = load(from + c * LANES);
                most = (v > most) | (v != v) ? v : most;
            }
            for (int c = 0; c < channels; c++) sum += exponential(load(from + c * LANES) - most);
            for (int lane = 0; lane < LANES; lane++) sum[lane] = std::log(sum[lane]);
            for (int c = 0; c < channels; c++)
                store(to + c * LANES, load(from + c * LANES) - most - sum);
        }
    });
}

void add_log_softmax_back(Plan* plan, int y, int dy, int dx, int channels, int pixels) {
    plan->add([=](const At& at, int, int) {
        for (int i = 0; i < pixels; i++) {
            const ptrdiff_t first = i * pixel_of(channels);
            Vec sum{};
            for (int c = 0; c < channels; c++) sum += load(at[dy] + first + c * LANES);
            for (int c = 0; c < channels; c++) {
                const ptrdiff_t j = first + c * LANES;
                store(at[dx] + j, load(at[dy] + j) - exponential(load(at[y] + j)) * sum);
            }
        }
    });
}

// ---- What the processor can do ------------------------------------------------------------------

// The most that one thread reaches: multiply-adds in registers, in 1e9 operations a second.
double peak_gflops(double seconds) {
    constexpr int CHAINS = 12;  // enough of them that none waits for itself
    double best = 0;
    for (double spent = 0; spent < seconds;) {
        Vec sums[CHAINS];
        for (int i = 0; i < CHAINS; i++) sums[i] = all(float(i));
        const Vec factor = all(0.999999f), term = all(1e-7f);
        const int rounds = 200000;
        const auto begun = std::chrono::steady_clock::now();
        for (int round = 0; round < rounds; round++) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
        }
        const double took =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
        for (int i = 1; i < CHAINS; i++) sums[0] += sums[i];
        volatile float kept = sum_of_lanes(sums[0]);
        (void)kept;
        spent += took;
        const double reached = 2.0 * rounds * CHAINS * LANES / took / 1e9;
        if (reached > best) best = reached;
    }
    return best;
}

}  // extern "C"

// Sums of products over everything but one axis, for many tensors, each byte read once from memory.
//
// Why a kernel: a channel's score is a sum over a row of one weight and over columns of the next. In PyTorch that
// is one pass over w and g for every axis, a product written out and read back, and hundreds of launches.
//
//   weight_tiles   one block per tile (32 rows x 512 columns of a tensor): the fp32 sums of its rows and columns
//   weight_totals  one warp per channel: the fp64 sum of its partial sums
//   gate_rows, gate_columns, gate_totals   activation x gradient, one number per sample and channel
//
// There are no atomics, and the tiles depend on shapes only, so the same numbers give the same bits on every run (and
// weights from aligned memory or not). Compiled for one use, without headers, and without contraction of a * b + c:
// MOMENTS is a mask of 1 w*g, 2 |w*g|, 4 (w*g)^2, 8 w^2, 16 |w|; SCALAR is 0 fp32, 1 fp16, 2 bf16; VECTOR is 1 for
// 16-byte loads. Job and Output are laid out as in tiles.py. The tests also compile this file as C++, for a CPU.

#if !defined(MOMENTS) || !defined(SCALAR) || !defined(VECTOR)
#error "MOMENTS, SCALAR and VECTOR choose the instance"
#endif

constexpr int LANES = 32;
constexpr int WARPS = 8;
constexpr int ROWS_PER_WARP = 4;
constexpr int TILE_ROWS = WARPS * ROWS_PER_WARP;
constexpr int PER_LANE = 16;
constexpr int TILE_COLUMNS = LANES * PER_LANE;
constexpr int BYTES = SCALAR == 0 ? 4 : 2;
constexpr int PACK = 16 / BYTES;
constexpr int GATE_CHUNK = 4096;
constexpr int GATE_POSITIONS = 256;
constexpr int GATE_CHANNELS = LANES * PACK;
constexpr int SLOTS = 240;  // 3840 of the 4096 bytes that a launch may carry on every device
constexpr int KINDS =
    (MOMENTS & 1) + (MOMENTS >> 1 & 1) + (MOMENTS >> 2 & 1) + (MOMENTS >> 3 & 1) + (MOMENTS >> 4 & 1);
constexpr bool READS_GRADIENT = (MOMENTS & 7) != 0;

struct Pointers {
    const void* weight[SLOTS];
    const void* gradient[SLOTS];
};

struct Job {
    long long rows, columns;
    long long row_partials, column_partials;  // where in the workspace; negative if not requested
    int row_tiles, column_tiles, first_tile, slot;
};

struct Output {
    long long partials, moment_stride, run, outers, channels, sums;
    int first_block, unused;
};

struct Packet {
    unsigned words[4];
};

// Pointers out of a table are generic to the compiler, which then emits slower generic loads: hence the asm.
#ifdef __CUDA_ARCH__
__device__ __forceinline__ Packet read_packet(const void* address) {
    Packet packet;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(packet.words[0]), "=r"(packet.words[1]), "=r"(packet.words[2]), "=r"(packet.words[3])
        : "l"(__cvta_generic_to_global(address)));
    return packet;
}
__device__ __forceinline__ unsigned read_word(const void* address) {
    unsigned word;
    asm("ld.global.nc.u32 %0, [%1];" : "=r"(word) : "l"(__cvta_generic_to_global(address)));
    return word;
}
__device__ __forceinline__ unsigned short read_short(const void* address) {
    unsigned short bits;
    asm("ld.global.nc.u16 %0, [%1];" : "=h"(bits) : "l"(__cvta_generic_to_global(address)));
    return bits;
}
__device__ __forceinline__ float widen_fp16(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#else
static Packet read_packet(const void* address) { return checked_read<Packet>(address); }
static unsigned read_word(const void* address) { return checked_read<unsigned>(address); }
static unsigned short read_short(const void* address) { return checked_read<unsigned short>(address); }
static float widen_fp16(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    const float size = __uint_as_float(rest << 13) * __uint_as_float(0x77800000u);  // 2^112 fixes the exponent's bias
    return sign ? -size : size;
}
#endif

__device__ __forceinline__ float widen_short(unsigned short bits) {
    return SCALAR == 1 ? widen_fp16(bits) : __uint_as_float(static_cast<unsigned>(bits) << 16);
}

__device__ __forceinline__ float read_one(const void* base, long long index) {
    const char* address = static_cast<const char*>(base) + index * BYTES;
    return SCALAR == 0 ? __uint_as_float(read_word(address)) : widen_short(read_short(address));
}

__device__ __forceinline__ void read_pack(const void* base, long long index, float* values) {
    const Packet packet = read_packet(static_cast<const char*>(base) + index * BYTES);
#pragma unroll
    for (int i = 0; i < PACK; ++i) {
        if (SCALAR == 0) values[i] = __uint_as_float(packet.words[i % 4]);
        else values[i] = widen_short(static_cast<unsigned short>(packet.words[i / 2 % 4] >> (i % 2 * 16)));
    }
}

// PACK neighbours of a line, zeros beyond its end. A lane has the same columns with either kind of load, so that the
// order of additions, and with it every bit, does not depend on where an allocator put the tensor.
__device__ __forceinline__ void read_neighbours(const void* base, long long line, long long first, long long end,
                                                float* values) {
#pragma unroll
    for (int i = 0; i < PACK; ++i) values[i] = 0.0f;
#if VECTOR
    if (first < end) read_pack(base, line + first, values);
#else
#pragma unroll
    for (int i = 0; i < PACK; ++i)
        if (first + i < end) values[i] = read_one(base, line + first + i);
#endif
}

// The requested powers of one weight and its gradient, lowest bit first. Formed in fp32: 60000 * 60000 is past fp16,
// and a square keeps all its bits while |w*g| is between 1e-19 and 1e19.
__device__ __forceinline__ void terms_of(float w, float g, float* terms) {
    const float product = READS_GRADIENT ? w * g : 0.0f;
    int kind = 0;
    if (MOMENTS & 1) terms[kind++] = product;
    if (MOMENTS & 2) terms[kind++] = fabsf(product);
    if (MOMENTS & 4) terms[kind++] = product * product;
    if (MOMENTS & 8) terms[kind++] = w * w;
    if (MOMENTS & 16) terms[kind++] = fabsf(w);
}

template <typename Number>
__device__ __forceinline__ Number sum_of_warp(Number value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

extern "C" __global__ void __launch_bounds__(256)
weight_tiles(const __grid_constant__ Pointers pointers, const Job* jobs, const int* tile_jobs, float* partials,
             int first_tile) {
    __shared__ float of_warps[WARPS][TILE_COLUMNS];
    const int tile = first_tile + static_cast<int>(blockIdx.x);
    const Job job = jobs[tile_jobs[tile]];
    const int row_tile = (tile - job.first_tile) % job.row_tiles;
    const int column_tile = (tile - job.first_tile) / job.row_tiles;
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const long long first_row = static_cast<long long>(row_tile) * TILE_ROWS + warp * ROWS_PER_WARP;
    const long long first_column = static_cast<long long>(column_tile) * TILE_COLUMNS;
    const void* weight = pointers.weight[job.slot];
    const void* gradient = READS_GRADIENT ? pointers.gradient[job.slot] : nullptr;

    float column_sums[KINDS][PER_LANE] = {};
    // Unrolled, five sums would need more registers than there are, and spill.
#pragma unroll(KINDS > 2 ? 1 : ROWS_PER_WARP)
    for (int i = 0; i < ROWS_PER_WARP; ++i) {
        const long long row = first_row + i;
        if (row >= job.rows) break;  // the same for the whole warp
        float w[PER_LANE], g[PER_LANE] = {};
#pragma unroll
        for (int pack = 0; pack < PER_LANE; pack += PACK) {
            const long long column = first_column + pack * LANES + lane * PACK;
            read_neighbours(weight, row * job.columns, column, job.columns, w + pack);
            if (READS_GRADIENT) read_neighbours(gradient, row * job.columns, column, job.columns, g + pack);
        }
        float row_sums[KINDS] = {};
#pragma unroll
        for (int k = 0; k < PER_LANE; ++k) {
            float terms[KINDS];
            terms_of(w[k], g[k], terms);
#pragma unroll
            for (int kind = 0; kind < KINDS; ++kind) {
                row_sums[kind] += terms[kind];
                column_sums[kind][k] += terms[kind];
            }
        }
#pragma unroll
        for (int kind = 0; kind < KINDS; ++kind) {
            const float sum = sum_of_warp(row_sums[kind]);
            if (lane == 0 && job.row_partials >= 0)
                partials[job.row_partials + (kind * job.rows + row) * job.column_tiles + column_tile] = sum;
        }
    }

    if (job.column_partials < 0) return;  // the same for the whole block
#pragma unroll
    for (int kind = 0; kind < KINDS; ++kind) {
        if (kind > 0) __syncthreads();
#pragma unroll
        for (int k = 0; k < PER_LANE; ++k) of_warps[warp][k * LANES + lane] = column_sums[kind][k];
        __syncthreads();
        for (int slot = threadIdx.x; slot < TILE_COLUMNS; slot += WARPS * LANES) {
            float sum = 0.0f;
#pragma unroll
            for (int other = 0; other < WARPS; ++other) sum += of_warps[other][slot];
            const int k = slot / LANES;
            const long long column = first_column + k / PACK * PACK * LANES + slot % LANES * PACK + k % PACK;
            // A column's partial sums lie together: the next kernel then reads whole channels in one stretch.
            if (column < job.columns)
                partials[job.column_partials + (kind * job.columns + column) * job.row_tiles + row_tile] = sum;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
weight_totals(const Output* outputs, const int* block_outputs, const float* partials, double* sums, int* nonfinite,
              int accumulate) {
    const Output output = outputs[block_outputs[blockIdx.x]];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int block = static_cast<int>(blockIdx.x) - output.first_block;
    const long long channel = static_cast<long long>(block) * WARPS + warp;
    if (channel >= output.channels) return;
    // A channel has fewer than 2^32 partial sums; dividing long numbers is a call, which spilled a register on sm_120.
    const unsigned run = static_cast<unsigned>(output.run), count = static_cast<unsigned>(output.outers) * run;
    for (int kind = 0; kind < KINDS; ++kind) {
        const float* first = partials + output.partials + kind * output.moment_stride;
        double total = 0.0;
        for (unsigned i = lane; i < count; i += LANES) {
            const unsigned outer = i / run;
            total += first[(outer * output.channels + channel) * output.run + i - outer * run];
        }
        total = sum_of_warp(total);
        if (lane != 0) continue;
        double* place = sums + output.sums + kind * output.channels + channel;
        if (accumulate) total += *place;
        *place = total;
        if (nonfinite != nullptr && total - total != 0.0) *nonfinite = 1;  // every writer writes the same
    }
}

// Where a channel's numbers are one stretch of memory (NCHW): one warp per stretch of at most GATE_CHUNK.
extern "C" __global__ void __launch_bounds__(256)
gate_rows(const void* activation, const void* gradient, float* out, long long rows, long long inner, int channels,
          int splits) {
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const long long unit = static_cast<long long>(blockIdx.x) * WARPS + warp;
    if (unit >= rows * splits) return;
    const long long row = unit / splits, split = unit % splits;
    const long long first = split * GATE_CHUNK, end = first + GATE_CHUNK < inner ? first + GATE_CHUNK : inner;
    float sums[PACK] = {};
#pragma unroll(VECTOR ? 4 : 2)
    for (long long i = first; i < end; i += LANES * PACK) {
        float a[PACK], g[PACK];
#if VECTOR
        read_neighbours(activation, row * inner, i + lane * PACK, end, a);
        read_neighbours(gradient, row * inner, i + lane * PACK, end, g);
#else
        // Neighbouring lanes read neighbouring numbers: a 7 x 7 map would otherwise keep 13 lanes of 32 busy.
#pragma unroll
        for (int k = 0; k < PACK; ++k) {
            const long long at = i + k * LANES + lane;
            a[k] = at < end ? read_one(activation, row * inner + at) : 0.0f;
            g[k] = at < end ? read_one(gradient, row * inner + at) : 0.0f;
        }
#endif
#pragma unroll
        for (int k = 0; k < PACK; ++k) sums[k] += a[k] * g[k];
    }
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < PACK; ++k) sum += sums[k];
    sum = sum_of_warp(sum);
    if (lane == 0) out[(row / channels * splits + split) * channels + row % channels] = sum;
}

// Where neighbouring numbers are of different channels (NHWC, tokens): one block per 32 packs of channels and at most
// GATE_POSITIONS positions.
extern "C" __global__ void __launch_bounds__(256)
gate_columns(const void* activation, const void* gradient, float* out, long long positions, long long channels,
             int splits, int channel_tiles) {
    __shared__ float of_warps[WARPS][GATE_CHANNELS];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const long long part = static_cast<long long>(blockIdx.x) / channel_tiles;  // sample * splits + split
    const long long first_channel = static_cast<long long>(blockIdx.x) % channel_tiles * GATE_CHANNELS;
    const long long first = part % splits * GATE_POSITIONS;
    const long long end = first + GATE_POSITIONS < positions ? first + GATE_POSITIONS : positions;
    float sums[PACK] = {};
#pragma unroll(VECTOR ? 4 : 2)
    for (long long position = first + warp; position < end; position += WARPS) {
        const long long line = (part / splits * positions + position) * channels;
        float a[PACK], g[PACK];
        read_neighbours(activation, line, first_channel + lane * PACK, channels, a);
        read_neighbours(gradient, line, first_channel + lane * PACK, channels, g);
#pragma unroll
        for (int k = 0; k < PACK; ++k) sums[k] += a[k] * g[k];
    }
#pragma unroll
    for (int k = 0; k < PACK; ++k) of_warps[warp][k * LANES + lane] = sums[k];
    __syncthreads();
    const int slot = threadIdx.x;
    if (slot >= GATE_CHANNELS) return;
    float sum = 0.0f;
#pragma unroll
    for (int other = 0; other < WARPS; ++other) sum += of_warps[other][slot];
    const long long channel = first_channel + slot % LANES * PACK + slot / LANES;
    if (channel < channels) out[part * channels + channel] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
gate_totals(const float* partials, float* out, long long count, long long splits, long long channels) {
    const long long at = static_cast<long long>(blockIdx.x) * (WARPS * LANES) + threadIdx.x;
    if (at >= count) return;
    const long long sample = at / channels, channel = at % channels;
    double total = 0.0;
    for (long long split = 0; split < splits; ++split)
        total += partials[(sample * splits + split) * channels + channel];
    out[at] = static_cast<float>(total);
}

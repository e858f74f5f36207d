// The kernels of SOURCE as plain C++: every CUDA thread is a fiber, and a block runs one fiber at a time.
//
// A fiber runs until it waits at a barrier or a shuffle: a thread that reads what another has not written yet reads
// poison (shared memory starts as NaN), and one that overwrites too early is seen too. Reported as errors: a barrier
// or a shuffle that not all threads reach, a read outside the tensors that were announced, a misaligned read, an index
// outside an array.
// What it cannot show: races that need true concurrency, the memory model, speed.

// C headers only: each instance and each mutant is one build, and C++ headers would be most of its time.
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

struct Index {
    unsigned x;
};
Index threadIdx, blockIdx;

namespace machine {
constexpr int THREADS = 256, WARP = 32, STACK = 64 * 1024, RANGES = 1024;
enum class State { ready, at_barrier, at_shuffle, done };
struct Fiber {
    State state;
    bool started;
    unsigned shuffles;  // two sets of values: a fast lane may be one shuffle ahead of a slow one
    unsigned char value[2][8];
    jmp_buf place;
    ucontext_t entry;
};
Fiber fibers[THREADS];
char stacks[THREADS][STACK];
jmp_buf scheduler;
void (*body)(void*);
void* arguments;
char error[200];
bool reversed;
const char *readable_from[RANGES], *readable_to[RANGES];
int ranges;
extern "C" char __start_shared_memory[] __attribute__((visibility("hidden"), weak));
extern "C" char __stop_shared_memory[] __attribute__((visibility("hidden"), weak));

void fail(const char* what) {
    if (!error[0]) snprintf(error, sizeof error, "block %u, thread %u: %s", blockIdx.x, threadIdx.x, what);
}

__attribute__((noinline)) void wait(State state) {
    Fiber& fiber = fibers[threadIdx.x];
    fiber.state = state;
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

void enter() {
    body(arguments);
    fibers[threadIdx.x].state = State::done;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) void resume(unsigned thread) {
    threadIdx.x = thread;
    Fiber& fiber = fibers[thread];
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.entry);
}

bool all(int first, int count, State state) {
    for (int thread = first; thread < first + count; ++thread)
        if (fibers[thread].state != state) return false;
    return true;
}

void release(int first, int count) {
    for (int thread = first; thread < first + count; ++thread) fibers[thread].state = State::ready;
}

void run_block() {
    memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    for (int thread = 0; thread < THREADS; ++thread) {
        Fiber& fiber = fibers[thread];
        fiber.state = State::ready;
        fiber.started = false;
        fiber.shuffles = 0;
        getcontext(&fiber.entry);
        fiber.entry.uc_stack = {stacks[thread], 0, STACK};
        fiber.entry.uc_link = nullptr;
        makecontext(&fiber.entry, enter, 0);
    }
    while (!error[0] && !all(0, THREADS, State::done)) {
        for (int i = 0; i < THREADS; ++i) {
            const int thread = reversed ? THREADS - 1 - i : i;
            if (fibers[thread].state == State::ready) resume(thread);
        }
        bool moved = false;
        for (int first = 0; first < THREADS; first += WARP)
            if (all(first, WARP, State::at_shuffle)) release(first, WARP), moved = true;
        if (all(0, THREADS, State::at_barrier)) release(0, THREADS), moved = true;
        if (!moved && !all(0, THREADS, State::done)) fail("not all threads reach the same barrier or shuffle");
    }
}

template <typename Call>
const char* launch(int blocks, bool backwards, Call call) {
    body = [](void* held) { (*static_cast<Call*>(held))(); };
    arguments = &call;
    reversed = backwards;
    error[0] = 0;
    for (int i = 0; i < blocks && !error[0]; ++i) {
        blockIdx.x = backwards ? blocks - 1 - i : i;
        run_block();
    }
    return error;
}
}  // namespace machine

template <typename Number>
Number __shfl_xor_sync(unsigned mask, Number value, int distance) {
    machine::Fiber& fiber = machine::fibers[threadIdx.x];
    const unsigned set = fiber.shuffles++ % 2;
    memcpy(fiber.value[set], &value, sizeof value);
    if (mask != 0xffffffffu) machine::fail("a shuffle without all lanes");
    machine::wait(machine::State::at_shuffle);
    memcpy(&value, machine::fibers[threadIdx.x ^ distance].value[set], sizeof value);
    return value;
}

inline void __syncthreads() { machine::wait(machine::State::at_barrier); }

inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename Value>
Value checked_read(const void* address) {
    const char* first = static_cast<const char*>(address);
    Value value;
    memset(&value, 0xff, sizeof value);
    for (int i = 0; i < machine::ranges; ++i)
        if (first >= machine::readable_from[i] && first + sizeof value <= machine::readable_to[i]) {
            if (reinterpret_cast<unsigned long>(first) % sizeof value == 0) memcpy(&value, first, sizeof value);
            else machine::fail("a misaligned read");
            return value;
        }
    machine::fail("a read outside every tensor");
    return value;
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
#define __shared__ static __attribute__((section("shared_memory")))
#include SOURCE

extern "C" {
void __ubsan_handle_out_of_bounds(void*, void*) { machine::fail("an index outside an array"); }
void may_read_nothing() { machine::ranges = 0; }
void may_read(const char* begin, long long bytes) {
    if (machine::ranges == machine::RANGES) return;
    machine::readable_from[machine::ranges] = begin;
    machine::readable_to[machine::ranges++] = begin + bytes;
}
int size_of_job() { return sizeof(Job); }
int size_of_output() { return sizeof(Output); }
int size_of_pointers() { return sizeof(Pointers); }
const char* run_weight_tiles(int blocks, bool backwards, const Pointers* pointers, const Job* jobs,
                             const int* tile_jobs, float* partials, int first_tile) {
    return machine::launch(blocks, backwards,
                           [=] { weight_tiles(*pointers, jobs, tile_jobs, partials, first_tile); });
}
const char* run_weight_totals(int blocks, bool backwards, const Output* outputs, const int* block_outputs,
                              const float* partials, double* sums, int* nonfinite, int accumulate) {
    return machine::launch(blocks, backwards,
                           [=] { weight_totals(outputs, block_outputs, partials, sums, nonfinite, accumulate); });
}
const char* run_gate_rows(int blocks, bool backwards, const void* a, const void* g, float* out, long long rows,
                          long long inner, int channels, int splits) {
    return machine::launch(blocks, backwards, [=] { gate_rows(a, g, out, rows, inner, channels, splits); });
}
const char* run_gate_columns(int blocks, bool backwards, const void* a, const void* g, float* out,
                             long long positions, long long channels, int splits, int channel_tiles) {
    return machine::launch(blocks, backwards,
                           [=] { gate_columns(a, g, out, positions, channels, splits, channel_tiles); });
}
const char* run_gate_totals(int blocks, bool backwards, const float* partials, float* out, long long count,
                            long long splits, long long channels) {
    return machine::launch(blocks, backwards, [=] { gate_totals(partials, out, count, splits, channels); });
}
}

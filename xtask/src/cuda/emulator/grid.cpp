// The threads of a block are fibers: a thread runs until it waits for others, or to its end. Blocks come one by one.
//
// Threads that never wait share one stack and cost no switch, which is what makes elementwise kernels fast.

#include "grid.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <vector>

#include "kernel_host.h"

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

// void kif_switch(void **save_sp, void *load_sp): callee-saved registers go to the old stack and come from the new one.
extern "C" void kif_switch(void **save_sp, void *load_sp);
asm(R"(
.text
.globl kif_switch
.hidden kif_switch
.type kif_switch, @function
kif_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size kif_switch, .-kif_switch
)");

namespace kif {
namespace {

constexpr unsigned max_threads = 1024, warp = 32;
constexpr std::size_t stack_bytes = 128 << 10, guard_bytes = 4096;

enum class State : unsigned char { ready, at_barrier, at_exchange, ended };

struct Thread {
    State state;
    int stack;          // -1 before its first turn
    unsigned mask;      // of its last exchange
    uint64_t gives;     // to the exchange that it waits for
    uint64_t gave;      // to the last complete one; neighbours read this
};

struct Stack {
    char *base;
    void *sp;
};

const Kernel *kernel;
void **kernel_arguments;
bool reversed;
unsigned n_threads, n_started;
unsigned current;               // whose turn it is
Thread threads[max_threads];
Stack stacks[max_threads];
std::vector<int> free_stacks;
int beginner = -1; // The stack on which threads begin.
void *scheduler_sp;
char problem[256];

unsigned in_order(unsigned position) { return reversed ? n_threads - 1 - position : position; }

void take_turn(unsigned thread) {
    current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
}

// A stack's program: threads that have not begun, one after the other, as long as they do not wait.
void body() {
    for (;;) {
        while (n_started < n_threads) {
            unsigned thread = in_order(n_started++);
            take_turn(thread);
            threads[thread].stack = -1;
            kernel->call(kernel_arguments);
            Thread &ended = threads[current]; // Still this thread: a turn that was given up comes back to it.
            ended.state = State::ended;
            if (ended.stack >= 0) { // It has waited, so that others have this stack's place as beginners.
                int stack = ended.stack;
                ended.stack = -1;
                free_stacks.push_back(stack);
                kif_switch(&stacks[stack].sp, scheduler_sp);
            }
        }
        // All have begun, and the last to run here never waited: the stack is free again.
        int stack = beginner;
        beginner = -1;
        free_stacks.push_back(stack);
        kif_switch(&stacks[stack].sp, scheduler_sp);
    }
}


void prepare(Stack &stack) {
    if (!stack.base) {
        void *at = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED || mprotect(at, guard_bytes, PROT_NONE)) {
            std::fprintf(stderr, "emulator: no memory for the threads' stacks\n");
            std::abort();
        }
        stack.base = static_cast<char *>(at);
    }
    // As if kif_switch had been called by a function that returns to `body`: six registers, then the address, and the
    // stack aligned as at a function's entry.
    void **top = reinterpret_cast<void **>(stack.base + guard_bytes + stack_bytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(&body);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack.sp = top;
}

void wait(State state) {
    Thread &me = threads[current];
    me.state = state;
    if (me.stack < 0) { // Its first wait: the stack is now its own.
        me.stack = beginner;
        beginner = -1;
    }
    unsigned thread = current;
    kif_switch(&stacks[me.stack].sp, scheduler_sp);
    take_turn(thread);
}

bool exchange_complete(unsigned thread) {
    unsigned first = thread / warp * warp;
    unsigned mask = threads[thread].mask;
    for (unsigned lane = 0; lane < warp && first + lane < n_threads; ++lane) {
        const Thread &other = threads[first + lane];
        if (!(mask >> lane & 1)) continue;
        if (other.state == State::ended) {
            std::snprintf(problem, sizeof problem, "thread %u shuffles with thread %u, which has ended", thread,
                          first + lane);
            return false;
        }
        if (other.state != State::at_exchange) return false;
        if (other.mask != mask) {
            std::snprintf(problem, sizeof problem, "threads %u and %u shuffle with different masks", thread,
                          first + lane);
            return false;
        }
    }
    return true;
}

// Lets go those who need not wait any longer. False if there are none.
bool release() {
    bool any = false;
    for (unsigned first = 0; first < n_threads; first += warp) {
        for (unsigned thread = first; thread < n_threads && thread < first + warp; ++thread) {
            if (threads[thread].state != State::at_exchange || !exchange_complete(thread)) continue;
            unsigned mask = threads[thread].mask;
            for (unsigned lane = 0; lane < warp && first + lane < n_threads; ++lane) {
                if (!(mask >> lane & 1)) continue;
                // Every thread stands still now, so nobody reads the older value any more.
                threads[first + lane].gave = threads[first + lane].gives;
                threads[first + lane].state = State::ready;
            }
            any = true;
        }
    }
    if (any || problem[0]) return any && !problem[0];
    unsigned n_waiting = 0, n_ended = 0, at_exchange = n_threads;
    for (unsigned thread = 0; thread < n_threads; ++thread) {
        n_waiting += threads[thread].state == State::at_barrier;
        n_ended += threads[thread].state == State::ended;
        if (threads[thread].state == State::at_exchange) at_exchange = thread;
    }
    if (n_waiting == n_threads) {
        for (unsigned thread = 0; thread < n_threads; ++thread) threads[thread].state = State::ready;
        return true;
    }
    if (at_exchange < n_threads)
        std::snprintf(problem, sizeof problem, "thread %u shuffles, but not all threads of its mask come to it",
                      at_exchange);
    else
        std::snprintf(problem, sizeof problem, "%u of %u threads wait at __syncthreads, %u have ended", n_waiting,
                      n_threads, n_ended);
    return false;
}

bool run_block() {
    n_started = 0;
    for (unsigned thread = 0; thread < n_threads; ++thread) threads[thread] = Thread{State::ready, -1, 0, 0, 0};
    for (;;) {
        // Those who have begun go first, in order; a beginner's stack goes through all that have not.
        bool all_ended = true;
        for (unsigned position = 0; position < n_threads; ++position) {
            unsigned thread = in_order(position);
            if (position >= n_started) {
                if (free_stacks.empty()) {
                    std::fprintf(stderr, "emulator: more stacks than threads\n");
                    std::abort();
                }
                beginner = free_stacks.back();
                free_stacks.pop_back();
                prepare(stacks[beginner]);
                kif_switch(&scheduler_sp, stacks[beginner].sp);
                position = n_started - 1;
                continue;
            }
            if (threads[thread].state == State::ready) {
                take_turn(thread);
                kif_switch(&scheduler_sp, stacks[threads[thread].stack].sp);
            }
        }
        for (unsigned thread = 0; thread < n_threads; ++thread) all_ended &= threads[thread].state == State::ended;
        if (all_ended) return true;
        if (!release()) return false;
    }
}

} // namespace

bool run(const Kernel &which, const Launch &launch, void **arguments) {
    kernel = &which;
    kernel_arguments = arguments;
    reversed = launch.reversed;
    n_threads = launch.block[0] * launch.block[1] * launch.block[2];
    blockDim = {launch.block[0], launch.block[1], launch.block[2]};
    gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
    problem[0] = 0;
    free_stacks.clear();
    for (int stack = max_threads - 1; stack >= 0; --stack) free_stacks.push_back(stack);

    std::size_t n_blocks = (std::size_t)launch.grid[0] * launch.grid[1] * launch.grid[2];
    for (std::size_t i = 0; i < n_blocks; ++i) {
        std::size_t block = reversed ? n_blocks - 1 - i : i;
        blockIdx = {(unsigned)(block % launch.grid[0]), (unsigned)(block / launch.grid[0] % launch.grid[1]),
                    (unsigned)(block / launch.grid[0] / launch.grid[1])};
        // Nobody has written it yet: what is read of it is NaN.
        for (const Shared *memory = shared; memory->name && launch.shared_bytes; ++memory)
            std::memset(memory->at(), 0xff, launch.shared_bytes);
        if (!run_block()) {
            std::fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u): %s\n", which.name, blockIdx.x, blockIdx.y,
                         blockIdx.z, problem);
            return false;
        }
    }
    return true;
}

} // namespace kif

void __syncthreads() { kif::wait(kif::State::at_barrier); }

void kif_exchange(unsigned mask, uint64_t mine) {
    kif::Thread &me = kif::threads[kif::current];
    if (!(mask >> kif_lane() & 1)) {
        std::fprintf(stderr, "emulator: kernel %s: thread %u is not in its own shuffle's mask %08x\n",
                     kif::kernel->name, kif::current, mask);
        std::abort();
    }
    me.mask = mask;
    me.gives = mine;
    kif::wait(kif::State::at_exchange);
}

uint64_t kif_exchanged(unsigned lane) {
    // A lane outside the block or the mask gives nothing: its value is undefined on a device, NaN here.
    if (!kif_gave(lane)) return ~uint64_t{0};
    return kif::threads[kif::current / kif::warp * kif::warp + lane].gave;
}

bool kif_gave(unsigned lane) {
    const kif::Thread &me = kif::threads[kif::current];
    unsigned other = kif::current / kif::warp * kif::warp + lane;
    return lane < kif::warp && other < kif::n_threads && (me.mask >> lane & 1);
}

unsigned kif_lane() { return kif::current % kif::warp; }

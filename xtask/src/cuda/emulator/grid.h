// A grid of threads on one thread of the host.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

namespace kif {

// A kernel by name. `call` runs one thread of it on the arguments that cuLaunchKernel got.
struct Kernel {
    const char *name;
    void (*call)(void **arguments);
};

template <class... A, std::size_t... I> void call(void (*f)(A...), void **arguments, std::index_sequence<I...>) {
    f(*static_cast<std::remove_cv_t<A> *>(arguments[I])...);
}
template <class... A> void call(void (*f)(A...), void **arguments) {
    call(f, arguments, std::index_sequence_for<A...>{});
}

// A block of dynamic shared memory, as a source declares it: extern __shared__ T name[].
struct Shared {
    const char *name;
    void *(*at)();
};

// Both end with a null name. Generated: see kernels.cpp in the folder of the built libraries.
extern const Kernel kernels[];
extern const Shared shared[];
constexpr std::size_t max_shared_bytes = 232448; // What a block of an H100 or H200 may have when it asks.

struct Launch {
    unsigned grid[3], block[3];
    std::size_t shared_bytes;
    bool reversed; // Blocks, and threads between two barriers, run from last to first.
};

// Runs the whole grid. False, with a message on standard error, where threads wait for each other in vain.
bool run(const Kernel &kernel, const Launch &launch, void **arguments);

} // namespace kif

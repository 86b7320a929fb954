// A kernel whose threads wait for each other in vain ends its launch with an error. Exits with 0 if so.
#include <cstddef>
#include <cstdint>

using std::size_t;
extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void **, int);
int cuCtxSetCurrent(void *);
int cuMemAllocAsync(uint64_t *, size_t, void *);
int cuModuleLoadData(void **, const void *);
int cuModuleGetFunction(void **, void *, const char *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                   void **);
}
int main() {
    void *context, *module, *function;
    uint64_t out;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context) ||
        cuMemAllocAsync(&out, 4096, nullptr) || cuModuleLoadData(&module, ".version 9.0\n.entry leaves_early(") ||
        cuModuleGetFunction(&function, module, "leaves_early"))
        return 1;
    void *arguments[] = {&out};
    return cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, nullptr, arguments, nullptr) == 719 ? 0 : 2;
}

// libcuda.so.1 of a machine without a GPU: device memory is host memory, and kernels run on the processor.
//
// Stricter than a driver where a program would otherwise be wrong without showing it: fresh and freed memory is NaN,
// blocks have guarded ends, copies must stay inside one block, and a freed block is not freed twice.

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <string>

#include "grid.h"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

// Of cuda.h.
enum : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE_FUNCTION = 98,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    FILE_NOT_FOUND = 301,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
};

constexpr std::size_t guard_bytes = 256;
constexpr unsigned char guard_byte = 0xa5;
void *const the_context = reinterpret_cast<void *>(0x10);

struct Function {
    std::string name;
    const kif::Kernel *kernel; // null: not one of ours
    std::size_t max_shared_bytes = 49152;
};

struct Module {
    std::string ptx;
    std::map<std::string, Function> functions;
};

std::mutex lock;
std::map<uint64_t, std::size_t> blocks; // address to bytes
std::size_t used_bytes, peak_bytes;
std::size_t n_modules, n_functions, n_launches;
bool initialised;
int broken; // what a failed launch leaves behind: every later call answers it, as on a device
thread_local void *context;

int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fail(int error, const char *format, ...) {
    std::fprintf(stderr, "emulator: ");
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n");
    return error;
}

// Bytes of the device: KIF_EMULATOR_MEMORY, or 16 GiB.
std::size_t total_bytes() {
    static const std::size_t bytes = [] {
        const char *text = std::getenv("KIF_EMULATOR_MEMORY");
        if (!text) return std::size_t{16} << 30;
        char *end;
        unsigned long long value = std::strtoull(text, &end, 10);
        if (*end || !*text) {
            std::fprintf(stderr, "emulator: KIF_EMULATOR_MEMORY is %s, expected a number of bytes\n", text);
            std::exit(1);
        }
        return (std::size_t)value;
    }();
    return bytes;
}

bool tracing(const char *what) {
    const char *text = std::getenv("KIF_EMULATOR_TRACE");
    return text && (!std::strcmp(text, what) || !std::strcmp(text, "all"));
}

// forward, reverse, or alternating from launch to launch.
bool reversed_order() {
    const char *text = std::getenv("KIF_EMULATOR_ORDER");
    if (!text || !std::strcmp(text, "alternate")) return n_launches % 2;
    if (!std::strcmp(text, "forward")) return false;
    if (!std::strcmp(text, "reverse")) return true;
    std::fprintf(stderr, "emulator: KIF_EMULATOR_ORDER is %s, expected forward, reverse or alternate\n", text);
    std::exit(1);
}

struct Summary {
    ~Summary() {
        if (tracing("summary"))
            std::fprintf(stderr,
                         "emulator: %zu modules, %zu functions, %zu launches, %zu bytes at most, %zu blocks not freed\n",
                         n_modules, n_functions, n_launches, peak_bytes, blocks.size());
    }
} summary;

int check_context(const char *call) {
    if (!initialised) return fail(NOT_INITIALIZED, "%s before cuInit", call);
    if (!context) return fail(INVALID_CONTEXT, "%s on a thread without a context", call);
    return broken;
}

int allocate(const char *call, uint64_t *at, std::size_t bytes) {
    if (int error = check_context(call)) return error;
    std::lock_guard<std::mutex> guard(lock);
    // Stream-ordered allocation takes 0 bytes (dfdx begins with an empty workspace).
    std::size_t padded = bytes ? (bytes + 255) / 256 * 256 : 256;
    if (padded > total_bytes() - used_bytes) return OUT_OF_MEMORY;
    auto *raw = static_cast<unsigned char *>(std::aligned_alloc(256, padded + 2 * guard_bytes));
    if (!raw) return OUT_OF_MEMORY;
    std::memset(raw, guard_byte, guard_bytes);
    std::memset(raw + guard_bytes, 0xff, bytes);
    std::memset(raw + guard_bytes + bytes, guard_byte, padded - bytes + guard_bytes);
    *at = reinterpret_cast<uint64_t>(raw + guard_bytes);
    blocks[*at] = bytes;
    used_bytes += padded;
    peak_bytes = used_bytes > peak_bytes ? used_bytes : peak_bytes;
    return SUCCESS;
}

bool guards_whole(uint64_t at, std::size_t bytes) {
    const auto *block = reinterpret_cast<const unsigned char *>(at);
    std::size_t padded = (bytes + 255) / 256 * 256;
    for (std::size_t i = 1; i <= guard_bytes; ++i)
        if (*(block - i) != guard_byte) return false;
    for (std::size_t i = bytes; i < padded + guard_bytes; ++i)
        if (block[i] != guard_byte) return false;
    return true;
}

int release(const char *call, uint64_t at) {
    if (int error = check_context(call)) return error;
    std::lock_guard<std::mutex> guard(lock);
    auto block = blocks.find(at);
    if (block == blocks.end())
        return fail(INVALID_VALUE, "%s of 0x%llx, which is no block: freed twice?", call, (unsigned long long)at);
    std::size_t bytes = block->second;
    bool whole = guards_whole(at, bytes);
    blocks.erase(block);
    std::size_t padded = (bytes + 255) / 256 * 256;
    used_bytes -= padded;
    auto *raw = reinterpret_cast<unsigned char *>(at) - guard_bytes;
    std::memset(raw, 0xff, padded + 2 * guard_bytes);
    std::free(raw);
    if (!whole) return broken = fail(ILLEGAL_ADDRESS, "a block of %zu bytes was written outside its ends", bytes);
    return SUCCESS;
}

int check_range(const char *call, uint64_t at, std::size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    auto block = blocks.upper_bound(at);
    if (block != blocks.begin()) {
        --block;
        if (at + bytes <= block->first + block->second) return SUCCESS;
    }
    return fail(INVALID_VALUE, "%s of %zu bytes at 0x%llx leaves its block", call, bytes, (unsigned long long)at);
}

int copy(const char *call, void *to, const void *from, std::size_t bytes, bool to_device, bool from_device) {
    if (int error = check_context(call)) return error;
    if (!bytes) return SUCCESS;
    if (to_device)
        if (int error = check_range(call, reinterpret_cast<uint64_t>(to), bytes)) return error;
    if (from_device)
        if (int error = check_range(call, reinterpret_cast<uint64_t>(from), bytes)) return error;
    std::memmove(to, from, bytes);
    return SUCCESS;
}

template <class T> int fill(const char *call, uint64_t at, T value, std::size_t n) {
    if (int error = check_context(call)) return error;
    if (!n) return SUCCESS;
    if (int error = check_range(call, at, n * sizeof(T))) return error;
    T *block = reinterpret_cast<T *>(at);
    for (std::size_t i = 0; i < n; ++i) block[i] = value;
    return SUCCESS;
}

// Every block has whole ends, as far as anybody has written yet.
int synchronise(const char *call) {
    if (int error = check_context(call)) return error;
    std::lock_guard<std::mutex> guard(lock);
    for (const auto &[at, bytes] : blocks)
        if (!guards_whole(at, bytes))
            return broken = fail(ILLEGAL_ADDRESS, "a block of %zu bytes was written outside its ends", bytes);
    return SUCCESS;
}

void *device(uint64_t at) { return reinterpret_cast<void *>(at); }

} // namespace

API cuInit(unsigned) { return initialised = true, SUCCESS; }
API cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
API cuDeviceGetCount(int *n) { return *n = 1, SUCCESS; }
API cuDeviceGet(int *device, int ordinal) {
    *device = 0;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetName(char *name, int length, int) {
    std::snprintf(name, (std::size_t)length, "CUDA emulator on the CPU");
    return SUCCESS;
}
API cuDeviceTotalMem_v2(std::size_t *bytes, int) { return *bytes = total_bytes(), SUCCESS; }
API cuDeviceGetUuid(unsigned char *uuid, int) { return std::memset(uuid, 0, 16), SUCCESS; }
API cuDeviceComputeCapability(int *major, int *minor, int) { return *major = 9, *minor = 0, SUCCESS; }
API cuDeviceGetAttribute(int *value, int attribute, int) {
    // CUdevice_attribute and what an H200 answers.
    static const std::map<int, int> values = {
        {1, 1024},        {2, 1024},    {3, 1024},  {4, 64},         {5, 2147483647}, {6, 65535},  {7, 65535},
        {8, 49152},       {9, 65536},   {10, 32},   {12, 65536},     {13, 1980000},   {16, 132},   {17, 0},
        {18, 0},          {19, 1},      {20, 0},    {31, 1},         {36, 3201000},   {37, 6144},  {38, 62914560},
        {39, 2048},       {40, 3},      {41, 1},    {75, 9},         {76, 0},         {78, 1},     {79, 1},
        {80, 1},          {81, 233472}, {82, 65536}, {83, 1},        {88, 1},         {89, 1},     {95, 1},
        {96, 0},          {97, 232448}, {106, 32},  {115, 1}};
    auto found = values.find(attribute);
    if (found == values.end()) return fail(INVALID_VALUE, "device attribute %d is not known here", attribute);
    *value = found->second;
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void **out, int) {
    if (!initialised) return NOT_INITIALIZED;
    *out = the_context;
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuDevicePrimaryCtxGetState(int, unsigned *flags, int *active) { return *flags = 0, *active = 1, SUCCESS; }
API cuCtxSetCurrent(void *to) {
    if (to && to != the_context) return fail(INVALID_CONTEXT, "cuCtxSetCurrent of an unknown context");
    context = to;
    return SUCCESS;
}
API cuCtxGetCurrent(void **out) { return *out = context, SUCCESS; }
API cuCtxGetDevice(int *out) { return *out = 0, SUCCESS; }
API cuCtxSynchronize() { return synchronise("cuCtxSynchronize"); }

API cuGetErrorName(int error, const char **name) {
    static const std::map<int, const char *> names = {
        {SUCCESS, "CUDA_SUCCESS"},
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {INVALID_DEVICE_FUNCTION, "CUDA_ERROR_INVALID_DEVICE_FUNCTION"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"}};
    auto found = names.find(error);
    if (found == names.end()) return *name = nullptr, INVALID_VALUE;
    *name = found->second;
    return SUCCESS;
}
API cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }
// NVRTC asks for private tables, and goes without.
API cuGetExportTable(const void **table, const void *) { return *table = nullptr, NOT_FOUND; }

API cuMemGetInfo_v2(std::size_t *free, std::size_t *total) {
    if (int error = check_context("cuMemGetInfo")) return error;
    std::lock_guard<std::mutex> guard(lock);
    *total = total_bytes();
    *free = *total - used_bytes;
    return SUCCESS;
}
API cuMemAlloc_v2(uint64_t *at, std::size_t bytes) { return allocate("cuMemAlloc", at, bytes); }
API cuMemAllocAsync(uint64_t *at, std::size_t bytes, void *) { return allocate("cuMemAllocAsync", at, bytes); }
API cuMemFree_v2(uint64_t at) { return release("cuMemFree", at); }
API cuMemFreeAsync(uint64_t at, void *) { return release("cuMemFreeAsync", at); }
API cuMemAllocHost_v2(void **at, std::size_t bytes) {
    *at = std::malloc(bytes);
    return *at ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemHostAlloc(void **at, std::size_t bytes, unsigned) { return cuMemAllocHost_v2(at, bytes); }
API cuMemFreeHost(void *at) { return std::free(at), SUCCESS; }
API cuMemcpyHtoD_v2(uint64_t to, const void *from, std::size_t n) {
    return copy("cuMemcpyHtoD", device(to), from, n, true, false);
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, std::size_t n, void *) {
    return copy("cuMemcpyHtoDAsync", device(to), from, n, true, false);
}
API cuMemcpyDtoH_v2(void *to, uint64_t from, std::size_t n) {
    return copy("cuMemcpyDtoH", to, device(from), n, false, true);
}
API cuMemcpyDtoHAsync_v2(void *to, uint64_t from, std::size_t n, void *) {
    return copy("cuMemcpyDtoHAsync", to, device(from), n, false, true);
}
API cuMemcpyDtoD_v2(uint64_t to, uint64_t from, std::size_t n) {
    return copy("cuMemcpyDtoD", device(to), device(from), n, true, true);
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, std::size_t n, void *) {
    return copy("cuMemcpyDtoDAsync", device(to), device(from), n, true, true);
}
API cuMemsetD8_v2(uint64_t at, unsigned char value, std::size_t n) { return fill("cuMemsetD8", at, value, n); }
API cuMemsetD8Async(uint64_t at, unsigned char value, std::size_t n, void *) {
    return fill("cuMemsetD8Async", at, value, n);
}
API cuMemsetD32_v2(uint64_t at, unsigned value, std::size_t n) { return fill("cuMemsetD32", at, value, n); }
API cuMemsetD32Async(uint64_t at, unsigned value, std::size_t n, void *) {
    return fill("cuMemsetD32Async", at, value, n);
}
API cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = reinterpret_cast<void *>(0x20), SUCCESS; }
API cuDeviceGetMemPool(void **pool, int) { return *pool = reinterpret_cast<void *>(0x20), SUCCESS; }
API cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
API cuMemPoolGetAttribute(void *, int attribute, void *value) {
    // CUmemPool_attribute: bytes reserved and used, now and at most.
    std::lock_guard<std::mutex> guard(lock);
    uint64_t bytes = attribute == 5 || attribute == 7 ? used_bytes : peak_bytes;
    if (attribute < 5 || attribute > 8) return fail(INVALID_VALUE, "pool attribute %d is not known here", attribute);
    std::memcpy(value, &bytes, sizeof bytes);
    return SUCCESS;
}
API cuMemPoolTrimTo(void *, std::size_t) { return SUCCESS; }

API cuStreamCreate(void **stream, unsigned) { return *stream = std::malloc(1), SUCCESS; }
API cuStreamCreateWithPriority(void **stream, unsigned, int) { return *stream = std::malloc(1), SUCCESS; }
API cuStreamDestroy_v2(void *stream) { return std::free(stream), SUCCESS; }
API cuStreamSynchronize(void *) { return synchronise("cuStreamSynchronize"); }
API cuStreamWaitEvent(void *, void *, unsigned) { return check_context("cuStreamWaitEvent"); }
API cuStreamQuery(void *) { return check_context("cuStreamQuery"); }

// Work is done when it is asked for, so an event is the time of its recording.
API cuEventCreate(void **event, unsigned) {
    if (int error = check_context("cuEventCreate")) return error;
    *event = new timespec{};
    return SUCCESS;
}
API cuEventDestroy_v2(void *event) { return delete static_cast<timespec *>(event), SUCCESS; }
API cuEventRecord(void *event, void *) {
    if (int error = check_context("cuEventRecord")) return error;
    clock_gettime(CLOCK_MONOTONIC, static_cast<timespec *>(event));
    return SUCCESS;
}
API cuEventSynchronize(void *) { return synchronise("cuEventSynchronize"); }
API cuEventQuery(void *) { return check_context("cuEventQuery"); }
API cuEventElapsedTime(float *ms, void *from, void *to) {
    const auto *a = static_cast<const timespec *>(from), *b = static_cast<const timespec *>(to);
    *ms = (float)((double)(b->tv_sec - a->tv_sec) * 1e3 + (double)(b->tv_nsec - a->tv_nsec) * 1e-6);
    return SUCCESS;
}
API cuEventElapsedTime_v2(float *ms, void *from, void *to) { return cuEventElapsedTime(ms, from, to); }

API cuModuleLoadData(void **module, const void *image) {
    if (int error = check_context("cuModuleLoadData")) return error;
    const char *ptx = static_cast<const char *>(image);
    if (!std::memcmp(ptx, "\x7f" "ELF", 4)) return fail(INVALID_IMAGE, "a cubin, expected PTX");
    if (!std::strstr(ptx, ".version")) return fail(INVALID_IMAGE, "no PTX: .version is missing");
    if (std::strstr(ptx, ".target sm_10") || std::strstr(ptx, ".target sm_12"))
        return fail(INVALID_IMAGE, "PTX for a newer device than sm_90");
    std::lock_guard<std::mutex> guard(lock);
    ++n_modules;
    *module = new Module{ptx, {}};
    return SUCCESS;
}
API cuModuleLoadDataEx(void **module, const void *image, unsigned, int *, void **) {
    return cuModuleLoadData(module, image);
}
API cuModuleLoad(void **, const char *file) { return fail(FILE_NOT_FOUND, "cuModuleLoad of %s", file); }
API cuModuleUnload(void *module) { return delete static_cast<Module *>(module), SUCCESS; }
API cuModuleGetFunction(void **out, void *module, const char *name) {
    if (int error = check_context("cuModuleGetFunction")) return error;
    std::lock_guard<std::mutex> guard(lock);
    auto *loaded = static_cast<Module *>(module);
    if (loaded->ptx.find(".entry " + std::string(name) + "(") == std::string::npos)
        return fail(NOT_FOUND, "the module has no kernel %s", name);
    Function function{name, nullptr};
    for (const kif::Kernel *kernel = kif::kernels; kernel->name; ++kernel)
        if (function.name == kernel->name) function.kernel = kernel;
    ++n_functions;
    *out = &(loaded->functions[name] = function);
    return SUCCESS;
}
API cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute != 8) return SUCCESS; // Carve-outs and cluster sizes: hints.
    if (value < 0 || (std::size_t)value > kif::max_shared_bytes)
        return fail(INVALID_VALUE, "%d bytes of shared memory, there are %zu", value, kif::max_shared_bytes);
    static_cast<Function *>(function)->max_shared_bytes = (std::size_t)value;
    return SUCCESS;
}
API cuFuncSetCacheConfig(void *, int) { return SUCCESS; }

API cuLaunchKernel(void *handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void *, void **arguments, void **extra) {
    if (int error = check_context("cuLaunchKernel")) return error;
    std::lock_guard<std::mutex> guard(lock);
    const auto *function = static_cast<const Function *>(handle);
    const char *name = function->name.c_str();
    if (tracing("launches"))
        std::fprintf(stderr, "emulator: launch %s <<<(%u, %u, %u), (%u, %u, %u), %u>>>\n", name, gx, gy, gz, bx, by, bz,
                     shared_bytes);
    if (!gx || !gy || !gz || !bx || !by || !bz || gx > 2147483647u || gy > 65535 || gz > 65535 || bz > 64 ||
        (uint64_t)bx * by * bz > 1024 || shared_bytes > function->max_shared_bytes || extra)
        return fail(INVALID_VALUE, "launch of %s with grid (%u, %u, %u), block (%u, %u, %u), %u bytes shared", name, gx,
                    gy, gz, bx, by, bz, shared_bytes);
    if (!function->kernel)
        return fail(INVALID_DEVICE_FUNCTION, "kernel %s is not among those that this library was built with", name);
    kif::Launch launch{{gx, gy, gz}, {bx, by, bz}, shared_bytes, reversed_order()};
    ++n_launches;
    if (!kif::run(*function->kernel, launch, arguments)) return broken = LAUNCH_FAILED;
    return SUCCESS;
}

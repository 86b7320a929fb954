// Exercises the emulated driver and cuBLAS on the test kernels. Exits with the number of failed checks.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void **, int);
int cuCtxSetCurrent(void *);
int cuCtxSynchronize();
int cuMemGetInfo_v2(size_t *, size_t *);
int cuMemAllocAsync(uint64_t *, size_t, void *);
int cuMemFreeAsync(uint64_t, void *);
int cuMemcpyHtoD_v2(uint64_t, const void *, size_t);
int cuMemcpyDtoH_v2(void *, uint64_t, size_t);
int cuMemsetD8_v2(uint64_t, unsigned char, size_t);
int cuModuleLoadData(void **, const void *);
int cuModuleGetFunction(void **, void *, const char *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                   void **);
int cublasCreate_v2(void **);
int cublasSgemm_v2(void *, int, int, int, int, int, const float *, const float *, int, const float *, int,
                   const float *, float *, int);
int cublasGemmStridedBatchedEx(void *, int, int, int, int, int, const void *, const void *, int, int, long long,
                               const void *, int, int, long long, const void *, void *, int, int, long long, int, int,
                               int);
}

static int failures;
#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) std::fprintf(stderr, "test.cpp:%d: %s\n", __LINE__, #what), ++failures;                           \
    } while (0)

struct Buffer {
    uint64_t at = 0;
    explicit Buffer(size_t bytes) { CHECK(cuMemAllocAsync(&at, bytes, nullptr) == 0); }
    explicit Buffer(const std::vector<float> &values) : Buffer(values.size() * 4) {
        CHECK(cuMemcpyHtoD_v2(at, values.data(), values.size() * 4) == 0);
    }
    ~Buffer() { cuMemFreeAsync(at, nullptr); }
    std::vector<float> read(size_t n) const {
        std::vector<float> out(n);
        CHECK(cuMemcpyDtoH_v2(out.data(), at, n * 4) == 0);
        return out;
    }
};

static void *module;
static int launch(const char *name, unsigned blocks, unsigned threads, unsigned shared, std::vector<void *> arguments) {
    void *function;
    if (int error = cuModuleGetFunction(&function, module, name)) return error;
    return cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared, nullptr, arguments.data(), nullptr);
}

static bool row_sums_right(const char *name) {
    const int n_rows = 5, n_cols = 300;
    std::vector<float> x(n_rows * n_cols);
    for (size_t i = 0; i < x.size(); ++i) x[i] = (float)(i % 7);
    Buffer in(x), out(n_rows * 4);
    int cols = n_cols;
    CHECK(launch(name, n_rows, 256, 0, {&cols, &in.at, &out.at}) == 0);
    std::vector<float> sums = out.read(n_rows);
    bool right = true;
    for (int row = 0; row < n_rows; ++row) {
        float expected = 0;
        for (int col = 0; col < n_cols; ++col) expected += x[row * n_cols + col];
        right &= sums[row] == expected;
    }
    return right;
}

int main() {
    void *context;
    uint64_t early;
    CHECK(cuMemAllocAsync(&early, 4, nullptr) == 3); // before cuInit
    CHECK(cuInit(0) == 0);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0);
    CHECK(cuMemAllocAsync(&early, 4, nullptr) == 201); // without a context
    CHECK(cuCtxSetCurrent(context) == 0);

    const char *ptx = ".version 9.0\n.target sm_90\n.visible .entry scale_add(\n.visible .entry place(\n"
                      ".entry row_sum(\n.entry row_sum_wrong(\n.entry sum_all(\n.entry leaves_early(\n"
                      ".entry writes_outside(\n.entry of_somebody_else(\n";
    CHECK(cuModuleLoadData(&module, "nothing") == 200);
    CHECK(cuModuleLoadData(&module, ptx) == 0);
    void *function;
    CHECK(cuModuleGetFunction(&function, module, "scale") == 500);
    CHECK(launch("of_somebody_else", 1, 1, 0, {}) == 98);

    { // Elementwise, more elements than threads.
        std::vector<float> x(1000);
        for (size_t i = 0; i < x.size(); ++i) x[i] = (float)i;
        Buffer in(x), out(x.size() * 4);
        CHECK(std::isnan(out.read(1)[0])); // fresh memory
        size_t n = x.size();
        float a = 2, b = 1;
        CHECK(launch("scale_add", 2, 128, 0, {&n, &a, &b, &in.at, &out.at}) == 0);
        std::vector<float> y = out.read(n);
        for (size_t i = 0; i < n; ++i) CHECK(y[i] == 2 * x[i] + 1);
        CHECK(launch("scale_add", 2, 2048, 0, {&n, &a, &b, &in.at, &out.at}) == 1);
        CHECK(launch("scale_add", 0, 1, 0, {&n, &a, &b, &in.at, &out.at}) == 1);
    }
    { // Three dimensions.
        Buffer out(24 * 30 * 4);
        CHECK(cuModuleGetFunction(&function, module, "place") == 0);
        void *arguments[] = {&out.at};
        CHECK(cuLaunchKernel(function, 2, 3, 4, 5, 3, 2, 0, nullptr, arguments, nullptr) == 0);
        std::vector<float> bits = out.read(24 * 30);
        for (unsigned i = 0; i < 24 * 30; ++i) {
            unsigned got;
            std::memcpy(&got, &bits[i], 4);
            CHECK(got == i / 30 * 10000 + i % 30);
        }
    }
    // Barriers: right in both orders, and their absence shows in one of two launches.
    CHECK(row_sums_right("row_sum") && row_sums_right("row_sum"));
    bool first = row_sums_right("row_sum_wrong"), second = row_sums_right("row_sum_wrong");
    CHECK(!first || !second);
    for (unsigned threads : {32u, 256u, 1024u}) { // Shuffles, dynamic shared memory, atomics.
        Buffer in(std::vector<float>(5000, 0.5f)), out(std::vector<float>{0});
        int n = 5000;
        CHECK(launch("sum_all", (5000 + threads - 1) / threads, threads, 32 * 4, {&n, &in.at, &out.at}) == 0);
        CHECK(out.read(1)[0] == 2500);
    }
    { // Memory: twice freed, copied past the end, more than there is.
        uint64_t at;
        CHECK(cuMemAllocAsync(&at, 100, nullptr) == 0);
        float values[26] = {};
        CHECK(cuMemcpyHtoD_v2(at, values, 104) == 1);
        CHECK(cuMemsetD8_v2(at + 50, 0, 51) == 1);
        CHECK(cuMemFreeAsync(at, nullptr) == 0);
        CHECK(cuMemFreeAsync(at, nullptr) == 1);
        size_t free_bytes, total;
        CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && free_bytes == total);
        CHECK(cuMemAllocAsync(&at, total + 1, nullptr) == 2);
    }
    { // C = alpha op(A) op(B) + beta C, all four transposes, against the definition.
        void *blas;
        CHECK(cublasCreate_v2(&blas) == 0);
        const int m = 3, n = 4, k = 5, ld = 6;
        std::vector<float> a(ld * ld), b(ld * ld), c(ld * ld);
        for (int i = 0; i < ld * ld; ++i) a[i] = (float)(i % 5) - 2, b[i] = (float)(i % 7) - 3, c[i] = (float)i;
        for (int op = 0; op < 4; ++op) {
            int ta = op & 1, tb = op >> 1;
            float alpha = 0.5f, beta = 2;
            std::vector<float> got = c;
            CHECK(cublasSgemm_v2(blas, ta, tb, m, n, k, &alpha, a.data(), ld, b.data(), ld, &beta, got.data(), ld) == 0);
            for (int row = 0; row < m; ++row)
                for (int col = 0; col < n; ++col) {
                    float sum = 0;
                    for (int p = 0; p < k; ++p)
                        sum += (ta ? a[row * ld + p] : a[p * ld + row]) * (tb ? b[p * ld + col] : b[col * ld + p]);
                    CHECK(got[col * ld + row] == 0.5f * sum + 2 * c[col * ld + row]);
                }
            CHECK(got[m] == c[m]); // below the matrix
        }
        // Two products in f16 and bf16 with f32 output over NaN: beta = 0 does not read it. 1.5 * 2 + 0.25 * 4 = 4.
        for (int type : {2, 14}) {
            uint16_t x[4], y[4], one_half = type == 2 ? 0x3e00 : 0x3fc0, quarter = type == 2 ? 0x3400 : 0x3e80,
                                 two = type == 2 ? 0x4000 : 0x4000, four = type == 2 ? 0x4400 : 0x4080;
            x[0] = x[2] = one_half, x[1] = x[3] = quarter, y[0] = y[2] = two, y[1] = y[3] = four;
            float out[2] = {NAN, NAN}, alpha = 1, beta = 0;
            CHECK(cublasGemmStridedBatchedEx(blas, 1, 0, 1, 1, 2, &alpha, x, type, 2, 2, y, type, 2, 2, &beta, out, 0,
                                             1, 1, 2, 68, -1) == 0);
            CHECK(out[0] == 4 && out[1] == 4);
            uint16_t narrow[2];
            CHECK(cublasGemmStridedBatchedEx(blas, 1, 0, 1, 1, 2, &alpha, x, type, 2, 2, y, type, 2, 2, &beta, narrow,
                                             type, 1, 1, 2, 68, -1) == 0);
            CHECK(narrow[0] == four && narrow[1] == four);
        }
        float alpha = 1, beta = 0, out[1];
        CHECK(cublasSgemm_v2(blas, 0, 0, 4, 1, 1, &alpha, a.data(), 3, b.data(), 1, &beta, out, 4) == 7);
    }
    { // A write past the end shows at the next synchronisation, and from then on.
        Buffer out(400);
        int n = 100;
        CHECK(launch("writes_outside", 1, 1, 0, {&n, &out.at}) == 0);
        CHECK(cuCtxSynchronize() == 700);
        CHECK(cuCtxSynchronize() == 700);
    }
    return failures;
}

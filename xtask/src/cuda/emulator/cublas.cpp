// libcublas.so.13 of a machine without a GPU: the matrix products that the program uses, on the processor.
//
// Matrices are column-major. Sums are f32, in the order of k.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum : int { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type : int { F32 = 0, F16 = 2, BF16 = 14 };                     // cudaDataType
enum : int { TF32_MATH = 3 };                                         // cublasMath_t
enum Compute : int { C32F = 68, C32F_PEDANTIC = 69, C32F_FAST_16F = 74, C32F_FAST_16BF = 75, C32F_FAST_TF32 = 77 };

struct Handle {
    int math_mode = 0;
};

int fail(int status, const char *call, const char *why) {
    std::fprintf(stderr, "emulator: %s: %s\n", call, why);
    return status;
}

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

uint32_t to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// Rounds to nearest, ties to even, keeping the upper 32 - `drop` bits.
float rounded(float value, int drop) {
    if (!std::isfinite(value)) return value;
    uint32_t bits = to_bits(value);
    bits += (1u << (drop - 1)) - 1 + (bits >> drop & 1);
    return from_bits(bits >> drop << drop);
}

float load(const void *at, std::size_t i, int type) {
    if (type == F32) return static_cast<const float *>(at)[i];
    if (type == F16) return (float)static_cast<const _Float16 *>(at)[i];
    return from_bits((uint32_t) static_cast<const uint16_t *>(at)[i] << 16);
}

void store(void *at, std::size_t i, int type, float value) {
    if (type == F32) static_cast<float *>(at)[i] = value;
    else if (type == F16) static_cast<_Float16 *>(at)[i] = (_Float16)value;
    else static_cast<uint16_t *>(at)[i] = std::isnan(value) ? 0x7fff : (uint16_t)(to_bits(rounded(value, 16)) >> 16);
}

struct Operand {
    bool transposed;
    int type, ld;
    const void *at;
};

// op(X) as f32, `n_rows` x `n_cols`, column-major without gaps.
std::vector<float> packed(const Operand &x, std::size_t offset, int n_rows, int n_cols, int compute) {
    std::vector<float> out((std::size_t)n_rows * n_cols);
    for (int col = 0; col < n_cols; ++col)
        for (int row = 0; row < n_rows; ++row) {
            std::size_t i = x.transposed ? (std::size_t)row * x.ld + col : (std::size_t)col * x.ld + row;
            float value = load(x.at, offset + i, x.type);
            // What tensor cores make of f32 inputs.
            if (x.type == F32 && compute == C32F_FAST_TF32) value = rounded(value, 13);
            if (x.type == F32 && compute == C32F_FAST_16BF) value = rounded(value, 16);
            if (x.type == F32 && compute == C32F_FAST_16F) value = (float)(_Float16)value;
            out[(std::size_t)col * n_rows + row] = value;
        }
    return out;
}

int gemm(const char *call, void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha_at, const void *a,
         int a_type, int lda, long long stride_a, const void *b, int b_type, int ldb, long long stride_b,
         const void *beta_at, void *c, int c_type, int ldc, long long stride_c, int n_batch, int compute) {
    if (!handle) return fail(NOT_INITIALIZED, call, "no handle");
    if (op_a < 0 || op_a > 1 || op_b < 0 || op_b > 1) return fail(NOT_SUPPORTED, call, "an operation that is neither N nor T");
    auto known = [](int type) { return type == F32 || type == F16 || type == BF16; };
    if (!known(a_type) || a_type != b_type || !known(c_type) || (a_type == F32 && c_type != F32) ||
        (a_type != F32 && c_type != F32 && c_type != a_type))
        return fail(NOT_SUPPORTED, call, "a combination of types that is not emulated");
    if (compute != C32F && compute != C32F_PEDANTIC && compute != C32F_FAST_TF32 && compute != C32F_FAST_16F &&
        compute != C32F_FAST_16BF)
        return fail(NOT_SUPPORTED, call, "a compute type other than 32F");
    auto too_small = [](int ld, int rows) { return ld < (rows > 1 ? rows : 1); };
    if (m < 0 || n < 0 || k < 0 || n_batch < 0 || too_small(lda, op_a ? k : m) || too_small(ldb, op_b ? n : k) ||
        too_small(ldc, m))
        return fail(INVALID_VALUE, call, "extents or leading dimensions");
    if (compute == C32F && static_cast<Handle *>(handle)->math_mode == TF32_MATH) compute = C32F_FAST_TF32;
    float alpha = *static_cast<const float *>(alpha_at), beta = *static_cast<const float *>(beta_at);
    std::vector<float> sums(m);
    for (int batch = 0; batch < n_batch && m && n; ++batch) {
        std::vector<float> left = packed({op_a == 1, a_type, lda, a}, (std::size_t)(stride_a * batch), m, k, compute);
        std::vector<float> right = packed({op_b == 1, b_type, ldb, b}, (std::size_t)(stride_b * batch), k, n, compute);
        for (int col = 0; col < n; ++col) {
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (int p = 0; p < k; ++p) {
                float factor = right[(std::size_t)col * k + p];
                const float *column = &left[(std::size_t)p * m];
                float *sum = sums.data();
                for (int row = 0; row < m; ++row) sum[row] += factor * column[row];
            }
            for (int row = 0; row < m; ++row) {
                std::size_t i = (std::size_t)(stride_c * batch) + (std::size_t)col * ldc + row;
                // With beta = 0, what was there is not read: it may be NaN.
                store(c, i, c_type, alpha * sums[row] + (beta == 0 ? 0.0f : beta * load(c, i, c_type)));
            }
        }
    }
    return SUCCESS;
}

} // namespace

API cublasCreate_v2(void **handle) { return *handle = new Handle, SUCCESS; }
API cublasDestroy_v2(void *handle) { return delete static_cast<Handle *>(handle), SUCCESS; }
API cublasGetVersion_v2(void *, int *version) { return *version = 130100, SUCCESS; }
API cublasSetStream_v2(void *, void *) { return SUCCESS; }
API cublasSetWorkspace_v2(void *, void *, std::size_t) { return SUCCESS; }
// Host and device share their memory: factors are read where they lie.
API cublasSetPointerMode_v2(void *, int) { return SUCCESS; }
API cublasSetMathMode(void *handle, int mode) { return static_cast<Handle *>(handle)->math_mode = mode, SUCCESS; }
API cublasGetMathMode(void *handle, int *mode) { return *mode = static_cast<Handle *>(handle)->math_mode, SUCCESS; }
API cublasSgemm_v2(void *handle, int op_a, int op_b, int m, int n, int k, const float *alpha, const float *a, int lda,
                   const float *b, int ldb, const float *beta, float *c, int ldc) {
    return gemm("cublasSgemm", handle, op_a, op_b, m, n, k, alpha, a, F32, lda, 0, b, F32, ldb, 0, beta, c, F32, ldc, 0,
                1, C32F);
}
API cublasSgemmStridedBatched(void *handle, int op_a, int op_b, int m, int n, int k, const float *alpha, const float *a,
                              int lda, long long stride_a, const float *b, int ldb, long long stride_b,
                              const float *beta, float *c, int ldc, long long stride_c, int n_batch) {
    return gemm("cublasSgemmStridedBatched", handle, op_a, op_b, m, n, k, alpha, a, F32, lda, stride_a, b, F32, ldb,
                stride_b, beta, c, F32, ldc, stride_c, n_batch, C32F);
}
API cublasGemmEx(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int a_type,
                 int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                 int compute, int) {
    return gemm("cublasGemmEx", handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c,
                c_type, ldc, 0, 1, compute);
}
API cublasGemmStridedBatchedEx(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a,
                               int a_type, int lda, long long stride_a, const void *b, int b_type, int ldb,
                               long long stride_b, const void *beta, void *c, int c_type, int ldc, long long stride_c,
                               int n_batch, int compute, int) {
    return gemm("cublasGemmStridedBatchedEx", handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, stride_a, b, b_type,
                ldb, stride_b, beta, c, c_type, ldc, stride_c, n_batch, compute);
}

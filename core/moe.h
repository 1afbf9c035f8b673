/* moe.h -- the public C header of moelua's core: contract and manual in one.
 *
 * The core knows tensors, gradients and checkpoint files. It has never heard of Lua, prints
 * nothing, ends no process and keeps no global: everything hangs off a context.
 *
 *     moe_ctx *ctx;
 *     if (moe_open(&ctx, NULL) != MOE_OK) return 1;
 *     int64_t shape[2] = {2, 3};
 *     moe_tensor *x;
 *     if (moe_tensor_new(ctx, MOE_F32, 2, shape, &x) != MOE_OK) puts(moe_errmsg(ctx));
 *     moe_real *data = moe_tensor_data(x);        // 6 elements, row-major, not initialised
 *     moe_tensor_release(x);
 *     moe_close(ctx);
 *
 * Threads: one context is used by one thread at a time; contexts are independent. Only
 * moe_interrupt() may be called from elsewhere. Fallible functions return a moe_status and leave
 * one message in the context. Objects are reference counted; a context that is closed while
 * tensors are still held lives on until the last of them is released.
 */
#ifndef MOE_H
#define MOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_API __attribute__((visibility("default")))

/* The core computes in one real type. It is float in everything that is installed; a second build
 * with double serves the gradient checks. */
#ifndef MOE_REAL
#define MOE_REAL float
#endif
typedef MOE_REAL moe_real;

#define MOE_MAX_DIMS 8

typedef enum moe_status {
    MOE_OK,
    MOE_ESHAPE,       /* shapes do not fit                                       */
    MOE_ETYPE,        /* wrong element type                                      */
    MOE_EARG,         /* an argument is out of range or makes no sense           */
    MOE_ENOMEM,       /* out of memory, or over the memory limit                 */
    MOE_EINTR,        /* interrupted through moe_interrupt()                     */
    MOE_EMISSING,     /* no such file or tensor                                  */
    MOE_EIO,          /* reading or writing failed                               */
    MOE_EFULL,        /* the disk is full                                        */
    MOE_EFORMAT,      /* a file is not what it claims to be                      */
    MOE_EUNSUPPORTED  /* valid, but nothing here can handle it                   */
} moe_status;

/* Element types. Compute tensors are F32 (moe_real) or I32; the others exist at the checkpoint
 * boundary. In the double build MOE_F32 means "the compute type" and holds doubles. */
typedef enum moe_dtype { MOE_F32, MOE_I32, MOE_BF16, MOE_F16, MOE_DTYPE_COUNT } moe_dtype;

typedef struct moe_ctx moe_ctx;
typedef struct moe_tensor moe_tensor;

/* One function for all memory, in the manner of lua_Alloc: nsize == 0 frees, ptr == NULL
 * allocates; blocks are never resized. NULL in the configuration means malloc and free. */
typedef void *(*moe_alloc_fn)(void *ud, void *ptr, size_t osize, size_t nsize);

typedef struct moe_config {
    size_t size;            /* sizeof(moe_config); lets the struct grow                           */
    moe_alloc_fn alloc;     /* NULL = malloc                                                      */
    void *alloc_ud;
    size_t memory_limit;    /* bytes of tensors and scratch, 0 = none                             */
    int threads;            /* worker threads incl. the caller, 0 = the size of the affinity mask */
    const char *kernels;    /* "amx", "avx512bf16", "avx512", "avx2", "openblas", "plain", NULL =
                               the best this processor has; AMX needs the consent of the system,
                               for the whole process, which is asked for only then                */
} moe_config;

typedef struct moe_memory_info {
    size_t live, peak;      /* bytes handed out now, and the most ever                            */
    size_t cached;          /* bytes kept for reuse                                               */
    size_t limit;           /* 0 = none                                                           */
    size_t tensors;         /* live tensors, with the views that gradients hold                   */
    uint64_t allocations;   /* blocks asked from the system so far: the cache serves the others   */
} moe_memory_info;

/* Opens a context; cfg may be NULL. Fails with MOE_ENOMEM, or MOE_EARG for a kernel variant this
 * processor does not have; *out is NULL then. */
MOE_API moe_status moe_open(moe_ctx **out, const moe_config *cfg);
/* Gives the opener's hold on the context up. NULL is ignored. */
MOE_API void moe_close(moe_ctx *ctx);

/* The message of the last failure, valid until the next one; "" when there was none. */
MOE_API const char *moe_errmsg(const moe_ctx *ctx);

/* Makes the running or next operation stop with MOE_EINTR. Any thread, any time, signal-safe. */
MOE_API void moe_interrupt(moe_ctx *ctx);
/* Takes the flag back: true when it was set. */
MOE_API bool moe_interrupted(moe_ctx *ctx);

/* The figures of the context's memory as they are now. */
MOE_API moe_memory_info moe_memory(const moe_ctx *ctx);
/* 0 = none. A limit below what is live frees nothing: requests fail until enough is released. */
MOE_API void moe_set_memory_limit(moe_ctx *ctx, size_t bytes);
/* Threads that an operation may use, with the caller. */
MOE_API int moe_threads(const moe_ctx *ctx);
/* The name of the kernel variant in use; static. */
MOE_API const char *moe_kernels_name(const moe_ctx *ctx);

/* Creates a contiguous tensor with unspecified contents; *out is the caller's to release, NULL on
 * failure. MOE_ESHAPE for a bad rank, a negative size or sizes that overflow (also beside a 0),
 * MOE_ETYPE for an unknown type, MOE_ENOMEM. */
MOE_API moe_status moe_tensor_new(moe_ctx *ctx, moe_dtype dtype, int ndim, const int64_t *shape,
                                  moe_tensor **out);
/* One more holder, one fewer; the last release frees it. Releasing NULL does nothing. */
MOE_API void moe_tensor_retain(moe_tensor *t);
MOE_API void moe_tensor_release(moe_tensor *t);
MOE_API int moe_tensor_ndim(const moe_tensor *t);
MOE_API int64_t moe_tensor_size(const moe_tensor *t, int dim);   /* dim: 0 .. ndim-1, unchecked */
MOE_API int64_t moe_tensor_count(const moe_tensor *t);           /* elements, 1 for a scalar    */
MOE_API moe_dtype moe_tensor_dtype(const moe_tensor *t);
/* Do the elements lie side by side in row-major order? Always, but for views of other tensors. */
MOE_API bool moe_tensor_contiguous(const moe_tensor *t);
/* The first element, valid while the tensor is held. Views share it with their base; the elements
 * of a tensor that is mapped from a file must not be written. */
MOE_API void *moe_tensor_data(moe_tensor *t);
/* To be called after writing there when an operation has read the tensor before: what was prepared
 * from the old elements is prepared again, and a backward that needs them reports it. */
MOE_API void moe_tensor_written(moe_tensor *t);

#ifdef __cplusplus
}
#endif
#endif

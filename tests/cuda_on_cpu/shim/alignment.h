// What the compiler calls when an address is not a multiple of what its type asks for: on a GPU
// the launch would fail. Left to UBSan's own library where that is linked.
#pragma once
#include "block.h"

#ifndef CUDA_ON_CPU_ASAN
namespace cuda_on_cpu {
struct TypeMismatch {
  const char* file;
  unsigned line, column;
  const void* type;
  unsigned char log_alignment, access;
};

[[noreturn]] inline void report_misalignment(const TypeMismatch* where, size_t address) {
  fault("misaligned address: %s:%u needs a multiple of %u bytes, got one %u bytes above",
        base_name(where->file), where->line, 1u << where->log_alignment,
        unsigned(address & ((1u << where->log_alignment) - 1)));
}
}  // namespace cuda_on_cpu

extern "C" __attribute__((visibility("hidden"), used)) inline void
__ubsan_handle_type_mismatch_v1_abort(const cuda_on_cpu::TypeMismatch* where, size_t address) {
  cuda_on_cpu::report_misalignment(where, address);
}
#endif

// A context switch that saves only what a call must keep: twenty times cheaper than swapcontext,
// which enters the kernel to save the signal mask.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_CPU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_ON_CPU_ASAN 1
#endif
#endif

#ifdef CUDA_ON_CPU_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
void __asan_unpoison_memory_region(const volatile void* begin, size_t size);
void __asan_poison_memory_region(const volatile void* begin, size_t size);
}
#endif

#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
extern "C" void cuda_on_cpu_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
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
.size cuda_on_cpu_switch,.-cuda_on_cpu_switch
)");

namespace cuda_on_cpu {
// A context that calls entry on the stack that ends at top (16-byte aligned).
inline void* new_context(unsigned char* top, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(top) - 8;
  memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(entry);  // popped by ret after the six saved registers
  return frame;
}
inline void switch_context(void** save, void* to) { cuda_on_cpu_switch(save, to); }
}  // namespace cuda_on_cpu

#elif defined(__aarch64__) && !defined(CUDA_ON_CPU_UCONTEXT)
extern "C" void cuda_on_cpu_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch,%function
cuda_on_cpu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size cuda_on_cpu_switch,.-cuda_on_cpu_switch
)");

namespace cuda_on_cpu {
inline void* new_context(unsigned char* top, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(top) - 20;
  memset(frame, 0, 20 * sizeof(void*));
  frame[11] = reinterpret_cast<void*>(entry);  // x30
  return frame;
}
inline void switch_context(void** save, void* to) { cuda_on_cpu_switch(save, to); }
}  // namespace cuda_on_cpu

#else
#include <ucontext.h>

namespace cuda_on_cpu {
inline void* new_context(unsigned char* top, void (*entry)()) {
  constexpr size_t kUsable = 48 * 1024;  // below kStackBytes less the stagger
  auto* context = reinterpret_cast<ucontext_t*>(top - (sizeof(ucontext_t) + 15) / 16 * 16);
  getcontext(context);
  context->uc_stack.ss_sp = top - kUsable;
  context->uc_stack.ss_size = reinterpret_cast<unsigned char*>(context) - (top - kUsable);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
inline void switch_context(void** save, void* to) {
  ucontext_t self;
  *save = &self;
  swapcontext(&self, static_cast<ucontext_t*>(to));
}
}  // namespace cuda_on_cpu
#endif

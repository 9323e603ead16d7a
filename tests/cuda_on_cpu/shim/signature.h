// The parameters of a kernel, deduced from its type, so that Python can check every argument.
#pragma once
#include "vectors.h"

namespace cuda_on_cpu {

// Kinds: i signed, u unsigned, b bool, f float, h __half, n __nv_bfloat16, v vector or struct.
template <typename T>
struct Kind {
  static constexpr char value = __is_enum(T) ? 'i' : 'v';
};
#define CUDA_ON_CPU_KIND(T, kind)       \
  template <>                           \
  struct Kind<T> {                      \
    static constexpr char value = kind; \
  };
CUDA_ON_CPU_KIND(bool, 'b')
CUDA_ON_CPU_KIND(char, 'i')
CUDA_ON_CPU_KIND(signed char, 'i')
CUDA_ON_CPU_KIND(short, 'i')
CUDA_ON_CPU_KIND(int, 'i')
CUDA_ON_CPU_KIND(long, 'i')
CUDA_ON_CPU_KIND(long long, 'i')
CUDA_ON_CPU_KIND(unsigned char, 'u')
CUDA_ON_CPU_KIND(unsigned short, 'u')
CUDA_ON_CPU_KIND(unsigned int, 'u')
CUDA_ON_CPU_KIND(unsigned long, 'u')
CUDA_ON_CPU_KIND(unsigned long long, 'u')
CUDA_ON_CPU_KIND(float, 'f')
CUDA_ON_CPU_KIND(double, 'f')
CUDA_ON_CPU_KIND(__half, 'h')
CUDA_ON_CPU_KIND(__nv_bfloat16, 'n')
#undef CUDA_ON_CPU_KIND

template <typename T>
struct Plain {
  using Type = T;
};
template <typename T>
struct Plain<const T> {
  using Type = T;
};

struct Parameter {
  int bytes;
  char kind;  // 'p' is a pointer, and the next three describe what it points to
  char pointee_kind;
  char pointee_is_const;
  int pointee_bytes;  // 1 for void
};

template <typename T>
struct Describe {
  static constexpr Parameter value = {int(sizeof(T)), Kind<T>::value, 0, 0, 0};
};
template <typename T>
struct Describe<T*> {
  static constexpr Parameter value = {int(sizeof(T*)), 'p', Kind<typename Plain<T>::Type>::value,
                                      !__is_same(T, typename Plain<T>::Type), int(sizeof(T))};
};

struct KernelEntry {
  const char* name;
  int num_parameters;
  const Parameter* parameters;
  void (*entry)(void**);
};

// What a library of kernels defines for runtime.cpp.
extern const KernelEntry* const kernels __attribute__((visibility("hidden")));
extern const int num_kernels __attribute__((visibility("hidden")));

template <int... I>
struct Indices {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
  using Type = Indices<I...>;
};

template <typename... P>
struct Signature {
  static constexpr int kCount = sizeof...(P);
  static constexpr Parameter kParameters[sizeof...(P) + 1] = {
      Describe<typename Plain<P>::Type>::value...};
  template <void (*kernel)(P...), int... I>
  static void call(void** args, Indices<I...>) {
    kernel(*static_cast<typename Plain<P>::Type*>(args[I])...);
  }
  template <void (*kernel)(P...)>
  static void entry(void** args) {
    call<kernel>(args, typename Count<sizeof...(P)>::Type());
  }
};
template <typename... P>
Signature<P...> signature_of(void (*)(P...));

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_KERNEL(name, ...)                               \
  {name, decltype(cuda_on_cpu::signature_of(&__VA_ARGS__))::kCount, \
   decltype(cuda_on_cpu::signature_of(&__VA_ARGS__))::kParameters,  \
   &decltype(cuda_on_cpu::signature_of(&__VA_ARGS__))::template entry<&__VA_ARGS__>}

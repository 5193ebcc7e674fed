// CUDA on the CPU: every thread of a block is a fiber, and a block runs after the other.
//
// A fiber runs until it meets a barrier or an exchange between lanes; the scheduler then runs the
// next. What a GPU would leave undefined ends the program with a message: a barrier or an exchange
// that not all threads reach, a copy or a vector at an odd address, a copy that nobody waited for.
// Asynchronous copies really are late: the target holds NaN until the wait that covers them. With
// the address sanitizer, every access outside an array is an error too.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define DYNAMIC_SHARED(name) unsigned char* name = twin::dynamic_shared

struct dim3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define __asan_unpoison_memory_region(address, size)
#endif

#if defined(__x86_64__)
// A context is a stack pointer; what a function must preserve lies on the stack. (The swapcontext
// of the C library asks the kernel about signals each time, which takes longer than the fibers.)
asm(R"(
.text
.type twin_switch, @function
twin_switch:
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
.size twin_switch, .-twin_switch
)");
extern "C" __attribute__((visibility("hidden"))) void twin_switch(void** from, void* to);
#else
#include <ucontext.h>
#endif

namespace twin {

#if defined(__x86_64__)
constexpr size_t FRAMES = 4096;  // bytes, more than `start` and what it calls at the end take

struct Context {
  void* stack = nullptr;
};
inline void switch_to(Context& from, Context& to) { twin_switch(&from.stack, to.stack); }
inline void prepare(Context& context, std::vector<char>& stack, void (*entry)()) {
  // The first functions of a thread that ran here before never returned: their frames are marked.
  __asan_unpoison_memory_region(stack.data() + stack.size() - FRAMES, FRAMES);
  uintptr_t top = (uintptr_t)(stack.data() + stack.size()) & ~(uintptr_t)15;
  void** slots = reinterpret_cast<void**>(top) - 8;  // six registers, the entry, and its caller
  std::fill(slots, slots + 8, nullptr);
  slots[6] = reinterpret_cast<void*>(entry);
  context.stack = slots;
}
#else
typedef ucontext_t Context;
inline void switch_to(Context& from, Context& to) { swapcontext(&from, &to); }
inline void prepare(Context& context, std::vector<char>& stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack.data();
  context.uc_stack.ss_size = stack.size();
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Copy {
  void* target;
  const void* source;  // null: zeros
  int group;
};

struct Fiber {
  Context context;
  dim3 index;
  int state, place;  // place: which kind of exchange it waits in
  std::function<bool()> condition;  // of what it waits for, in state EVENT
  std::vector<char> stack;
  unsigned char mailbox[32];
  std::vector<Copy> copies;
  int groups;
};

enum State { READY, LANES, BLOCK, EVENT, DONE };

inline std::vector<Fiber> fibers;
inline Context scheduler;
inline int current;
inline dim3 block_index, block_size, grid_size;
inline unsigned char* dynamic_shared;
inline std::function<void()> body;
inline std::function<void()> at_start, at_exit;  // of a thread: of wgmma_twin.h
inline std::function<bool()> late_event;         // let one thing happen that takes its time
inline std::function<void()> at_end;             // of a block: of tma_twin.h

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "twin: %s (block %u %u %u, thread %d)\n", what, block_index.x,
               block_index.y, block_index.z, current);
  std::abort();
}

inline void pause(State state, int place) {
  Fiber& me = fibers[current];
  me.state = state;
  me.place = place;
  switch_to(me.context, scheduler);
}

// Let other threads go on until `condition` holds.
inline void wait_until(std::function<bool()> condition) {
  if (condition()) return;
  fibers[current].condition = std::move(condition);
  pause(EVENT, 0);
}

inline void start() {
  body();
  Fiber& me = fibers[current];
  if (at_exit) at_exit();
  if (!me.copies.empty()) fail("a thread ended before its copies");
  me.state = DONE;
  switch_to(me.context, scheduler);
}

inline void run_until_paused(int fiber) {
  current = fiber;
  switch_to(scheduler, fibers[fiber].context);
}

// Run the lanes of a warp from exchange to exchange, until all wait for others or are done.
inline void run_warp(int first, int last) {
  while (true) {
    int waiting = 0, events = 0;
    for (int i = first; i < last; i++) {
      if (fibers[i].state == READY) run_until_paused(i);
    }
    for (int i = first; i < last; i++) {
      waiting += fibers[i].state == LANES;
      events += fibers[i].state == EVENT;
    }
    if (waiting == 0 || events) return;
    for (int i = first; i < last; i++) {
      bool astray = fibers[i].state == LANES && fibers[i].place != fibers[first].place;
      if (astray) fail("lanes of a warp in different exchanges");
    }
    if (waiting != last - first) fail("an exchange that not all lanes of the warp reach");
    for (int i = first; i < last; i++) fibers[i].state = READY;
  }
}

inline void run_block() {
  int threads = fibers.size();
  for (int i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.index = {i % block_size.x, i / block_size.x % block_size.y,
               i / (block_size.x * block_size.y)};
    f.state = READY;
    f.copies.clear();
    f.groups = 0;
    prepare(f.context, f.stack, start);
  }
  if (at_start) at_start();
  while (true) {
    for (int w = 0; w < threads; w += 32) run_warp(w, std::min(threads, w + 32));
    int waiting = 0, events = 0, woken = 0;
    for (Fiber& f : fibers) {
      waiting += f.state == BLOCK;
      events += f.state == EVENT;
    }
    if (waiting == 0 && events == 0) {
      if (at_end) at_end();
      return;
    }
    if (waiting == threads) {
      for (Fiber& f : fibers) f.state = READY;
      continue;
    }
    if (events == 0) fail("a barrier that not all threads reach");
    std::vector<char> wakes(threads);  // all conditions first: one that wakes may change another
    for (int i = 0; i < threads; i++) wakes[i] = fibers[i].state == EVENT && fibers[i].condition();
    for (int i = 0; i < threads; i++) {
      if (wakes[i]) fibers[i].state = READY, woken++;
    }
    if (!woken && !(late_event && late_event())) fail("threads that wait for each other");
  }
}

inline void launch(const unsigned* grid, const unsigned* block, size_t shared,
                   std::function<void()> kernel) {
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {block[0], block[1], block[2]};
  body = std::move(kernel);
  fibers.resize(block[0] * block[1] * block[2]);
  for (Fiber& f : fibers) f.stack.resize(128 * 1024);
  for (unsigned z = 0; z < grid[2]; z++) {
    for (unsigned y = 0; y < grid[1]; y++) {
      for (unsigned x = 0; x < grid[0]; x++) {
        block_index = {x, y, z};
        void* memory = nullptr;
        if (shared && posix_memalign(&memory, 128, shared)) fail("out of memory");
        if (shared) std::memset(memory, 0xff, shared);
        dynamic_shared = (unsigned char*)memory;
        run_block();
        std::free(memory);
      }
    }
  }
}

template <typename T> inline void publish(const T& value) {
  static_assert(sizeof(T) <= sizeof(Fiber::mailbox));
  std::memcpy(fibers[current].mailbox, &value, sizeof(T));
}
template <typename T> inline T mail_of(int lane) {
  T value;
  std::memcpy(&value, fibers[(current & ~31) + lane].mailbox, sizeof(T));
  return value;
}
inline int lane() { return current & 31; }

// A kernel's arguments come as an array of addresses, as the CUDA driver takes them.
template <typename... A, size_t... I>
inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}
template <typename... A>
inline int run(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t shared,
               void** arguments, int count) {
  if (count != (int)sizeof...(A)) return sizeof...(A);
  launch(grid, block, shared,
         [=] { call(kernel, arguments, std::make_index_sequence<sizeof...(A)>()); });
  return -1;
}

// The sizes of a kernel's parameters, so that the caller can check its own.
template <typename... A> inline void sizes(void (*)(A...), int* out) {
  int values[] = {(int)sizeof(A)...};
  std::copy(std::begin(values), std::end(values), out);
}

}  // namespace twin

#define threadIdx (twin::fibers[twin::current].index)
#define blockIdx twin::block_index
#define blockDim twin::block_size
#define gridDim twin::grid_size

inline void __syncthreads() { twin::pause(twin::BLOCK, 0); }

template <typename T> inline T __shfl_xor_sync(unsigned, T value, int mask) {
  twin::publish(value);
  twin::pause(twin::LANES, 1);
  T other = twin::mail_of<T>(twin::lane() ^ mask);
  twin::pause(twin::LANES, 2);
  return other;
}

inline float __int_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }

// --- the twins of ptx.cuh -----------------------------------------------------------------------

inline void copy_async16(void* shared, const void* global, bool valid) {
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) twin::fail("a copy at an odd address");
  std::memset(shared, 0xff, 16);
  twin::Fiber& me = twin::fibers[twin::current];
  me.copies.push_back({shared, valid ? global : nullptr, me.groups});
}

inline void copy_async_commit() { twin::fibers[twin::current].groups++; }

template <int GROUPS> inline void copy_async_wait() {
  twin::Fiber& me = twin::fibers[twin::current];
  std::vector<twin::Copy> late;
  for (const twin::Copy& copy : me.copies) {
    if (copy.group >= me.groups - GROUPS) {
      late.push_back(copy);
    } else if (copy.source) {
      std::memcpy(copy.target, copy.source, 16);
    } else {
      std::memset(copy.target, 0, 16);
    }
  }
  me.copies = std::move(late);
}

inline void load_matrices_any(unsigned (&d)[4], const void* row, bool transposed) {
  if ((uintptr_t)row % 16) twin::fail("a matrix row at an odd address");
  twin::publish(row);
  twin::pause(twin::LANES, transposed ? 4 : 3);
  int l = twin::lane();
  for (int i = 0; i < 4; i++) {
    uint16_t pair[2];
    for (int e = 0; e < 2; e++) {
      int r = transposed ? l % 4 * 2 + e : l / 4, c = transposed ? l / 4 : l % 4 * 2 + e;
      pair[e] = static_cast<const uint16_t*>(twin::mail_of<const void*>(8 * i + r))[c];
    }
    std::memcpy(&d[i], pair, 4);
  }
  twin::pause(twin::LANES, 5);
}
inline void load_matrices(unsigned (&d)[4], const void* row) { load_matrices_any(d, row, false); }
inline void load_matrices_transposed(unsigned (&d)[4], const void* row) {
  load_matrices_any(d, row, true);
}

float to_float(__half);
float to_float(__nv_bfloat16);

template <typename T>
inline void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Fragments {
    T a[8], b[4];
  } mine;
  std::memcpy(mine.a, a, 16);
  std::memcpy(&mine.b[0], &b0, 4);
  std::memcpy(&mine.b[2], &b1, 4);
  twin::publish(mine);
  twin::pause(twin::LANES, 6);
  for (int e = 0; e < 4; e++) {
    int row = twin::lane() / 4 + e / 2 * 8, column = twin::lane() % 4 * 2 + e % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; k += 2) {
      Fragments left = twin::mail_of<Fragments>(row % 8 * 4 + k % 8 / 2);
      Fragments right = twin::mail_of<Fragments>(column * 4 + k % 8 / 2);
      int i = (row / 8 + k / 8 * 2) * 2, j = k / 8 * 2;
      sum += to_float(left.a[i]) * to_float(right.b[j]);
      sum += to_float(left.a[i + 1]) * to_float(right.b[j + 1]);
    }
    d[e] += sum;
  }
  twin::pause(twin::LANES, 7);
}

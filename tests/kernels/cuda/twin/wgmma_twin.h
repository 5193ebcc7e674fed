// The twins of wgmma.cuh: barriers in shared memory, and products that read it late.
//
// As strict as a GPU may be: copies land only when nobody can go on without them. A product must
// find its matrices landed and fenced when it starts, and still the same when it is waited for;
// until then its sums hold NaN.
#pragma once
#include <deque>
#include <map>
#include <set>

#include "cpu_twin.h"

typedef unsigned long long barrier_t;

namespace twin {

struct Barrier {
  uint64_t count : 10, pending : 10, phase : 22;
  int64_t bytes : 22;  // of bulk copies: expected and not come, or negative the other way round
};
static_assert(sizeof(Barrier) == sizeof(barrier_t));
inline std::set<Barrier*> started;

inline void check_started(Barrier* barrier) {
  if (!started.count(barrier)) fail("a barrier that nobody has made");
}

constexpr unsigned WINDOW = 896;  // where shared memory starts: not where a kernel would like it

struct Arrival {
  std::vector<Copy> copies;
  Barrier* barrier;
};
inline std::deque<Arrival> arrivals;       // that wait for their copies
inline std::map<const void*, int> landed;  // when each chunk came
struct Phase {
  Barrier* barrier;
  uint64_t phase;
};
inline std::map<const void*, Phase> in_bulk;  // whose end tells of the chunks of bulk copies
inline int now;

// A phase ends when all have arrived and all bytes have come.
inline void end_phase(Barrier* barrier) {
  if (barrier->pending != 0 || barrier->bytes != 0) return;
  barrier->pending = barrier->count;
  barrier->phase++;
}
inline void arrive(Barrier* barrier) {
  check_started(barrier);
  if (barrier->pending == 0 || barrier->pending > barrier->count) fail("an arrival too many");
  barrier->pending--;
  end_phase(barrier);
}
inline void complete(Barrier* barrier, int bytes) {
  barrier->bytes -= bytes;
  end_phase(barrier);
}

inline bool land_oldest() {
  if (arrivals.empty()) return false;
  Arrival oldest = std::move(arrivals.front());
  arrivals.pop_front();
  now++;
  for (const Copy& copy : oldest.copies) {
    if (copy.source) std::memcpy(copy.target, copy.source, 16);
    else std::memset(copy.target, 0, 16);
    landed[copy.target] = now;
  }
  arrive(oldest.barrier);
  return true;
}

struct Matrix {
  uint64_t descriptor;
  int first, count, panel_order;  // places first .. first + count of the outer dimension
  std::vector<float> values;      // (count, 16)
  std::vector<uint16_t> bits;
};
struct Product {
  Matrix a, b;
  int group;
};
struct Warp {
  std::deque<Product> products;
  int groups;
};
struct Sums {  // what a thread will find when its products are waited for
  float* place;
  std::vector<float> values;
  int fence;  // `now` at the last fence, -1 without one
  bool begun, committed;
  std::map<const Barrier*, uint64_t> seen;  // how many phases of a barrier it knows to have ended
};
inline std::vector<Warp> warps;
inline std::vector<Sums> sums;

inline void wgmma_start() {
  arrivals.clear();
  landed.clear();
  in_bulk.clear();
  started.clear();
  now = 0;
  warps.assign(fibers.size() / 32 + 1, {});
  sums.assign(fibers.size(), {nullptr, {}, -1, false, true, {}});
}
inline void wgmma_exit() {
  if (sums[current].place) fail("a thread ended before its products");
}
inline bool registered = [] {
  at_start = wgmma_start;
  at_exit = wgmma_exit;
  late_event = land_oldest;
  return true;
}();

// Where the descriptor says that (outer, inner) lies.
inline const unsigned char* place(uint64_t descriptor, int panel_order, int outer, int inner) {
  unsigned start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
  unsigned stride = (descriptor >> 32 & 0x3fff) << 4;
  unsigned at = panel_order ? start + outer / 64 * leading + outer % 64 * 2 + inner / 8 * stride +
                                  inner % 8 * 128
                            : start + outer / 8 * stride + outer % 8 * 128 + inner * 2;
  at ^= (at >> 7 & 7) << 4;  // the 128-byte permutation goes by the address itself
  return dynamic_shared + (at - WINDOW);
}

// A product may read what was copied and fenced, and what came in bulk in a phase that the thread
// has waited for.
inline void check_landed(const void* chunk, int fence) {
  auto bulk = in_bulk.find(chunk);
  if (bulk != in_bulk.end()) {
    auto& seen = sums[current].seen;
    auto known = seen.find(bulk->second.barrier);
    if (known != seen.end() && known->second > bulk->second.phase) return;
    fail("a product of a box whose barrier was not waited for");
  }
  auto time = landed.find(chunk);
  if (time == landed.end()) fail("a product of what was never copied");
  if (time->second > fence) fail("a product of copies that were not fenced");
}

inline std::vector<uint16_t> read_bits(const Matrix& m, int fence) {
  std::vector<uint16_t> bits(m.count * 16);
  for (int i = 0; i < m.count; i++) {
    for (int k = 0; k < 16; k++) {
      const unsigned char* from = place(m.descriptor, m.panel_order, m.first + i, k);
      check_landed((const void*)((uintptr_t)from & ~(uintptr_t)15), fence);
      std::memcpy(&bits[i * 16 + k], from, 2);
    }
  }
  return bits;
}

template <typename T> inline Matrix read_matrix(uint64_t descriptor, int order, int first, int count,
                                                int fence) {
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7)) fail("a descriptor of another layout");
  Matrix m{descriptor, first, count, order, std::vector<float>(count * 16), {}};
  m.bits = read_bits(m, fence);
  for (int i = 0; i < count * 16; i++) {
    T value;
    std::memcpy(&value, &m.bits[i], 2);
    m.values[i] = to_float(value);
  }
  return m;
}

}  // namespace twin

inline unsigned shared_address(const void* p) {
  return (unsigned)((const unsigned char*)p - twin::dynamic_shared) + twin::WINDOW;
}

inline void barrier_start(barrier_t* barrier, int count) {
  auto* it = reinterpret_cast<twin::Barrier*>(barrier);
  *it = {(uint64_t)count, (uint64_t)count, 0, 0};
  twin::started.insert(it);
}
inline void barrier_arrive(barrier_t* barrier) {
  twin::arrive(reinterpret_cast<twin::Barrier*>(barrier));
}
inline void barrier_arrive_after_copies(barrier_t* barrier) {
  twin::Fiber& me = twin::fibers[twin::current];
  twin::arrivals.push_back({std::move(me.copies), reinterpret_cast<twin::Barrier*>(barrier)});
  me.copies.clear();
}
inline void barrier_wait(barrier_t* barrier, int phase) {
  auto* it = reinterpret_cast<twin::Barrier*>(barrier);
  twin::wait_until([=] { return (it->phase & 1) != (unsigned)(phase & 1); });
  if (it->phase != (unsigned)phase + 1) twin::fail("a barrier in another phase than it seems");
  twin::sums[twin::current].seen[it] = it->phase;
}

template <int name, int count> inline void barrier_of_threads() {
  static int waiting, rounds;
  int round = rounds;
  if (++waiting == count) waiting = 0, rounds++;
  twin::wait_until([=] { return rounds != round; });
}

inline void publish_shared() { twin::sums[twin::current].fence = twin::now; }
inline void products_begin() { twin::sums[twin::current].begun = true; }
template <int COUNT> inline void hold(float*) {}

template <typename T, int N, int COLUMNS_FIRST>
inline void multiply_async(float* d, unsigned long long a, unsigned long long b) {
  twin::Sums& mine = twin::sums[twin::current];
  twin::Warp& warp = twin::warps[twin::current / 32];
  if (!mine.begun) twin::fail("a product without products_begin");
  int quarter = twin::current / 32 % 4;
  if (twin::lane() == 0) {
    warp.products.push_back({twin::read_matrix<T>(a, COLUMNS_FIRST, quarter * 16, 16, mine.fence),
                             twin::read_matrix<T>(b, COLUMNS_FIRST, 0, N, mine.fence),
                             warp.groups});
  }
  struct Pair {
    unsigned long long a, b;
  } pair = {a, b};
  twin::publish(pair);
  twin::pause(twin::LANES, 20);
  Pair lead = twin::mail_of<Pair>(0);
  if (lead.a != a || lead.b != b) twin::fail("lanes with different matrices");
  if (!mine.place) {
    mine.place = d;
    mine.values.assign(d, d + N / 2);
    std::fill(d, d + N / 2, NAN);
  }
  if (mine.place != d) twin::fail("products into other sums");
  mine.committed = false;
  const twin::Product& product = warp.products.back();
  for (int i = 0; i < N / 2; i++) {
    int row = twin::lane() / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + twin::lane() % 4 * 2 + i % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; k++) {
      sum += product.a.values[row * 16 + k] * product.b.values[column * 16 + k];
    }
    mine.values[i] += sum;
  }
  twin::pause(twin::LANES, 21);
}

inline void products_commit() {
  twin::sums[twin::current].committed = true;
  if (twin::lane() == 0) twin::warps[twin::current / 32].groups++;
}

template <int GROUPS> inline void products_wait() {
  twin::Sums& mine = twin::sums[twin::current];
  twin::Warp& warp = twin::warps[twin::current / 32];
  if (!mine.committed) twin::fail("a wait for products that were not committed");
  twin::pause(twin::LANES, 22);
  if (twin::lane() == 0) {
    while (!warp.products.empty() && warp.products.front().group < warp.groups - GROUPS) {
      const twin::Product& oldest = warp.products.front();
      for (const twin::Matrix* m : {&oldest.a, &oldest.b}) {
        bool same = twin::read_bits(*m, twin::now) == m->bits;
        if (!same) twin::fail("a matrix that changed under a product");
      }
      warp.products.pop_front();
    }
  }
  mine.begun = false;
  if (GROUPS == 0 && mine.place) {
    std::copy(mine.values.begin(), mine.values.end(), mine.place);
    mine.place = nullptr;
  }
  twin::pause(twin::LANES, 23);
}

// The twins of tma.cuh, written from the PTX ISA ("Im2col mode", "Tiled mode", "Swizzling modes",
// "cp.async.bulk.tensor", "mbarrier"), not from what the kernels do.
//
// As strict as a GPU may be: a box comes only when nobody can go on without it, the last one asked
// for first; until then its place holds NaN, and products find it only in threads that have waited
// for its barrier. Boxes that nobody waits for, bytes that nobody expects, and barriers that wait
// for bytes when a block ends are errors. With the address sanitizer, so is a tensor map that says
// more than there is.
#pragma once
#include "wgmma_twin.h"

namespace twin {

struct Map {  // what tensor_map_driver.py writes
  uint32_t magic;
  uint8_t mode, rank, type, swizzle;
  uint64_t address, dims[4], strides[3];
  int16_t lower[2], upper[2];
  uint16_t box[2];
  uint8_t steps[4];
};
static_assert(sizeof(Map) == 88, "as packed by tensor_map_driver.py");
enum Mode { TILED = 1, IM2COL = 2 };

struct Bulk {  // one box under way
  unsigned char* target;
  std::vector<uint16_t> values;  // in rows of 64
  Barrier* barrier;
};
inline std::deque<Bulk> bulks;

// Where the byte at `offset` of a box lies: 16-byte chunks of 128-byte rows, permuted by address.
inline unsigned char* place_in_box(unsigned char* target, int offset) {
  unsigned at = (unsigned)(target - dynamic_shared) + WINDOW + offset;
  at ^= (at >> 7 & 7) << 4;
  return dynamic_shared + (at - WINDOW);
}

inline bool land_last_box() {
  if (bulks.empty()) return land_oldest();
  Bulk box = std::move(bulks.back());
  bulks.pop_back();
  const unsigned char* from = (const unsigned char*)box.values.data();
  int bytes = box.values.size() * 2;
  for (int offset = 0; offset < bytes; offset += 16) {
    unsigned char* to = place_in_box(box.target, offset);
    std::memcpy(to, from + offset, 16);
    in_bulk[to] = {box.barrier, box.barrier->phase};
  }
  complete(box.barrier, bytes);
  return true;
}

inline void nothing_under_way() {
  if (!bulks.empty()) fail("a block ended before its boxes");
  for (Barrier* barrier : started) {
    if (barrier->bytes != 0) fail("a block ended with bytes that did not come, or nobody expected");
  }
}
inline bool tma_registered = [] {
  late_event = land_last_box;
  at_end = nothing_under_way;
  return true;
}();

inline Map read_map(const TensorMap* map, Mode mode, void* shared, barrier_t* barrier) {
  if ((uintptr_t)map % 64) fail("a tensor map at an odd address");
  Map m;
  std::memcpy(&m, map, sizeof(m));
  if (m.magic != 0x7A9B0001) fail("a copy without a tensor map");
  if (m.mode != mode) fail("a tensor map of the other mode");
  if (m.box[0] != 64) fail("a box whose rows are not 128 bytes");
  if (shared_address(shared) % 128) fail("a box at an odd address of shared memory");
  check_started(reinterpret_cast<Barrier*>(barrier));
  return m;
}

inline void begin_bulk(void* shared, std::vector<uint16_t> values, barrier_t* barrier) {
  unsigned char* target = (unsigned char*)shared;
  for (int offset = 0; offset < (int)values.size() * 2; offset += 16) {
    unsigned char* to = place_in_box(target, offset);
    std::memset(to, 0xff, 16);
    in_bulk.erase(to);
    landed.erase(to);
  }
  bulks.push_back({target, std::move(values), reinterpret_cast<Barrier*>(barrier)});
}

// The 64 values from `first` on of a row of `size` values, zeros beyond it.
inline void append_row(std::vector<uint16_t>& values, const unsigned char* row, bool inside,
                       int64_t first, int64_t size) {
  for (int64_t i = first; i < first + 64; i++) {
    uint16_t value = 0;
    if (inside && i >= 0 && i < size) std::memcpy(&value, row + i * 2, 2);
    values.push_back(value);
  }
}

}  // namespace twin

inline void barrier_arrive_expecting(barrier_t* barrier, int bytes) {
  auto* it = reinterpret_cast<twin::Barrier*>(barrier);
  twin::check_started(it);
  it->bytes += bytes;
  if (it->bytes >= 1 << 20) twin::fail("more bytes than a barrier counts");
  twin::arrive(it);
}

inline void copy_matrix(void* shared, const TensorMap* map, barrier_t* barrier, int column,
                        int row) {
  twin::Map m = twin::read_map(map, twin::TILED, shared, barrier);
  std::vector<uint16_t> values;
  for (int64_t i = row; i < row + m.box[1]; i++) {
    bool inside = i >= 0 && i < (int64_t)m.dims[1];
    const unsigned char* from = (const unsigned char*)m.address + i * m.strides[0];
    twin::append_row(values, from, inside, column, m.dims[0]);
  }
  twin::begin_bulk(shared, std::move(values), barrier);
}

inline void copy_windows(void* shared, const TensorMap* map, barrier_t* barrier, int c, int w,
                         int h, int n, int tap_w, int tap_h) {
  twin::Map m = twin::read_map(map, twin::IM2COL, shared, barrier);
  if (tap_w < 0 || tap_w > 255 || tap_h < 0 || tap_h > 255) twin::fail("an offset beyond 8 bits");
  int64_t width = m.dims[1], height = m.dims[2], images = m.dims[3];
  int64_t right = width - 1 + m.upper[0], bottom = height - 1 + m.upper[1];
  if (w < m.lower[0] || w > right || h < m.lower[1] || h > bottom) {
    twin::fail("a filter's corner outside of the bounding box");
  }
  std::vector<uint16_t> values;
  for (int pixel = 0; pixel < m.box[1]; pixel++) {
    int64_t u = h + tap_h, v = w + tap_w;
    bool inside = n >= 0 && n < images && u >= 0 && u < height && v >= 0 && v < width;
    const unsigned char* from = (const unsigned char*)m.address;
    if (inside) from += n * m.strides[2] + u * m.strides[1] + v * m.strides[0];
    twin::append_row(values, from, inside, c, m.dims[0]);
    if ((w += m.steps[1]) > right) {
      w = m.lower[0];
      if ((h += m.steps[2]) > bottom) h = m.lower[1], n++;
    }
  }
  twin::begin_bulk(shared, std::move(values), barrier);
}

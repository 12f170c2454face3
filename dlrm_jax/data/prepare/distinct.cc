// Numbers the distinct 32-bit values of a column in the order in which they first appear. Used by distinct.py.

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kAhead = 16;  // slots are prefetched this many cells ahead
constexpr uint64_t kMissing = 1ull << 32;  // above all 32-bit values

inline uint64_t Slot(uint64_t value, int64_t bits) { return (value * 0x9E3779B97F4A7C15ull) >> (64 - bits); }

inline uint64_t Entry(uint64_t value, int64_t number) { return value << 31 | static_cast<uint64_t>(number + 1); }

}  // namespace

extern "C" {

// Numbers n cells. Stops early when half of the table is taken: then make it larger (dlrm_distinct_fill) and go on from there.
//
//   key, valid: the cells and their Arrow validity bitmap, whose first bit is number `bit`; null: all are valid.
//   code: for each cell, the number of its value.
//   value, count: for each number, the value (2^32 for missing) and its count; they have room for half of the table and one more.
//   table: 2^bits slots of value << 31 | number + 1; 0 is empty.
//   numbers: the count of numbers, which is updated.
//
// Returns the number of cells that were numbered.
int64_t dlrm_distinct(const uint32_t* key, const uint8_t* valid, int64_t bit, int64_t n, uint32_t* code, uint64_t* value, uint32_t* count,
                      uint64_t* table, int64_t bits, int64_t* numbers) {
  const uint64_t mask = (1ull << bits) - 1;
  const int64_t most = int64_t{1} << (bits - 1);
  int64_t next = *numbers, i = 0;
  for (; i < n && next < most; ++i) {
    if (i + kAhead < n) __builtin_prefetch(&table[Slot(key[i + kAhead], bits)]);
    const uint64_t absent = valid ? ~(valid[(bit + i) >> 3] >> ((bit + i) & 7)) & 1 : 0;
    const uint64_t cell = absent ? kMissing : key[i];
    uint64_t slot = Slot(cell, bits);
    while (__builtin_expect((table[slot] >> 31) != cell || !table[slot], 0)) {
      if (!table[slot]) {
        value[next] = cell;
        count[next] = 0;
        table[slot] = Entry(cell, next++);
        break;
      }
      slot = (slot + 1) & mask;
    }
    code[i] = static_cast<uint32_t>(table[slot] & 0x7FFFFFFF) - 1;
    ++count[code[i]];
  }
  *numbers = next;
  return i;
}

// Puts the known values into an empty table.
void dlrm_distinct_fill(const uint64_t* value, uint64_t* table, int64_t bits, int64_t numbers) {
  const uint64_t mask = (1ull << bits) - 1;
  for (int64_t number = 0; number < numbers; ++number) {
    uint64_t slot = Slot(value[number], bits);
    while (table[slot]) slot = (slot + 1) & mask;
    table[slot] = Entry(value[number], number);
  }
}
}

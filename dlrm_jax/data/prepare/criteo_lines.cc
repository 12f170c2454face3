// Reads the plain lines of Criteo's TSV logs: 1 label, 13 integers, 26 categories of 8 hexadecimal digits. criteo_lines.py calls it and
// defines a plain line. The careful reader (delimited.py, parse.py) reads all other lines.
//
// A cell is read as one little-endian 64-bit word, whose bytes are checked and converted in parallel. The code branches on long integers
// only, because empty cells and the lengths of integers cannot be predicted.
#include <cstdint>
#include <cstring>

namespace {

constexpr int kNumbers = 13, kKeys = 26;
constexpr int64_t kReach = 512;  // bytes from a line's start that reading it may touch: 2 + 13 * 20 + 26 * 9, and 7 of a last word
constexpr uint64_t kOnes = 0x0101010101010101, kHigh = 0x80 * kOnes, kZeros = '0' * kOnes;

inline uint64_t Load(const char* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

// The number of bytes before the first tab, 8 if there is none.
inline int TabAt(uint64_t word) {
  const uint64_t x = word ^ ('\t' * kOnes);  // the lowest zero byte is found exactly; the borrow may set bits above it
  const uint64_t found = (x - kOnes) & ~x & kHigh;
  return found ? __builtin_ctzll(found) >> 3 : 8;
}

// Sets the bit 0x80 of bytes that are no decimal digits; `digits` are bytes minus '0'.
inline uint64_t NotDigits(uint64_t digits) { return ((digits + 0x76 * kOnes) | digits) & kHigh; }

// 8 decimal digits, the first in the lowest byte. It uses shifts and sums, since few processors multiply vectors of 64-bit words.
inline uint64_t Decimal(uint64_t x) {
  x = ((x << 3) + (x << 1) + (x >> 8)) & 0x00ff00ff00ff00ff;
  x = ((x << 6) + (x << 5) + (x << 2) + (x >> 16)) & 0x0000ffff0000ffff;
  return (x & 0xffffffff) * 10000 + (x >> 32);
}

// Sets the bit 0x80 of bytes that are no hexadecimal digits. Sums do not carry into the next byte if all bytes are ASCII.
inline uint64_t NotHexadecimal(uint64_t word) {
  const uint64_t low = word & ~kHigh, letter = low | 0x20 * kOnes;
  const uint64_t digit = (low + (0x80 - '0') * kOnes) & ~(low + (0x80 - '9' - 1) * kOnes);
  const uint64_t a_to_f = (letter + (0x80 - 'a') * kOnes) & ~(letter + (0x80 - 'f' - 1) * kOnes);
  return (word | ~(digit | a_to_f)) & kHigh;
}

// 8 hexadecimal digits, the first in the lowest byte.
inline uint64_t Hexadecimal(uint64_t x) {
  const uint64_t letter = (x >> 6) & kOnes;
  x = (x & 0x0f * kOnes) + (letter << 3) + letter;
  x = ((x << 4) | (x >> 8)) & 0x00ff00ff00ff00ff;
  x = ((x << 8) | (x >> 16)) & 0x0000ffff0000ffff;
  return ((x << 16) | (x >> 32)) & 0xffffffff;
}

// An integer cell that is longer than the first word: -?[0-9]{1,18} and a tab. Returns the place after the tab, nullptr for other cells.
const char* LongInteger(const char* p, int64_t* value) {
  const bool negative = *p == '-';
  p += negative;
  const char* start = p;  // there is at least one digit, since no tab is in the first 8 bytes
  int64_t sum = 0;
  for (; *p >= '0' && *p <= '9' && p - start < 18; ++p) sum = 10 * sum + (*p - '0');
  if (*p != '\t') return nullptr;
  *value = negative ? -sum : sum;
  return p + 1;
}

struct Row {
  int64_t number[kNumbers];
  uint64_t digits[kNumbers + 3], negative[kNumbers + 3], key[kKeys + 2], present[kKeys + 2];  // in whole vectors
  uint8_t missing[kNumbers], label;
};

// Reads the line that starts at p; kReach bytes from p on can be read. Returns the start of the next line, nullptr if this one is not plain.
const char* ReadLine(const char* p, Row& row) {
  uint64_t bad = (p[0] != '0' && p[0] != '1') | (p[1] != '\t');
  row.label = p[0] & 1;
  p += 2;
  int64_t long_value[kNumbers];
  uint32_t is_long = 0;
  for (int i = 0; i < kNumbers; ++i) {
    const uint64_t word = Load(p);
    const int length = TabAt(word);
    if (__builtin_expect(length == 8, 0)) {
      row.digits[i] = row.negative[i] = row.missing[i] = 0;
      p = LongInteger(p, &long_value[i]);
      if (p == nullptr) return nullptr;
      is_long |= 1u << i;
      continue;
    }
    const bool negative = (word & 0xff) == '-';
    bad |= negative & (length == 1);  // no digit after it
    const uint64_t digits = word ^ kZeros ^ (negative ? uint64_t{'-' ^ '0'} : 0);  // a leading 0 for the sign
    row.digits[i] = (digits << 8) << (56 - 8 * length);  // and for bytes after the cell
    row.negative[i] = negative;
    row.missing[i] = length == 0;
    p += length + 1;
  }
  for (int f = 0; f < kKeys; ++f) {
    const char end = f + 1 < kKeys ? '\t' : '\n';
    const bool empty = *p == end;
    row.key[f] = empty ? kZeros : Load(p);
    row.present[f] = !empty;
    p += empty ? 0 : 8;
    bad |= *p != end;
    ++p;
  }
  uint64_t wrong = 0;
  for (int i = 0; i < kNumbers; ++i) {
    wrong |= NotDigits(row.digits[i]);
    const int64_t value = Decimal(row.digits[i]), sign = row.negative[i];
    row.number[i] = (value ^ -sign) + sign;
  }
  for (int f = 0; f < kKeys; ++f) {
    wrong |= NotHexadecimal(row.key[f]);
    row.key[f] = Hexadecimal(row.key[f]);
  }
  if (bad | wrong) return nullptr;
  for (; is_long; is_long &= is_long - 1) row.number[__builtin_ctz(is_long)] = long_value[__builtin_ctz(is_long)];
  return p;
}

struct Out {
  int64_t row_stride, word_stride;  // distance from a column to the next, in values and in words of bits
  uint8_t* label;
  int64_t* number;
  uint8_t* missing;
  uint32_t* key;
  uint64_t* valid;
  int64_t* null_count;
  int32_t *line, *careful, *careful_start;
  int64_t num_lines, num_rows, num_careful;

  uint64_t bits[kKeys];  // the word of bits that is being filled

  void Flush() {
    for (int f = 0; f < kKeys; ++f) {
      valid[f * word_stride + (num_rows - 1) / 64] = bits[f];
      null_count[f] -= __builtin_popcountll(bits[f]);
      bits[f] = 0;
    }
  }

  void Add(const Row& row) {
    const int64_t n = num_rows++;
    label[n] = row.label;
    line[n] = static_cast<int32_t>(num_lines);
    for (int i = 0; i < kNumbers; ++i) {
      number[i * row_stride + n] = row.number[i];
      missing[i * row_stride + n] = row.missing[i];
    }
    for (int f = 0; f < kKeys; ++f) {
      key[f * row_stride + n] = static_cast<uint32_t>(row.key[f]);
      bits[f] |= row.present[f] << (n & 63);
    }
    if ((num_rows & 63) == 0) Flush();
  }
};

// Reads the lines that start in [p, until); `origin` is the place in the block of p. Returns the start of the first line after them.
const char* ReadLines(const char* p, const char* until, const char* end, int64_t origin, Out& out) {
  const char* base = p;
  Row row;
  while (p < until) {
    const char* next = ReadLine(p, row);
    if (next != nullptr) {
      out.Add(row);
    } else {
      out.careful[out.num_careful] = static_cast<int32_t>(out.num_lines);
      out.careful_start[out.num_careful++] = static_cast<int32_t>(origin + (p - base));
      next = static_cast<const char*>(std::memchr(p, '\n', end - p)) + 1;  // there is one, the last byte
    }
    ++out.num_lines;
    p = next;
  }
  return p;
}

}  // namespace

extern "C" {

// Reads a block of whole lines: `size` bytes, of which the last is a newline. counts: lines, rows, careful lines.
void dlrm_read_criteo_lines(const char* block, int64_t size, int64_t row_stride, int64_t word_stride, uint8_t* label, int64_t* number,
                            uint8_t* missing, uint32_t* key, uint64_t* valid, int64_t* null_count, int32_t* line, int32_t* careful,
                            int32_t* careful_start, int64_t* counts) {
  Out out{row_stride, word_stride, label, number, missing, key, valid, null_count, line, careful, careful_start, 0, 0, 0, {}};
  std::memset(null_count, 0, kKeys * sizeof *null_count);
  const char* end = block + size;
  const char* p = size < kReach ? block : ReadLines(block, end - kReach + 1, end, 0, out);
  if (p < end) {  // lines that start in the last kReach - 1 bytes are read in a copy followed by zeros, which no cell holds
    char tail[2 * kReach] = {};
    std::memcpy(tail, p, end - p);
    ReadLines(tail, tail + (end - p), tail + (end - p), p - block, out);
  }
  if (out.num_rows & 63) out.Flush();
  for (int f = 0; f < kKeys; ++f) null_count[f] += out.num_rows;
  counts[0] = out.num_lines;
  counts[1] = out.num_rows;
  counts[2] = out.num_careful;
}

}  // extern "C"

/* Huffman codes and coefficients.
 *
 * One look-up of a code gives its length and that of the value after it, so that the next look-up
 * waits for nothing else. Every symbol goes the same way, as a wrongly predicted branch costs as
 * much as two symbols.
 *
 * Source: ITU-T T.81, annexes C and F.
 */

#include <string.h>

#include "jpeg.h"

static const uint8_t ZIGZAG[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* What a symbol means; 0 for one that no encoder writes. */
static Entry entry_of(int symbol, int length, int dc) {
    const int size = dc ? symbol : symbol & 15;
    int skip = dc ? 0 : symbol >> 4;
    if (dc ? size > 11 : size > 10) return 0;
    if (!dc && symbol == 0) skip = END_OF_BLOCK;
    else if (!dc && size == 0 && symbol != 0xF0) return 0;
    return (Entry)(length + size) | (Entry)skip << 8 | (Entry)length << 16 | (Entry)size << 24;
}

static int build_huffman(Huffman *table, const uint8_t *counts, int dc) {
    int code = 0, index = 0;
    memset(table, 0, sizeof *table);
    table->symbols = counts + 16;
    for (int length = 1; length <= 16; length++) {
        table->first_code[length] = code;
        table->first_index[length] = index;
        for (int i = 0; i < counts[length - 1]; i++, code++, index++) {
            /* The code of ones alone must stay free. */
            if (code >= (1 << length) - 1) return REFUSED;
            const Entry entry = entry_of(table->symbols[index], length, dc);
            if (!entry) return REFUSED;
            if (length > LOOK) continue;
            const int left = LOOK - length;
            for (int rest = 0; rest < 1 << left; rest++)
                table->look[(code << left) + rest] = entry;
        }
        table->end_code[length] = code;
        code <<= 1;
    }
    return DECODED;
}

static inline void refill(Bits *bits) {
    uint64_t next;
    memcpy(&next, bits->at, 8);
    bits->window |= __builtin_bswap64(next) >> bits->count;
    bits->at += (63 - bits->count) >> 3;
    bits->count |= 56;
}

/* The entry of a code that is longer than LOOK; 0 if there is none. */
static __attribute__((noinline)) Entry long_entry(const Huffman *table, uint64_t window, int dc) {
    for (int length = LOOK + 1; length <= 16; length++) {
        const int code = (int)(window >> (64 - length));
        if (code >= table->end_code[length] || code < table->first_code[length]) continue;
        const int index = table->first_index[length] + code - table->first_code[length];
        return entry_of(table->symbols[index], length, dc);
    }
    return 0;
}

/* The next code's entry, and the bits from its value on; takes both out, at most 27 bits. */
static ALWAYS_INLINE Entry next_entry(const Huffman *table, Bits *bits, int dc, uint64_t *rest) {
    Entry entry = table->look[bits->window >> (64 - LOOK)];
    if (__builtin_expect(!entry, 0)) entry = long_entry(table, bits->window, dc);
    *rest = bits->window << CODE_BITS(entry);
    bits->window <<= BITS(entry);
    bits->count -= BITS(entry);
    return entry;
}

/* The signed number in the first bits of `rest`. */
static ALWAYS_INLINE int value_of(Entry entry, uint64_t rest) {
    const int size = VALUE_BITS(entry);
    const int bits = (int)(rest >> 1 >> (63 - size));
    const int negative = (int)(~(int64_t)rest >> 63);
    return bits - (negative & ((1 << size) - 1));
}

/* Read a block, and if `keep`, store its coefficients, dequantised, row by row. */
static ALWAYS_INLINE int read_coefficients(Bits *bits, const Tables *tables, int *prediction,
                                           int16_t *block, int keep) {
    uint64_t rest;
    uint32_t excess = 0;
    refill(bits);
    Entry entry = next_entry(&tables->dc, bits, 1, &rest);
    if (!entry) return -1;
    *prediction += value_of(entry, rest);
    if (*prediction < INT16_MIN || *prediction > INT16_MAX) return -1;
    if (keep) {
        const int scaled = *prediction * tables->steps[0].quant;
        excess |= (uint32_t)(scaled + MAX_COEFFICIENT);
        block[0] = (int16_t)scaled;
    }
    int k = 1;
    do {
        refill(bits);
        for (int i = 0; i < 2; i++) { /* two codes with their values never take more bits */
            entry = next_entry(&tables->ac, bits, 0, &rest);
            if (__builtin_expect(!entry, 0)) return -1;
            k += ZEROS(entry);
            if (keep) {
                const Step step = tables->steps[k];
                const int scaled = value_of(entry, rest) * step.quant;
                excess |= (uint32_t)(scaled + MAX_COEFFICIENT);
                block[step.to] = (int16_t)scaled;
            }
            if (++k >= 64) break;
        }
    } while (k < 64);
    if (excess >= 2 * MAX_COEFFICIENT || (k > 64 && k <= END_OF_BLOCK)) return -1;
    return k;
}

/* Read a block into `block`, which holds zeros; its last place is for what lies nowhere. Gives
 * where the last code led: 64, or NO_AC where there is nothing but DC; less than 0 if the block
 * is damaged. */
int read_block(Bits *bits, const Tables *tables, int *prediction, int16_t block[65]) {
    return read_coefficients(bits, tables, prediction, block, 1);
}

/* Read a block that is not needed, but for what the blocks after it need. */
int pass_block(Bits *bits, const Tables *tables, int *prediction) {
    return read_coefficients(bits, tables, prediction, NULL, 0);
}

int build_tables(const Header *header, const Component *component, Tables *tables) {
    if (build_huffman(&tables->dc, header->huffman[0][component->dc], 1)) return REFUSED;
    if (build_huffman(&tables->ac, header->huffman[1][component->ac], 0)) return REFUSED;
    for (int k = 0; k < 64 + END_OF_BLOCK; k++) tables->steps[k] = (Step){0, 64};
    for (int k = 0; k < 64; k++)
        tables->steps[k] = (Step){header->quant[component->quant][k], ZIGZAG[k]};
    return DECODED;
}

/* From coefficients to samples, and from samples to RGB, as libjpeg-turbo computes them.
 *
 * In vectors of the compiler's, so that they suit any processor.
 *
 * Source: jidctint.c, jdsample.c and jdcolor.c of libjpeg-turbo, whose arithmetic this is.
 */

#include <string.h>

#include "jpeg.h"

enum { MAX_COLUMN = 8192 }; /* after the first pass; beyond, libjpeg-turbo may wrap around */

typedef int32_t Row __attribute__((vector_size(32)));
typedef int16_t ShortRow __attribute__((vector_size(16)));

/* One pass over eight columns at once; rounds `drop` bits away. */
static ALWAYS_INLINE void transform(Row v[8], int drop) {
    const Row z1 = (v[2] + v[6]) * 4433;
    const Row even2 = z1 - v[6] * 15137, even3 = z1 + v[2] * 6270;
    const Row round = (Row){} + (1 << (drop - 1));
    const Row even0 = (v[0] + v[4]) * 8192 + round, even1 = (v[0] - v[4]) * 8192 + round;
    const Row a0 = even0 + even3, a3 = even0 - even3, a1 = even1 + even2, a2 = even1 - even2;
    const Row z5 = (v[7] + v[3] + v[5] + v[1]) * 9633;
    const Row y1 = (v[7] + v[1]) * -7373, y2 = (v[5] + v[3]) * -20995;
    const Row y3 = z5 - (v[7] + v[3]) * 16069, y4 = z5 - (v[5] + v[1]) * 3196;
    const Row b0 = v[7] * 2446 + y1 + y3, b1 = v[5] * 16819 + y2 + y4;
    const Row b2 = v[3] * 25172 + y2 + y3, b3 = v[1] * 12299 + y1 + y4;
    v[0] = (a0 + b3) >> drop, v[7] = (a0 - b3) >> drop;
    v[1] = (a1 + b2) >> drop, v[6] = (a1 - b2) >> drop;
    v[2] = (a2 + b1) >> drop, v[5] = (a2 - b1) >> drop;
    v[3] = (a3 + b0) >> drop, v[4] = (a3 - b0) >> drop;
}

#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW2(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH2(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)

static ALWAYS_INLINE void transpose(Row v[8]) {
    Row a[8], b[8];
    for (int i = 0; i < 8; i += 2) a[i] = LOW(v[i], v[i + 1]), a[i + 1] = HIGH(v[i], v[i + 1]);
    for (int i = 0; i < 8; i += 4) {
        b[i] = LOW2(a[i], a[i + 2]), b[i + 1] = HIGH2(a[i], a[i + 2]);
        b[i + 2] = LOW2(a[i + 1], a[i + 3]), b[i + 3] = HIGH2(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) v[i] = LOW4(b[i], b[i + 4]), v[i + 4] = HIGH4(b[i], b[i + 4]);
}

void fill_block(uint8_t *to, int pitch, int dc) {
    const int level = most(0, least(255, ((dc + 4) >> 3) + 128));
    for (int row = 0; row < 8; row++) memset(to + (ptrdiff_t)row * pitch, level, 8);
}

/* The accurate integer inverse DCT (libjpeg's "islow"). */
int inverse_dct(const int16_t *block, uint8_t *to, int pitch) {
    Row v[8], excess = {};
    for (int i = 0; i < 8; i++) {
        ShortRow row;
        memcpy(&row, block + 8 * i, sizeof row);
        v[i] = __builtin_convertvector(row, Row);
    }
    transform(v, 11);
    for (int i = 0; i < 8; i++) excess |= v[i] + MAX_COLUMN;
    transpose(v);
    transform(v, 18);
    transpose(v);
    int32_t levels[64] __attribute__((aligned(32)));
    uint8_t bytes[64];
    memcpy(levels, v, sizeof levels);
    for (int i = 0; i < 64; i++) {
        const int level = most(levels[i] + 128, 0);
        bytes[i] = (uint8_t)least(level, 255);
    }
    for (int i = 0; i < 8; i++) memcpy(to + (ptrdiff_t)i * pitch, bytes + 8 * i, 8);
    uint32_t any = 0;
    for (int j = 0; j < 8; j++) any |= (uint32_t)excess[j];
    return any >= 2 * MAX_COLUMN ? REFUSED : DECODED;
}

static const uint8_t *sample_row(const Component *c, int row) {
    const int within = most(0, least(c->height - 1, row)) - 8 * c->first_row;
    return c->samples + (ptrdiff_t)within * c->pitch;
}

/* A row of chroma for columns left .. left + width of the image, interpolated by the triangle
 * filter of libjpeg's "fancy upsampling"; `sums` and `to` are memory for it. */
static const uint8_t *chroma_row(const Component *c, int across, int down, int row, int left,
                                 int width, int16_t *sums, uint8_t *to) {
    if (across == 1) return sample_row(c, row) + (left - 8 * c->first_column);
    const int first = left / 2, count = (left + width - 1) / 2 - first + 1;
    const int near = down == 2 ? row / 2 : row, far = row % 2 ? near + 1 : near - 1;
    const uint8_t *a = sample_row(c, near), *b = sample_row(c, down == 2 ? far : near);
    /* From column first - 1 on: of two rows three parts to one, where rows are halved. */
    const int own = down == 2 ? 3 : 1, other = down == 2 ? 1 : 0;
    const int from = most(0, first - 1), until = least(c->width - 1, first + count);
    a -= 8 * c->first_column, b -= 8 * c->first_column;
    for (int x = from; x <= until; x++)
        sums[x - first + 1] = (int16_t)(own * a[x] + other * b[x]);
    if (from == first) sums[0] = sums[1];
    if (until < first + count) sums[count + 1] = sums[count];
    const int shift = down == 2 ? 4 : 2, even = down == 2 ? 8 : 1, odd = down == 2 ? 7 : 2;
    for (int x = 0; x < count; x++) {
        to[2 * x] = (uint8_t)((3 * sums[x + 1] + sums[x] + even) >> shift);
        to[2 * x + 1] = (uint8_t)((3 * sums[x + 1] + sums[x + 2] + odd) >> shift);
    }
    return to + left % 2;
}

static inline uint8_t level(int16_t value) {
    value = value > 0 ? value : 0;
    return (uint8_t)(value < 255 ? value : 255);
}

/* (value * factor + 2^15) / 2^16 rounded down, by the upper half of a 16-bit product. */
static inline int16_t scaled(int16_t value, int16_t factor) {
    const int16_t twice = (int16_t)(2 * value);
    const int16_t upper = (int16_t)((int32_t)twice * factor >> 16);
    return (int16_t)((int16_t)(upper + 1) >> 1);
}

static void write_rgb(const uint8_t *restrict y, const uint8_t *restrict cb,
                      const uint8_t *restrict cr, int width, uint8_t *restrict rgb) {
    for (int start = 0; start < width; start += 64) {
        uint8_t r[64], g[64], b[64];
        const int count = least(64, width - start);
        for (int x = 0; x < count; x++) {
            const int16_t light = y[start + x];
            const int16_t blue = (int16_t)(cb[start + x] - 128);
            const int16_t red = (int16_t)(cr[start + x] - 128);
            r[x] = level((int16_t)(light + red + scaled(red, 26345)));
            b[x] = level((int16_t)(light + 2 * blue + scaled(blue, -14942)));
            g[x] = level((int16_t)(light + ((-22554 * blue - 46802 * red + (1 << 15)) >> 16)));
        }
        for (int x = 0; x < count; x++) {
            rgb[3 * (start + x)] = r[x];
            rgb[3 * (start + x) + 1] = g[x];
            rgb[3 * (start + x) + 2] = b[x];
        }
    }
}

/* Write columns left .. left + width of a row of the image; `scratch` has 4 * (width + 4) bytes. */
void write_row(const Header *header, int row, int left, int width, uint8_t *scratch, uint8_t *rgb) {
    const Component *luma = &header->component[0];
    const int across = luma->across, down = luma->down;
    int16_t *sums = (int16_t *)scratch;
    uint8_t *blue = scratch + 2 * (size_t)(width + 4), *red = blue + width + 2;
    const uint8_t *y = sample_row(luma, row) + (left - 8 * luma->first_column);
    const Component *cb = &header->component[1], *cr = &header->component[2];
    write_rgb(y, chroma_row(cb, across, down, row, left, width, sums, blue),
              chroma_row(cr, across, down, row, left, width, sums, red), width, rgb);
}

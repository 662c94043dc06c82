/* Rotate images, to the last bit as the torch operators of ixt/pipeline/augment/warp.py do.
 *
 * Those need some forty passes over float32 values per tap of the filter. Here a row of the result
 * is worked out at once: where its pixels come from, then per channel the taps, four to a load.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers are loaded in the order of little-endian processors"
#endif

enum { PAD = 2 }; /* edge pixels repeated around the frame, so that each tap lies inside */

/* For each pixel of a row: where its first tap lies, how far it is past the second, and whether
 * its source lies inside the frame; then the taps of one channel, four bytes to a word. */
typedef struct {
    int32_t *first;
    float *right, *down;
    uint8_t *inside;
    uint32_t *taps[4];
} Line;

#define ALWAYS_INLINE inline __attribute__((always_inline))

static ALWAYS_INLINE float byte_of(uint32_t word, int number) {
    return (float)(int32_t)(word >> 8 * number & 255);
}

static ALWAYS_INLINE float linear(float near, float far, float part) {
    return (far - near) * part + near;
}

/* Keys' kernel with a = -1, by the weights of three taps relative to the second. */
static ALWAYS_INLINE float cubic(float first, float near, float third, float fourth, float part) {
    const float square = part * part, cube = square * part;
    const float one = 2 * square - part - cube, three = part + square - cube, four = cube - square;
    return (first - near) * one + (third - near) * three + (fourth - near) * four + near;
}

static ALWAYS_INLINE float cubic_of(uint32_t taps, float part) {
    return cubic(byte_of(taps, 0), byte_of(taps, 1), byte_of(taps, 2), byte_of(taps, 3), part);
}

static ALWAYS_INLINE uint8_t truncated(float value) {
    value = value > 0 ? value : 0;
    value = value < 255 ? value : 255;
    return (uint8_t)(int32_t)value;
}

static void plan_line(Line *line, int size, int row, const double terms[4]) {
    const double cos = terms[0], sin = terms[1], x_start = terms[2], y_start = terms[3];
    const double below = row + 0.5, last = size - 1;
    for (int i = 0; i < size; i++) {
        const double across = i + 0.5;
        const double x = cos * across + sin * below + x_start;
        const double y = -sin * across + cos * below + y_start;
        line->inside[i] = (uint8_t) - ((x >= 0) & (x < size) & (y >= 0) & (y < size));
        double column = floor(x - 0.5), line_of = floor(y - 0.5);
        line->right[i] = (float)(x - 0.5 - column);
        line->down[i] = (float)(y - 0.5 - line_of);
        column = column < -1 ? -1 : column > last ? last : column;
        line_of = line_of < -1 ? -1 : line_of > last ? last : line_of;
        const int pitch = size + 2 * PAD;
        line->first[i] = ((int32_t)line_of + PAD - 1) * pitch + (int32_t)column + PAD - 1;
    }
}

static void write_cubic(const Line *line, int size, uint8_t fill, uint8_t *restrict to) {
    const uint32_t *restrict a = line->taps[0], *restrict b = line->taps[1];
    const uint32_t *restrict c = line->taps[2], *restrict d = line->taps[3];
    const float *restrict right = line->right, *restrict down = line->down;
    const uint8_t *restrict inside = line->inside;
    for (int i = 0; i < size; i++) {
        const float upper = cubic_of(a[i], right[i]), near = cubic_of(b[i], right[i]);
        const float lower = cubic_of(c[i], right[i]), last = cubic_of(d[i], right[i]);
        const uint8_t value = truncated(cubic(upper, near, lower, last, down[i]));
        to[i] = (uint8_t)((value & inside[i]) | (fill & ~inside[i]));
    }
}

static void write_linear(const Line *line, int size, uint8_t fill, uint8_t *restrict to) {
    const uint32_t *restrict b = line->taps[1], *restrict c = line->taps[2];
    const float *restrict right = line->right, *restrict down = line->down;
    const uint8_t *restrict inside = line->inside;
    for (int i = 0; i < size; i++) {
        const float upper = linear(byte_of(b[i], 1), byte_of(b[i], 2), right[i]);
        const float lower = linear(byte_of(c[i], 1), byte_of(c[i], 2), right[i]);
        const uint8_t value = truncated(linear(upper, lower, down[i]));
        to[i] = (uint8_t)((value & inside[i]) | (fill & ~inside[i]));
    }
}

static void pad_plane(const uint8_t *plane, int size, uint8_t *to) {
    const int pitch = size + 2 * PAD;
    for (int row = -PAD; row < size + PAD; row++, to += pitch) {
        const uint8_t *from = plane + (ptrdiff_t)size * (row < 0 ? 0 : row < size ? row : size - 1);
        memset(to, from[0], PAD);
        memcpy(to + PAD, from, (size_t)size);
        memset(to + PAD + size, from[size - 1], PAD);
    }
}

/* Rotate (3, size, size) planes: `terms` are cosine, sine, and the source of the corner (x, y).
 * Gives 0, or 1 where there is no memory. */
__attribute__((visibility("default"))) int ixt_rotate(const uint8_t *image, int size,
                                                      const double terms[4], int is_cubic,
                                                      const uint8_t fill[3], uint8_t *result) {
    const size_t width = (size_t)size, pitch = width + 2 * PAD, plane = pitch * pitch;
    uint8_t *memory = malloc(3 * plane + 16 + width * (7 * 4 + 1) + 64);
    if (!memory) return 1;
    float *at = (float *)memory;
    Line line = {(int32_t *)at, at + width, at + 2 * width, NULL, {0}};
    for (int j = 0; j < 4; j++) line.taps[j] = (uint32_t *)(at + (size_t)(3 + j) * width);
    line.inside = (uint8_t *)(at + 7 * width);
    uint8_t *padded = line.inside + width; /* 16 bytes more, for a load at the last tap */
    for (int c = 0; c < 3; c++) pad_plane(image + c * width * width, size, padded + c * plane);
    for (int row = 0; row < size; row++) {
        plan_line(&line, size, row, terms);
        for (int c = 0; c < 3; c++) {
            const uint8_t *from = padded + c * plane;
            for (int j = is_cubic ? 0 : 1; j < (is_cubic ? 4 : 3); j++)
                for (int i = 0; i < size; i++)
                    memcpy(&line.taps[j][i], from + line.first[i] + j * (ptrdiff_t)pitch, 4);
            uint8_t *to = result + (c * width + (size_t)row) * width;
            (is_cubic ? write_cubic : write_linear)(&line, size, fill[c], to);
        }
    }
    free(memory);
    return 0;
}

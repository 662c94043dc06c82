/* Decode files with bytes changed, cut off and repeated; a sanitizer watches.
 *
 *     fuzz ROUNDS FILE...    prints how many were decoded and how many refused
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jpeg.h"

int ixt_jpeg_window(const uint8_t *data, size_t size, int top, int left, int height, int width,
                    uint8_t *rgb);

enum { LARGEST = 1 << 16 };

static uint32_t state = 1;

static uint32_t below(uint32_t bound) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % bound;
}

/* A copy of its own length, so that reading beyond it is seen. */
static int decode(const uint8_t *data, size_t size) {
    const int height = 1 + (int)below(60), width = 1 + (int)below(60);
    uint8_t *copy = malloc(size ? size : 1), *rgb = malloc((size_t)(3 * height * width));
    memcpy(copy, data, size);
    const int verdict = ixt_jpeg_window(copy, size, (int)below(40), (int)below(40), height, width,
                                        rgb);
    free(copy);
    free(rgb);
    return verdict;
}

int main(int count, char **given) {
    static uint8_t original[LARGEST], changed[LARGEST];
    int verdicts[2] = {0, 0};
    for (int file = 2; file < count; file++) {
        FILE *stream = fopen(given[file], "rb");
        if (!stream) return 2;
        const size_t size = fread(original, 1, LARGEST, stream);
        fclose(stream);
        for (int round = 0; round < atoi(given[1]); round++) {
            memcpy(changed, original, size);
            /* Every other time the header, where most can go wrong. */
            const uint32_t reach = round % 2 ? (uint32_t)size : 640;
            for (uint32_t i = below(4); i > 0; i--) changed[below(reach)] = (uint8_t)below(256);
            verdicts[decode(changed, round % 5 ? size : below((uint32_t)size))]++;
        }
    }
    printf("%d %d\n", verdicts[DECODED], verdicts[REFUSED]);
    return 0;
}

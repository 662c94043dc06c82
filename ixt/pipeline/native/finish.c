/* Mix and normalise images in one pass each, to the last bit as torch's operators do.
 *
 * Those take a pass over float32 values for each step, and a conversion before and after.
 */

#include <stddef.h>
#include <stdint.h>

enum { CHANNELS = 3, RUN = 8 };

/* Adding and taking away 1.5 * 2^23 leaves a float32 below 2^22 rounded, halves to even. */
static const float ROUND = 12582912.0f;

__attribute__((visibility("default"))) int ixt_mixup(const uint8_t *restrict own,
                                                     const uint8_t *restrict partner, size_t count,
                                                     float lam, float rest,
                                                     uint8_t *restrict result) {
    for (size_t i = 0; i < count; i++) {
        const float mixed = (float)own[i] * lam + (float)partner[i] * rest;
        result[i] = (uint8_t)(int32_t)((mixed + ROUND) - ROUND);
    }
    return 0;
}

/* `pixels` of each channel; interleaved, or channel after channel. */
__attribute__((visibility("default"))) int ixt_normalise(const uint8_t *restrict image,
                                                         size_t pixels, int interleaved,
                                                         const float shift[CHANNELS],
                                                         const float spread[CHANNELS],
                                                         float *restrict result) {
    if (!interleaved) {
        for (int c = 0; c < CHANNELS; c++, image += pixels, result += pixels)
            for (size_t i = 0; i < pixels; i++)
                result[i] = ((float)image[i] - shift[c]) / spread[c];
        return 0;
    }
    float shifts[CHANNELS * RUN], spreads[CHANNELS * RUN];
    for (int i = 0; i < CHANNELS * RUN; i++) {
        shifts[i] = shift[i % CHANNELS];
        spreads[i] = spread[i % CHANNELS];
    }
    const size_t count = CHANNELS * pixels, whole = count - count % (CHANNELS * RUN);
    for (size_t at = 0; at < whole; at += CHANNELS * RUN)
        for (int i = 0; i < CHANNELS * RUN; i++)
            result[at + i] = ((float)image[at + i] - shifts[i]) / spreads[i];
    for (size_t at = whole; at < count; at++)
        result[at] = ((float)image[at] - shift[at % CHANNELS]) / spread[at % CHANNELS];
    return 0;
}

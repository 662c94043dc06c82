/* Decode a window of a JPEG file, pixel for pixel as libjpeg-turbo does.
 *
 * Takes what nearly every photograph is: baseline, three components (YCbCr), one scan, chroma at
 * full size (4:4:4), halved across (4:2:2) or both ways (4:2:0), no restart markers. Of anything
 * else, and of a file with the least irregularity, it says REFUSED, and the caller asks libjpeg.
 * So the whole scan is read even where the window ends early: a damaged file is never accepted
 * for what a crop happens to take of it.
 *
 * Only blocks that the window touches are transformed; see jpeg_entropy.c for the rest of why it
 * is fast.
 */

#include <stdlib.h>

#include "jpeg.h"

/* Which blocks of each component the window needs; gives the bytes of their samples. */
static size_t plan_samples(Header *header, int top, int left, int height, int width) {
    const int across = header->component[0].across, down = header->component[0].down;
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        Component *c = &header->component[i];
        const int per_x = i ? across : 1, per_y = i ? down : 1;
        c->width = up_to(header->width, per_x);
        c->height = up_to(header->height, per_y);
        /* Interpolation takes one sample more on each side. */
        const int more_x = per_x > 1, more_y = per_y > 1;
        c->first_column = most(0, left / per_x - more_x) / 8;
        c->first_row = most(0, top / per_y - more_y) / 8;
        c->last_column = least(c->width - 1, (left + width - 1) / per_x + more_x) / 8;
        c->last_row = least(c->height - 1, (top + height - 1) / per_y + more_y) / 8;
        c->pitch = 8 * (c->last_column - c->first_column + 1);
        bytes += (size_t)c->pitch * 8 * (size_t)(c->last_row - c->first_row + 1);
    }
    return bytes;
}

/* Read a block; transform it if the window needs it. */
static int decode_block(Bits *bits, Component *c, const Tables *tables, int row, int column) {
    const int needed = row >= c->first_row && row <= c->last_row && column >= c->first_column &&
                       column <= c->last_column;
    if (!needed) return pass_block(bits, tables, &c->prediction) < 0;
    int16_t block[65] __attribute__((aligned(32))) = {0};
    const int end = read_block(bits, tables, &c->prediction, block);
    if (end < 0) return REFUSED;
    const ptrdiff_t y = 8 * (row - c->first_row), x = 8 * (column - c->first_column);
    uint8_t *to = c->samples + y * c->pitch + x;
    if (end != NO_AC) return inverse_dct(block, to, c->pitch);
    fill_block(to, c->pitch, block[0]);
    return DECODED;
}

/* The blocks of a component in one MCU. */
static int decode_unit(Bits *bits, const uint8_t *end, Component *c, const Tables *tables, int row,
                       int column) {
    for (int y = row * c->down; y < (row + 1) * c->down; y++)
        for (int x = column * c->across; x < (column + 1) * c->across; x++)
            if (bits->at > end + 8 || decode_block(bits, c, tables, y, x)) return REFUSED;
    return DECODED;
}

static int decode_scan(Header *header, const Tables tables[3]) {
    const Component *luma = &header->component[0];
    const int columns = up_to(header->width, 8 * luma->across);
    const int rows = up_to(header->height, 8 * luma->down);
    Bits bits = {0, 0, header->scan};
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++)
            for (int i = 0; i < 3; i++)
                if (decode_unit(&bits, header->end, &header->component[i], &tables[i], row, column))
                    return REFUSED;
    /* Fewer than eight bits are left, or something is missing or too much. */
    const ptrdiff_t left = (header->end - bits.at) * 8 + bits.count;
    return left >= 0 && left < 8 ? DECODED : REFUSED;
}

/* Decode rows top .. top + height and columns left .. left + width of a file into (height, width,
 * 3) RGB. Gives DECODED, or REFUSED where libjpeg has to be asked; `rgb` is then undefined. */
__attribute__((visibility("default"))) int ixt_jpeg_window(const uint8_t *data, size_t size,
                                                           int top, int left, int height,
                                                           int width, uint8_t *rgb) {
    Header header = {0};
    if (read_header(&header, data, size)) return REFUSED;
    if (top < 0 || height < 1 || height > header.height - top) return REFUSED;
    if (left < 0 || width < 1 || width > header.width - left) return REFUSED;
    const size_t samples = plan_samples(&header, top, left, height, width);
    const size_t scratch = 4 * ((size_t)width + 4), tables_bytes = 3 * sizeof(Tables);
    uint8_t *memory = malloc(tables_bytes + scratch + samples + size + SLACK);
    if (!memory) return REFUSED;
    Tables *tables = (Tables *)memory;
    uint8_t *at = memory + tables_bytes + scratch;
    int verdict = DECODED;
    for (int i = 0; i < 3; i++) {
        Component *c = &header.component[i];
        c->samples = at;
        at += (size_t)c->pitch * 8 * (size_t)(c->last_row - c->first_row + 1);
        verdict |= build_tables(&header, c, &tables[i]);
    }
    verdict = verdict || copy_scan(&header, at) || decode_scan(&header, tables);
    for (int row = 0; !verdict && row < height; row++)
        write_row(&header, top + row, left, width, memory + tables_bytes,
                  rgb + 3 * (size_t)width * (size_t)row);
    free(memory);
    return verdict;
}

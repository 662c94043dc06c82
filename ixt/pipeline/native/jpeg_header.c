/* Read the segments before the scan; refuse what is not an ordinary photograph.
 *
 * Source: ITU-T T.81, annex B.
 */

#include <string.h>

#include "jpeg.h"

enum {
    LEAST_SIDE = 16, /* libjpeg does not interpolate the chroma of tiny images */
    LARGEST_SIDE = 65500,
};

enum { SOF0 = 0xC0, DHT = 0xC4, EOI = 0xD9, SOS = 0xDA, DQT = 0xDB, APP0 = 0xE0, APP14 = 0xEE,
       APP15 = 0xEF, COM = 0xFE };

static int word(const uint8_t *at) { return at[0] << 8 | at[1]; }

static int read_frame(Header *header, const uint8_t *at, int length) {
    if (header->height || length != 6 + 3 * 3 || at[0] != 8 || at[5] != 3) return REFUSED;
    header->height = word(at + 1);
    header->width = word(at + 3);
    if (header->height < LEAST_SIDE || header->height > LARGEST_SIDE) return REFUSED;
    if (header->width < LEAST_SIDE || header->width > LARGEST_SIDE) return REFUSED;
    for (int i = 0; i < 3; i++) {
        const uint8_t *given = at + 6 + 3 * i;
        Component *component = &header->component[i];
        component->id = given[0];
        component->across = given[1] >> 4;
        component->down = given[1] & 15;
        component->quant = given[2];
        if (component->quant > 3) return REFUSED;
        if (i && (component->across != 1 || component->down != 1)) return REFUSED;
    }
    const int across = header->component[0].across, down = header->component[0].down;
    const int known = (across == 1 && down == 1) || (across == 2 && (down == 1 || down == 2));
    return known ? DECODED : REFUSED;
}

static int read_quant_tables(Header *header, const uint8_t *at, int length) {
    for (; length >= 65; at += 65, length -= 65) {
        if (at[0] > 3) return REFUSED; /* 16-bit, or no such table */
        header->quant[at[0]] = at + 1;
    }
    return length ? REFUSED : DECODED;
}

static int read_huffman_tables(Header *header, const uint8_t *at, int length) {
    while (length >= 17) {
        const int kind = at[0] >> 4, number = at[0] & 15;
        int symbols = 0;
        for (int i = 1; i <= 16; i++) symbols += at[i];
        if (kind > 1 || number > 3 || symbols > 256 || 17 + symbols > length) return REFUSED;
        header->huffman[kind][number] = at + 1;
        at += 17 + symbols;
        length -= 17 + symbols;
    }
    return length ? REFUSED : DECODED;
}

static void read_application(Header *header, int marker, const uint8_t *at, int length) {
    if (marker == APP0 && length >= 14 && !memcmp(at, "JFIF", 5)) header->jfif = 1;
    if (marker == APP14 && length >= 12 && !memcmp(at, "Adobe", 5)) header->adobe = at[11];
}

/* libjpeg's guess of the colour space: YCbCr, or not for us. */
static int is_ycbcr(const Header *header) {
    if (header->jfif) return 1;
    if (header->adobe >= 0) return header->adobe == 1;
    const Component *component = header->component;
    return component[0].id == 1 && component[1].id == 2 && component[2].id == 3;
}

static int read_scan_header(Header *header, const uint8_t *at, int length) {
    static const uint8_t WHOLE[3] = {0, 63, 0};
    if (!header->height || length != 10 || at[0] != 3 || memcmp(at + 7, WHOLE, 3)) return REFUSED;
    for (int i = 0; i < 3; i++) {
        Component *component = &header->component[i];
        component->dc = at[2 + 2 * i] >> 4;
        component->ac = at[2 + 2 * i] & 15;
        if (at[1 + 2 * i] != component->id || component->dc > 3 || component->ac > 3)
            return REFUSED;
        if (!header->huffman[0][component->dc] || !header->huffman[1][component->ac])
            return REFUSED;
        if (!header->quant[component->quant]) return REFUSED;
    }
    return is_ycbcr(header) ? DECODED : REFUSED;
}

int read_header(Header *header, const uint8_t *data, size_t size) {
    const uint8_t *at = data, *end = data + size;
    if (size < 4 || word(at) != 0xFFD8) return REFUSED;
    at += 2;
    header->adobe = -1;
    while (end - at >= 4) {
        if (*at++ != 0xFF) return REFUSED;
        while (at < end && *at == 0xFF) at++;
        if (end - at < 3) return REFUSED;
        const int marker = *at++, length = word(at) - 2;
        at += 2;
        if (length < 0 || length > end - at) return REFUSED;
        int verdict = DECODED;
        if (marker == SOF0) verdict = read_frame(header, at, length);
        else if (marker == DHT) verdict = read_huffman_tables(header, at, length);
        else if (marker == DQT) verdict = read_quant_tables(header, at, length);
        else if (marker >= APP0 && marker <= APP15) read_application(header, marker, at, length);
        else if (marker == SOS) {
            header->scan = at + length;
            header->end = end;
            return read_scan_header(header, at, length);
        } else if (marker != COM) return REFUSED; /* other kinds of frames, restart markers */
        if (verdict) return REFUSED;
        at += length;
    }
    return REFUSED;
}

/* Copy the scan without the zeros stuffed after 0xFF; it has to end with the end of the image. */
int copy_scan(Header *header, uint8_t *to) {
    const uint8_t *at = header->scan, *end = header->end;
    uint8_t *start = to;
    for (;;) {
        const uint8_t *mark = memchr(at, 0xFF, (size_t)(end - at));
        if (!mark || end - mark < 2) return REFUSED;
        memcpy(to, at, (size_t)(mark - at));
        to += mark - at;
        if (mark[1] == EOI) break;
        if (mark[1]) return REFUSED;
        *to++ = 0xFF;
        at = mark + 2;
    }
    memset(to, 0, SLACK);
    header->scan = start;
    header->end = to;
    return DECODED;
}

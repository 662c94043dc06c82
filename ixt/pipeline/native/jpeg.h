/* What the parts of the JPEG decoder share; see jpeg.c. */

#ifndef IXT_JPEG_H
#define IXT_JPEG_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers are loaded in the order of little-endian processors"
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

enum { DECODED = 0, REFUSED = 1 };

enum {
    LOOK = 10,              /* bits of a code that are looked up at once */
    END_OF_BLOCK = 128,     /* in place of a number of zeros */
    NO_AC = END_OF_BLOCK + 2, /* where a block without AC coefficients ends */
    SLACK = 512,            /* bytes after the scan: no block reads further between two checks */
    MAX_COEFFICIENT = 4096, /* beyond, libjpeg-turbo's 16-bit arithmetic may wrap around */
};

typedef struct {
    int across, down;     /* blocks in an MCU */
    int width, height;    /* samples */
    int id, quant, dc, ac; /* its name, and the numbers of its tables */
    int prediction;       /* of the next DC coefficient */
    /* The blocks that the window needs, and their samples, `pitch` bytes from row to row. */
    int first_column, first_row, last_column, last_row;
    uint8_t *samples;
    int pitch;
} Component;

typedef struct {
    int height, width;
    int jfif, adobe; /* whether there is such a marker; the transform that it names, or -1 */
    Component component[3];
    const uint8_t *quant[4];      /* 64 factors in zigzag order */
    const uint8_t *huffman[2][4]; /* of DC and AC: 16 counts, then the symbols */
    const uint8_t *scan;          /* up to `end` of the file, then as copied by copy_scan */
    const uint8_t *end;
} Header;

/* A code and what follows it, packed so that one load gives all; 0 for none. */
typedef uint32_t Entry;
#define BITS(entry) ((entry)&255)         /* of the code and of the value after it */
#define ZEROS(entry) ((entry) >> 8 & 255) /* before the coefficient, or END_OF_BLOCK */
#define CODE_BITS(entry) ((entry) >> 16 & 255)
#define VALUE_BITS(entry) ((entry) >> 24)

typedef struct {
    Entry look[1 << LOOK]; /* by the next LOOK bits; 0 for a longer code */
    const uint8_t *symbols;
    int32_t first_code[17], first_index[17], end_code[17]; /* by length */
} Huffman;

/* What to multiply a coefficient by, and where in the block it lies; beyond the 64th, nowhere. */
typedef struct {
    uint16_t quant, to;
} Step;

/* What a component is decoded with. */
typedef struct {
    Huffman dc, ac;
    Step steps[64 + END_OF_BLOCK];
} Tables;

typedef struct {
    uint64_t window; /* the next `count` bits, from the top */
    int count;
    const uint8_t *at; /* the byte after them */
} Bits;

/* jpeg_header.c */
int read_header(Header *header, const uint8_t *data, size_t size);
int copy_scan(Header *header, uint8_t *to);

/* jpeg_entropy.c */
int build_tables(const Header *header, const Component *component, Tables *tables);
int pass_block(Bits *bits, const Tables *tables, int *prediction);
int read_block(Bits *bits, const Tables *tables, int *prediction, int16_t block[65]);

/* jpeg_pixels.c */
void fill_block(uint8_t *to, int pitch, int dc);
int inverse_dct(const int16_t *block, uint8_t *to, int pitch);
void write_row(const Header *header, int row, int left, int width, uint8_t *scratch, uint8_t *rgb);

static inline int up_to(int value, int step) { return (value + step - 1) / step; }
static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }

#endif

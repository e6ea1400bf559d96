/* Arrow's buffers as the rows of a binary COPY into PostgreSQL.

   The caller brings columns into the few forms below, allocates the block and calls again for the rows that
   found no room in it. Nothing is kept between calls. The struct is declared a second time in
   connectors/postgres/outgoing.py. */

#include "pgformat.h"

enum form {
    BITS,    /* booleans */
    TWO,     /* bytes of a number */
    FOUR,
    EIGHT,
    DAYS,    /* since 1970, in 32 bits */
    MICROS,  /* since 1970, in 64 bits */
    DECIMAL, /* `width` 64-bit words */
    BYTES,   /* offsets of `width` bytes each, and the bytes of text or anything */
    JSONB,   /* the same, with a version before it */
    UUID,    /* the same, in hexadecimal */
    LIST     /* offsets of 4 bytes each, and an element */
};

struct values {
    int32_t form;
    int32_t width;
    int32_t scale; /* of a decimal, not negative */
    uint32_t type; /* the oid of an element */
    const uint8_t *valid; /* bits; NULL when all are there */
    const uint8_t *data;  /* of fixed width, or offsets */
    const uint8_t *bytes;
    int64_t first; /* of its values in the buffers */
    int64_t base;  /* the offset of a list that is its element's first value */
    const struct values *element;
};

enum { NO_ROOM = -1, REFUSED = -2 };

static inline void big16(uint8_t *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
static inline void big32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
static inline void big64(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }

static inline uint16_t get16(const uint8_t *p, int64_t i) { uint16_t v; memcpy(&v, p + 2 * i, 2); return v; }
static inline uint32_t get32(const uint8_t *p, int64_t i) { uint32_t v; memcpy(&v, p + 4 * i, 4); return v; }
static inline uint64_t get64(const uint8_t *p, int64_t i) { uint64_t v; memcpy(&v, p + 8 * i, 8); return v; }

static inline int bit(const uint8_t *bits, int64_t i) { return bits[i >> 3] >> (i & 7) & 1; }

/* words = words / by; the rest is returned. */
static uint64_t divide(uint64_t *words, int count, uint64_t by)
{
    uint64_t rest = 0;
    for (int i = count - 1; i >= 0; i--) {
        unsigned __int128 both = (unsigned __int128)rest << 64 | words[i];
        words[i] = (uint64_t)(both / by);
        rest = (uint64_t)(both % by);
    }
    return rest;
}

enum { MOST_GROUPS = 40 };

/* A number as digits to base 10,000, in `out`, which has room for MOST_GROUPS of them. Gives its length. */
static int64_t put_decimal(const struct values *v, int64_t i, uint8_t *out)
{
    int n = v->width, groups = 0;
    uint64_t words[4] = {0};
    uint16_t found[MOST_GROUPS]; /* the least first */
    memcpy(words, v->data + 8 * n * i, 8 * (size_t)n);
    int negative = (int)(words[n - 1] >> 63);
    if (negative) {
        uint64_t carry = 1;
        for (int k = 0; k < n; k++) {
            words[k] = ~words[k] + carry;
            carry = carry && words[k] == 0;
        }
    }
    while (n > 1 && words[n - 1] == 0)
        n--;
    int odd = v->scale & 3, behind = (v->scale + 3) / 4;
    if (odd) { /* the last digits fill a group in part */
        uint64_t rest;
        if (n == 1) {
            rest = words[0] % POWERS[odd];
            words[0] /= POWERS[odd];
        } else {
            rest = divide(words, n, POWERS[odd]);
        }
        found[groups++] = (uint16_t)(rest * POWERS[4 - odd]);
    }
    while (n > 1) {
        uint64_t rest = divide(words, n, POWERS[16]);
        for (int k = 0; k < 4; k++, rest /= 10000)
            found[groups++] = (uint16_t)(rest % 10000);
        while (n > 1 && words[n - 1] == 0)
            n--;
    }
    for (uint64_t left = words[0]; left; left /= 10000)
        found[groups++] = (uint16_t)(left % 10000);
    int last = 0;
    while (groups && found[groups - 1] == 0)
        groups--;
    while (last < groups && found[last] == 0)
        last++;
    int count = groups - last;
    big16(out, (uint16_t)count);
    big16(out + 2, (uint16_t)(count ? groups - 1 - behind : 0));
    big16(out + 4, count && negative ? 0x4000 : 0);
    big16(out + 6, (uint16_t)v->scale);
    for (int k = 0; k < count; k++)
        big16(out + 8 + 2 * k, found[groups - 1 - k]);
    return 8 + 2 * (int64_t)count;
}

static int hex(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* 32 digits, a hyphen behind any four of them, braces around: what the server takes for a uuid. */
static int put_uuid(const uint8_t *p, int64_t size, uint8_t *out)
{
    const uint8_t *end = p + size;
    int braces = size && *p == '{';
    p += braces;
    for (int i = 0; i < 16; i++) {
        if (end - p < 2 || hex(p[0]) < 0 || hex(p[1]) < 0)
            return 0;
        out[i] = (uint8_t)(hex(p[0]) << 4 | hex(p[1]));
        p += 2;
        if (p < end && *p == '-' && i % 2 && i < 15)
            p++;
    }
    if (braces && (p == end || *p++ != '}'))
        return 0;
    return p == end;
}

static int64_t put(const struct values *v, int64_t i, uint8_t *out, const uint8_t *end);

static int64_t put_list(const struct values *v, int64_t i, uint8_t *out, const uint8_t *end)
{
    const struct values *element = v->element;
    int64_t from = (int32_t)get32(v->data, i) - v->base, to = (int32_t)get32(v->data, i + 1) - v->base;
    uint8_t *p = out + 4;
    if (UNLIKELY(end - out < 24))
        return NO_ROOM;
    int nulls = 0;
    if (element->valid)
        for (int64_t k = from; k < to && !nulls; k++)
            nulls = !bit(element->valid, element->first + k);
    big32(p, to > from); /* dimensions */
    big32(p + 4, (uint32_t)nulls);
    big32(p + 8, v->type);
    p += 12;
    if (to > from) {
        big32(p, (uint32_t)(to - from));
        big32(p + 4, 1); /* the number of the first */
        p += 8;
    }
    for (int64_t k = from; k < to; k++) {
        int64_t size = put(element, k, p, end);
        if (UNLIKELY(size < 0))
            return size;
        p += size;
    }
    if (UNLIKELY(p - out - 4 > INT32_MAX))
        return REFUSED;
    big32(out, (uint32_t)(p - out - 4));
    return p - out;
}

/* A value with its length before it. Gives the bytes written, NO_ROOM or REFUSED. */
static inline int64_t put(const struct values *v, int64_t i, uint8_t *out, const uint8_t *end)
{
    i += v->first;
    if (UNLIKELY(end - out < 12 + 2 * MOST_GROUPS))
        return NO_ROOM;
    if (v->valid && !bit(v->valid, i)) {
        big32(out, UINT32_MAX);
        return 4;
    }
    uint8_t *p = out + 4;
    int64_t size;
    switch (v->form) {
    case BITS:
        *p = (uint8_t)bit(v->data, i);
        size = 1;
        break;
    case TWO:
        big16(p, get16(v->data, i));
        size = 2;
        break;
    case FOUR:
        big32(p, get32(v->data, i));
        size = 4;
        break;
    case EIGHT:
        big64(p, get64(v->data, i));
        size = 8;
        break;
    case DAYS: {
        int32_t days;
        if (UNLIKELY(__builtin_sub_overflow((int32_t)get32(v->data, i), (int32_t)EPOCH_DAYS, &days) ||
                     days == INT32_MIN)) /* which would be -infinity */
            return REFUSED;
        big32(p, (uint32_t)days);
        size = 4;
        break;
    }
    case MICROS: {
        int64_t us;
        if (UNLIKELY(__builtin_sub_overflow((int64_t)get64(v->data, i), EPOCH_DAYS * DAY_US, &us) ||
                     us == INT64_MIN))
            return REFUSED;
        big64(p, (uint64_t)us);
        size = 8;
        break;
    }
    case DECIMAL:
        size = put_decimal(v, i, p);
        break;
    case LIST:
        return put_list(v, i, out, end);
    default: {
        int64_t from, to;
        if (v->width == 4) {
            from = (int32_t)get32(v->data, i);
            to = (int32_t)get32(v->data, i + 1);
        } else {
            from = (int64_t)get64(v->data, i);
            to = (int64_t)get64(v->data, i + 1);
        }
        size = to - from;
        if (v->form == UUID) {
            if (UNLIKELY(!put_uuid(v->bytes + from, size, p)))
                return REFUSED;
            size = 16;
            break;
        }
        int version = v->form == JSONB;
        if (UNLIKELY(size >= INT32_MAX - version))
            return REFUSED;
        if (UNLIKELY(end - p < size + version))
            return NO_ROOM;
        if (version)
            *p = 1;
        if (size)
            memcpy(p + version, v->bytes + from, (size_t)size);
        size += version;
    }
    }
    big32(out, (uint32_t)size);
    return 4 + size;
}

/* Write rows from `*row` on until `rows`, as far as there is room, and move `*row` behind the last one.
   Gives the bytes written; REFUSED when `*row` holds a value that has no binary form. */
EXPORT int64_t headrace_encode(const struct values *columns, int32_t fields, int64_t *row, int64_t rows,
                               uint8_t *out, int64_t room)
{
    const uint8_t *end = out + room;
    uint8_t *p = out;
    while (*row < rows && end - p >= 2) {
        uint8_t *at = p;
        big16(at, (uint16_t)fields);
        at += 2;
        for (int32_t c = 0; c < fields; c++) {
            int64_t size = put(columns + c, *row, at, end);
            if (UNLIKELY(size < 0))
                return size == NO_ROOM ? p - out : REFUSED;
            at += size;
        }
        p = at;
        ++*row;
    }
    return p - out;
}

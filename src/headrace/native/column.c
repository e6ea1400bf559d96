/* Turns a column of cells into the buffers of Arrow. */

#include "values.h"

enum kind { BOOL, INTEGER, DOUBLE, DECIMAL, DATE, TIMESTAMP, TIMESTAMP_TZ, TIME, TEXT };

struct column {
    int32_t kind;
    int32_t precision, scale;
    int32_t quote;      /* that of csv; 0 for json */
    int32_t words;      /* that mean null when not quoted */
    int32_t pad;
    const uint8_t *null_text;   /* all of them */
    const int32_t *null_ends;   /* where each ends */
    uint8_t *valid, *values, *bytes;
    int64_t nulls, size, bad;
};

static int is_null_word(const struct column *c, const uint8_t *p, int64_t n)
{
    for (int32_t i = 0, at = 0; i < c->words; at = c->null_ends[i++])
        if (c->null_ends[i] - at == n && memcmp(c->null_text + at, p, (size_t)n) == 0)
            return 1;
    return 0;
}

/* A value of fixed width; 0 if it is none that is plainly right. */
static inline int fixed(const struct column *c, int json, int quoted, const uint8_t *p, int64_t n, int64_t row)
{
    if (json && (c->kind >= DATE) != quoted && !(quoted && c->kind == DECIMAL))
        return 0;
    int64_t *words = (int64_t *)c->values;
    switch (c->kind) {
    case BOOL: {
        int value = json ? (n == 4 && *p == 't' ? 1 : n == 5 && *p == 'f' ? 0 : -1) : boolean(p, n);
        if (value > 0)
            c->values[row >> 3] |= (uint8_t)(1u << (row & 7));
        return value >= 0;
    }
    case INTEGER: {
        struct number w;
        if (UNLIKELY(!written(p, n, &w) || w.places || w.exponent || w.digits >> 63))
            return 0;
        words[row] = w.negative ? -(int64_t)w.digits : (int64_t)w.digits;
        return 1;
    }
    case DOUBLE: {
        struct number w;
        if (UNLIKELY(!written(p, n, &w) || (json && w.negative && !w.digits)))
            return 0;
        return nearest(&w, (double *)c->values + row);
    }
    case DECIMAL: {
        unsigned __int128 value;
        if (UNLIKELY(!decimal(p, n, c->precision, c->scale, &value)))
            return 0;
        memcpy(c->values + 16 * row, &value, 16);
        return 1;
    }
    case DATE: {
        int64_t days;
        if (UNLIKELY(n != 10 || !day(p, &days)))
            return 0;
        ((int32_t *)c->values)[row] = (int32_t)days;
        return 1;
    }
    case TIME: return clock_time(p, n, words + row) == n;
    default: return timestamp(p, n, c->kind == TIMESTAMP_TZ, words + row);
    }
}

static inline int hex(const uint8_t *p)
{
    int value = 0;
    for (int i = 0; i < 4; i++)
        value = value * 16 + (digit(p[i]) ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    return value;
}

static inline uint8_t *utf8(uint8_t *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (uint8_t)code;
    } else if (code < 0x800) {
        *out++ = (uint8_t)(0xC0 | code >> 6);
        *out++ = (uint8_t)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *out++ = (uint8_t)(0xE0 | code >> 12);
        *out++ = (uint8_t)(0x80 | (code >> 6 & 63));
        *out++ = (uint8_t)(0x80 | (code & 63));
    } else {
        *out++ = (uint8_t)(0xF0 | code >> 18);
        *out++ = (uint8_t)(0x80 | (code >> 12 & 63));
        *out++ = (uint8_t)(0x80 | (code >> 6 & 63));
        *out++ = (uint8_t)(0x80 | (code & 63));
    }
    return out;
}

/* The characters of a text without its quotes; 0 for half a surrogate pair. */
static uint8_t *plain(const uint8_t *p, int64_t n, uint8_t *out)
{
    const uint8_t *end = p + n;
    while (p < end) {
        const uint8_t *stop = memchr(p, '\\', (size_t)(end - p));
        int64_t run = (stop ? stop : end) - p;
        memcpy(out, p, (size_t)run);
        out += run;
        p += run;
        if (!stop)
            break;
        uint32_t code;
        switch (p[1]) {
        case 'b': *out++ = '\b'; break;
        case 'f': *out++ = '\f'; break;
        case 'n': *out++ = '\n'; break;
        case 'r': *out++ = '\r'; break;
        case 't': *out++ = '\t'; break;
        case 'u':
            code = (uint32_t)hex(p + 2);
            if (code >= 0xD800 && code < 0xE000) {
                if (code >= 0xDC00 || end - p < 12 || p[6] != '\\' || p[7] != 'u')
                    return 0;
                uint32_t low = (uint32_t)hex(p + 8);
                if (low < 0xDC00 || low > 0xDFFF)
                    return 0;
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                p += 6;
            }
            out = utf8(out, code);
            p += 4;
            break;
        default: *out++ = p[1];
        }
        p += 2;
    }
    return out;
}

/* A number as Python would write the Decimal or int it is; 0 if that could be otherwise than it stands here. */
static int stands(const uint8_t *p, int64_t n)
{
    const uint8_t *end = p + n;
    for (const uint8_t *e = p; e < end; e++)
        if ((*e | 32) == 'e')
            return 1;
    p += *p == '-';
    if (*p != '0')
        return n < 1000;
    if (end - p == 1)
        return n == 1;
    int64_t zeros = 0;
    while (p + 2 + zeros < end && p[2 + zeros] == '0')
        zeros++;
    return zeros < (p + 2 + zeros < end ? 6 : 7);
}

/* JSON as it is written here: a space behind each comma and colon, texts with no more escapes than needed. */
static uint8_t *rendered(const uint8_t *p, int64_t n, uint8_t *out)
{
    const uint8_t *end = p + n;
    while (p < end) {
        switch (*p) {
        case ' ': case '\t': case '\r':
            p++;
            break;
        case ',': case ':':
            *out++ = *p++;
            *out++ = ' ';
            break;
        case '"': {
            const uint8_t *start = p++;
            while (*p != '"') {
                if (*p == '\\') {
                    p++;
                    if (*p == '/' || *p == 'u')
                        return 0;
                }
                p++;
            }
            p++;
            memcpy(out, start, (size_t)(p - start));
            out += p - start;
            break;
        }
        default:
            if (*p == '-' || digit(*p)) {
                const uint8_t *start = p;
                while (p < end && (*p == '-' || *p == '+' || *p == '.' || (*p | 32) == 'e' || digit(*p)))
                    p++;
                if (!stands(start, p - start))
                    return 0;
                memcpy(out, start, (size_t)(p - start));
                out += p - start;
            } else {
                *out++ = *p++;
            }
        }
    }
    return out;
}

/* Behind what was written of a text; 0 if it is refused. */
static inline uint8_t *text(const struct column *c, int quoted, const uint8_t *p, int64_t n, uint8_t *out)
{
    if (!c->quote) {
        if (quoted)
            return memchr(p, '\\', (size_t)n) ? plain(p, n, out) : (memcpy(out, p, (size_t)n), out + n);
        if (*p == '[')
            return rendered(p, n, out);
        if (*p == '{') {
            memcpy(out, "{}", 2);
            return out + 2;
        }
        if ((*p == '-' || digit(*p)) && !stands(p, n))
            return 0;
    } else if (quoted && memchr(p, c->quote, (size_t)n)) {
        for (const uint8_t *end = p + n; p < end; p++) {
            *out++ = *p;
            p += *p == c->quote;
        }
        return out;
    }
    memcpy(out, p, (size_t)n);
    return out + n;
}

/* How many bytes the texts of a column take at most. */
EXPORT void headrace_room(const uint8_t *data, const struct cell *cells, int64_t rows, int64_t stride,
                          int64_t *room)
{
    int64_t size = 0;
    for (int64_t row = 0; row < rows; row++, cells += stride) {
        int64_t n = cells->end - cells->start;
        size += n && data[cells->start] == '[' ? 2 * n : n;
    }
    *room = size;
}

/* Turns a column into values. Those refused are null: `bad` counts them and `refused`, if given, gets a 1 for
   the row; without it the first one ends the work. */
EXPORT void headrace_column(const uint8_t *data, const struct cell *cells, int64_t rows, int64_t stride,
                            struct column *column, uint8_t *refused)
{
    struct column c = *column;
    const int json = !c.quote, is_text = c.kind == TEXT;
    const int quote = json ? '"' : c.quote;
    int32_t *offsets = (int32_t *)c.values;
    uint8_t *out = c.bytes;
    c.nulls = c.bad = 0;
    memset(c.valid, 255, (size_t)(rows + 7) / 8);
    if (is_text)
        offsets[0] = 0;
    else if (c.kind == BOOL)
        memset(c.values, 0, (size_t)(rows + 7) / 8);
    for (int64_t row = 0; row < rows; row++, cells += stride) {
        const uint8_t *p = data + cells->start;
        int64_t n = cells->end - cells->start;
        int quoted = n && *p == quote, here = n > 0, bad = 0;
        if (quoted) {
            p++;
            n -= 2;
        } else if (c.words && here && is_null_word(&c, p, n)) {
            here = 0;
        }
        if (here && is_text) {
            uint8_t *behind = text(&c, quoted, p, n, out);
            bad = !behind;
            out = behind ? behind : out;
        } else if (here) {
            here = n > 0 || (json && c.kind < DATE);
            bad = here && !fixed(&c, json, quoted, p, n, row);
        }
        if (UNLIKELY(bad)) {
            c.bad++;
            if (!refused)
                break;
            refused[row] = 1;
            here = 0;
        }
        if (!here) {
            c.valid[row >> 3] &= (uint8_t)~(1u << (row & 7));
            c.nulls++;
            if (!is_text) {
                if (c.kind == DECIMAL)
                    memset(c.values + 16 * row, 0, 16);
                else if (c.kind == DATE)
                    ((int32_t *)c.values)[row] = 0;
                else if (c.kind != BOOL)
                    ((int64_t *)c.values)[row] = 0;
            }
        }
        if (is_text)
            offsets[row + 1] = (int32_t)(out - c.bytes);
    }
    c.size = out - c.bytes;
    *column = c;
}

/* Lines of text: finds the cells of csv and of json lines, and turns a column of cells into Arrow's buffers.

   A cell is where its text lies in the block, quotes included; one without bytes is null. What is not
   plainly right is refused, never guessed at: the caller then asks the careful readers in Python. Nothing
   is kept between calls. The structs are declared a second time in connector/files/cells.py. */

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define UNLIKELY(x) __builtin_expect(!!(x), 0)

struct cell { uint32_t start, end; };

/* ---- csv ---- */

struct extent {
    int64_t records; /* that have the right number of fields */
    int64_t end;     /* behind the last whole record */
    int64_t lines;   /* newlines up to there */
    int64_t wrong;   /* records with another number of fields */
    int32_t odd;     /* quotes out of place, a NUL, or a return without its newline */
    int32_t ascii;
};

struct misfit { int64_t record, start, end, fields; }; /* `record` is its place among all that are not blank */

struct masks { uint64_t delimiter, quote, newline, ret, nul, high; };

static inline struct masks look(const uint8_t *p, uint8_t delimiter, uint8_t quote)
{
    struct masks m = {0, 0, 0, 0, 0, 0};
#ifdef __SSE2__
    const __m128i d = _mm_set1_epi8((char)delimiter), q = _mm_set1_epi8((char)quote);
    const __m128i n = _mm_set1_epi8('\n'), r = _mm_set1_epi8('\r'), z = _mm_setzero_si128();
    for (int i = 0; i < 4; i++) {
        __m128i v = _mm_loadu_si128((const __m128i *)(p + 16 * i));
        m.delimiter |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, d)) << 16 * i;
        m.quote |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, q)) << 16 * i;
        m.newline |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, n)) << 16 * i;
        m.ret |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, r)) << 16 * i;
        m.nul |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, z)) << 16 * i;
        m.high |= (uint64_t)(uint32_t)_mm_movemask_epi8(v) << 16 * i;
    }
#else
    for (int i = 0; i < 64; i++) {
        m.delimiter |= (uint64_t)(p[i] == delimiter) << i;
        m.quote |= (uint64_t)(p[i] == quote) << i;
        m.newline |= (uint64_t)(p[i] == '\n') << i;
        m.ret |= (uint64_t)(p[i] == '\r') << i;
        m.nul |= (uint64_t)(p[i] == 0) << i;
        m.high |= (uint64_t)(p[i] >> 7) << i;
    }
#endif
    return m;
}

/* Finds whole records. `last` says that the data end here. With `cells`, of room for `room` cells, it writes
   them for the records that have `fields` fields, and the others into `wrong`, as many as there is room for. */
EXPORT int32_t headrace_csv(const uint8_t *data, int64_t size, int32_t delimiter, int32_t quote, int32_t last,
                            int32_t fields, struct cell *cells, int64_t room, struct misfit *wrong,
                            int64_t wrong_room, struct extent *found)
{
    uint64_t inside = 0;               /* all ones within quotes */
    uint64_t fine = 1, closed = 0, ret = 0; /* of the byte before */
    int64_t start = 0, at = 0, records = 0, seen = 0, lines = 0;
    int64_t record = 0, field = 0, odd = 0;
    uint64_t high = 0;
    struct cell *out = cells;
    memset(found, 0, sizeof *found);
    for (int64_t base = 0; base <= size; base += 64) { /* one round more than needed ends the last record */
        struct masks m;
        int64_t left = size - base;
        if (left >= 64) {
            m = look(data + base, (uint8_t)delimiter, (uint8_t)quote);
        } else {
            uint8_t tail[64];
            memset(tail, ' ', 64);
            if (left)
                memcpy(tail, data + base, (size_t)left);
            m = look(tail, (uint8_t)delimiter, (uint8_t)quote);
            uint64_t there = ((uint64_t)1 << left) - 1;
            m.delimiter &= there;
            m.quote &= there;
        }
        uint64_t within = m.quote;
        if (m.quote | inside) {
            for (int shift = 1; shift < 64; shift *= 2)
                within ^= within << shift;
            within ^= inside;
            inside = (uint64_t)((int64_t)within >> 63);
        }
        uint64_t good = m.delimiter | m.quote | m.newline | m.ret;
        uint64_t closing = m.quote & ~within;
        uint64_t there = left >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << left) - 1;
        odd |= (m.quote & within & ~(good << 1 | fine)) != 0;
        odd |= (((closing << 1 | closed) & ~good) & there) != 0;
        odd |= (((m.ret << 1 | ret) & ~m.newline) & there) != 0 || m.nul != 0;
        fine = good >> 63;
        closed = closing >> 63;
        if (left >= 64)
            ret = m.ret >> 63;
        else if (left > 0)
            ret = m.ret >> (left - 1) & 1;
        high |= m.high;
        uint64_t ends = m.newline & ~within;
        if (!cells) {
            if (ends) {
                int top = 63 - __builtin_clzll(ends);
                at = base + top + 1;
                found->lines = lines + __builtin_popcountll(m.newline & (~(uint64_t)0 >> (63 - top)));
            }
            lines += __builtin_popcountll(m.newline);
            continue;
        }
        uint64_t marks = ends | (m.delimiter & ~within);
        int end_here = last && left < 64;
        while (marks || end_here) {
            int64_t p;
            int newline = 1;
            if (marks) {
                int bit = __builtin_ctzll(marks);
                p = base + bit;
                newline = (int)(ends >> bit & 1);
                marks &= marks - 1;
            } else {
                end_here = 0;
                p = size;
                if (start == size && field == 0)
                    break;
            }
            int64_t end = newline && p > start && data[p - 1] == '\r' ? p - 1 : p;
            if (field < fields) {
                if (UNLIKELY(out - cells >= room))
                    return 1;
                out->start = (uint32_t)start;
                out->end = (uint32_t)end;
                out++;
            }
            field++;
            start = p + 1;
            if (!newline)
                continue;
            if (UNLIKELY(field != fields || (field == 1 && end == record))) {
                out -= field < fields ? field : fields;
                if (field > 1 || end > record) {
                    if (found->wrong < wrong_room) {
                        struct misfit *w = wrong + found->wrong;
                        w->record = seen, w->start = record, w->end = end, w->fields = field;
                    }
                    found->wrong++;
                    seen++;
                }
            } else {
                records++;
                seen++;
            }
            field = 0;
            record = at = start;
        }
    }
    found->records = records;
    found->end = last ? size : at;
    found->odd = odd != 0 || (last && (inside || ret));
    found->ascii = high == 0;
    return 0;
}

/* ---- json lines ---- */

struct member {
    int64_t key;    /* where its name begins in the text of all names */
    int32_t size;   /* of the name */
    int32_t column; /* -1 for none */
    int32_t first, next; /* the members of an object; 0 ends a list */
    int32_t guess;  /* which of them came after the last one that was seen */
    int32_t seen;   /* in which row */
};

struct lines {
    const uint8_t *data;
    struct member *members; /* the first is the row itself */
    const uint8_t *names;
    struct cell *cells;
    int32_t columns;
    int32_t ascii_only;
    int32_t row;
};

enum { TAKEN, REFUSED, UNKNOWN };
enum { DEPTH = 10, NESTED = 32, KEYS = 24 };

static inline const uint8_t *space(const uint8_t *p, const uint8_t *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
        p++;
    return p;
}

/* Behind the closing quote of the text that begins at p, its opening quote; 0 if there is something wrong. */
static inline const uint8_t *json_text(const uint8_t *p, const uint8_t *end, int ascii_only, int *escaped)
{
    uint8_t high = 0;
    p++;
    for (;;) {
#ifdef __SSE2__
        while (end - p >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            __m128i stop = _mm_or_si128(
                _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'))),
                _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(31)), v));
            int found = _mm_movemask_epi8(stop), top = _mm_movemask_epi8(v);
            if (found) {
                int bit = __builtin_ctz((unsigned)found);
                high |= (top & ((1 << bit) - 1)) != 0;
                p += bit;
                break;
            }
            high |= top != 0;
            p += 16;
        }
#endif
        while (p < end && *p != '"' && *p != '\\' && *p >= 32)
            high |= *p++ >> 7;
        if (UNLIKELY(p >= end || *p < 32))
            return 0;
        if (*p == '"')
            return UNLIKELY(high && ascii_only) ? 0 : p + 1;
        *escaped = 1;
        if (UNLIKELY(end - p < 2))
            return 0;
        switch (p[1]) {
        case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
            p += 2;
            break;
        case 'u':
            if (end - p < 6)
                return 0;
            for (int i = 2; i < 6; i++)
                if (!((p[i] >= '0' && p[i] <= '9') || ((p[i] | 32) >= 'a' && (p[i] | 32) <= 'f')))
                    return 0;
            p += 6;
            break;
        default:
            return 0;
        }
    }
}

static inline int digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }

static inline const uint8_t *json_number(const uint8_t *p, const uint8_t *end)
{
    if (p < end && *p == '-')
        p++;
    if (p >= end || !digit(*p))
        return 0;
    if (*p == '0')
        p++;
    else
        while (p < end && digit(*p))
            p++;
    if (p < end && *p == '.') {
        p++;
        if (p >= end || !digit(*p))
            return 0;
        while (p < end && digit(*p))
            p++;
    }
    if (p < end && (*p | 32) == 'e') {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        if (p >= end || !digit(*p))
            return 0;
        while (p < end && digit(*p))
            p++;
    }
    return p;
}

static inline const uint8_t *word(const uint8_t *p, const uint8_t *end, const char *text, int size)
{
    return end - p >= size && memcmp(p, text, (size_t)size) == 0 ? p + size : 0;
}

/* Behind any value; 0 if it is none, is nested deep, or repeats a name. */
static const uint8_t *json_value(const uint8_t *p, const uint8_t *end, int ascii_only, int depth)
{
    int escaped = 0;
    if (UNLIKELY(p >= end || depth > NESTED))
        return 0;
    switch (*p) {
    case '"': return json_text(p, end, ascii_only, &escaped);
    case 't': return word(p, end, "true", 4);
    case 'f': return word(p, end, "false", 5);
    case 'n': return word(p, end, "null", 4);
    case '[': {
        p = space(p + 1, end);
        if (p < end && *p == ']')
            return p + 1;
        for (;;) {
            p = json_value(p, end, ascii_only, depth + 1);
            if (!p || (p = space(p, end)) >= end)
                return 0;
            if (*p == ']')
                return p + 1;
            if (*p != ',')
                return 0;
            p = space(p + 1, end);
        }
    }
    case '{': {
        struct { const uint8_t *p; int64_t size; } keys[KEYS];
        int count = 0;
        p = space(p + 1, end);
        if (p < end && *p == '}')
            return p + 1;
        for (;;) {
            if (p >= end || *p != '"' || count == KEYS)
                return 0;
            const uint8_t *key = p;
            p = json_text(p, end, ascii_only, &escaped);
            if (!p || escaped)
                return 0;
            for (int i = 0; i < count; i++)
                if (keys[i].size == p - key && memcmp(keys[i].p, key, (size_t)(p - key)) == 0)
                    return 0;
            keys[count].p = key;
            keys[count++].size = p - key;
            p = space(p, end);
            if (p >= end || *p != ':')
                return 0;
            p = json_value(space(p + 1, end), end, ascii_only, depth + 1);
            if (!p || (p = space(p, end)) >= end)
                return 0;
            if (*p == '}')
                return p + 1;
            if (*p != ',')
                return 0;
            p = space(p + 1, end);
        }
    }
    default: return json_number(p, end);
    }
}

/* Behind the object at p, with its values in the cells of the row. */
static const uint8_t *json_object(struct lines *l, int32_t at, const uint8_t *p, const uint8_t *end, int depth,
                                  int *why)
{
    struct member *members = l->members, *self = members + at;
    struct cell *cells = l->cells + (int64_t)l->row * l->columns;
    *why = REFUSED;
    self->guess = self->first;
    p = space(p + 1, end);
    if (p < end && *p == '}')
        return p + 1;
    for (;;) {
        if (UNLIKELY(p >= end || *p != '"'))
            return 0;
        const uint8_t *key = p + 1;
        int escaped = 0;
        p = json_text(p, end, l->ascii_only, &escaped);
        if (UNLIKELY(!p || escaped))
            return 0;
        int64_t size = p - 1 - key;
        int32_t m = self->guess;
        if (UNLIKELY(!m || members[m].size != size || memcmp(l->names + members[m].key, key, (size_t)size))) {
            for (m = self->first; m; m = members[m].next)
                if (members[m].size == size && !memcmp(l->names + members[m].key, key, (size_t)size))
                    break;
            if (!m) {
                *why = UNKNOWN;
                return 0;
            }
        }
        self->guess = members[m].next;
        if (UNLIKELY(members[m].seen == l->row + 1))
            return 0;
        members[m].seen = l->row + 1;
        p = space(p, end);
        if (UNLIKELY(p >= end || *p != ':'))
            return 0;
        p = space(p + 1, end);
        if (UNLIKELY(p >= end))
            return 0;
        const uint8_t *value = p;
        if (*p == '{') {
            const uint8_t *inner = space(p + 1, end);
            if (inner < end && *inner != '}') {
                if (depth >= DEPTH)
                    return 0;
                p = json_object(l, m, p, end, depth + 1, why);
                if (UNLIKELY(!p))
                    return 0;
                *why = REFUSED;
                value = 0;
            } else if (inner < end) {
                p = inner + 1;
            }
        } else {
            p = json_value(p, end, l->ascii_only, 1);
        }
        if (UNLIKELY(!p))
            return 0;
        int32_t c = members[m].column;
        if (value && c >= 0) {
            if (UNLIKELY(cells[c].start))
                return 0;
            cells[c].start = (uint32_t)(value - l->data);
            cells[c].end = *value == 'n' ? cells[c].start : (uint32_t)(p - l->data);
        }
        p = space(p, end);
        if (UNLIKELY(p >= end))
            return 0;
        if (*p == '}')
            return p + 1;
        if (UNLIKELY(*p != ','))
            return 0;
        p = space(p + 1, end);
    }
}

/* Finds the cells of the lines from `at` on, for as many rows as there is room. `starts` gets where the line of
   each row begins, `refused` a 1 for those to be read otherwise. It stops before a line of the kind in `stop`,
   UNKNOWN for a member that is not known or REFUSED for any that is refused, and says which by `stopped`. */
struct progress { int64_t at, rows; int32_t stopped; };

EXPORT void headrace_json(const uint8_t *data, int64_t size, struct member *members, const uint8_t *names,
                          int32_t count, int32_t columns, int32_t ascii_only, int32_t stop, int64_t room,
                          struct cell *cells, int64_t *starts, uint8_t *refused, struct progress *progress)
{
    struct lines l = {data, members, names, cells, columns, ascii_only, 0};
    int64_t at = progress->at;
    progress->stopped = TAKEN;
    while (at < size && l.row < room) {
        const uint8_t *newline = memchr(data + at, '\n', (size_t)(size - at));
        const uint8_t *end = newline ? newline : data + size;
        const uint8_t *p = space(data + at, end);
        if (p < end) {
            int why = REFUSED;
            struct cell *row = cells + (int64_t)l.row * columns;
            memset(row, 0, (size_t)columns * sizeof *row);
            const uint8_t *behind = *p == '{' ? json_object(&l, 0, p, end, 1, &why) : 0;
            int bad = !behind || space(behind, end) != end;
            if (UNLIKELY(bad)) {
                memset(row, 0, (size_t)columns * sizeof *row);
                why = behind || *p != '{' ? REFUSED : why;
                if (stop == REFUSED || (stop == UNKNOWN && why == UNKNOWN)) {
                    for (int32_t m = 0; m < count; m++)
                        members[m].seen = 0;
                    progress->stopped = why;
                    break;
                }
            }
            starts[l.row] = at;
            refused[l.row] = (uint8_t)bad;
            l.row++;
        }
        at = end - data + 1;
    }
    progress->at = at;
    progress->rows = l.row;
}

/* ---- a column of cells ---- */

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

static const uint64_t POWERS[20] = {
    1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u, 10000000000u,
    100000000000u, 1000000000000u, 10000000000000u, 100000000000000u, 1000000000000000u,
    10000000000000000u, 100000000000000000u, 1000000000000000000u, 10000000000000000000u,
};

struct number { uint64_t digits; int32_t whole, places, exponent; int negative, zero; };

/* A number of at most 19 digits without needless zeros in front; what is longer is left to others. */
static inline int written(const uint8_t *p, int64_t n, struct number *out)
{
    const uint8_t *end = p + n, *first;
    uint64_t sum = 0;
    out->negative = p < end && *p == '-';
    p += out->negative;
    first = p;
    while (p < end && digit(*p))
        sum = sum * 10 + (uint8_t)(*p++ - '0');
    out->whole = (int32_t)(p - first);
    out->zero = out->whole == 1 && *first == '0';
    if (UNLIKELY(out->whole == 0 || (*first == '0' && out->whole > 1)))
        return 0;
    out->places = out->exponent = 0;
    if (p < end && *p == '.') {
        first = ++p;
        while (p < end && digit(*p))
            sum = sum * 10 + (uint8_t)(*p++ - '0');
        out->places = (int32_t)(p - first);
        if (UNLIKELY(out->places == 0))
            return 0;
    }
    if (UNLIKELY(out->whole - out->zero + out->places > 19))
        return 0;
    if (UNLIKELY(p < end)) {
        if ((*p++ | 32) != 'e' || p == end)
            return 0;
        int minus = *p == '-';
        p += minus || *p == '+';
        if (p == end || end - p > 3)
            return 0;
        int32_t power = 0;
        while (p < end) {
            if (!digit(*p))
                return 0;
            power = power * 10 + (*p++ - '0');
        }
        out->exponent = minus ? -power : power;
        if (out->exponent == 0)
            out->exponent = 1000; /* it is written with one: no integer and no decimal */
    }
    out->digits = sum;
    return 1;
}

/* The nearest double, or 0 where that takes more than a division of 128 bits. */
static inline int nearest(const struct number *w, double *out)
{
    static const double TENS[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    int32_t power = (w->exponent == 1000 ? 0 : w->exponent) - w->places;
    double value;
    if (w->digits == 0) {
        value = 0;
    } else if (w->digits >> 53 == 0 && power >= -22 && power <= 22) {
        value = power < 0 ? (double)w->digits / TENS[-power] : (double)w->digits * TENS[power];
    } else if (power == 0) {
        value = (double)w->digits;
    } else if (power < 0 && power >= -27) {
        uint64_t divisor = 1;
        for (int32_t i = 0; i < -power; i++)
            divisor *= 5; /* the twos of the ten go into the exponent */
        int up = __builtin_clzll(w->digits), wide = __builtin_clzll(divisor);
        uint64_t top = w->digits << up, low = divisor << wide;
        int half = top >= low; /* keeps the quotient within 64 bits */
        unsigned __int128 whole = (unsigned __int128)top << (64 - half);
        uint64_t quotient = (uint64_t)(whole / low), rest = (uint64_t)(whole % low);
        /* quotient has its top bit set: value = quotient * 2^(wide - up - 64 + half + power) */
        uint64_t mantissa = quotient >> 11, below = quotient & 2047;
        if (below > 1024 || (below == 1024 && (rest || (mantissa & 1))))
            mantissa++; /* 2^53 carries into the exponent by itself */
        int32_t exponent = wide - up - 64 + half + power + 11 + 52;
        uint64_t bits = ((uint64_t)(exponent + 1023) << 52) + (mantissa - ((uint64_t)1 << 52));
        memcpy(&value, &bits, 8);
    } else {
        return 0;
    }
    *out = w->negative ? -value : value;
    return 1;
}

/* value = digits times ten to the missing places, for any number of digits up to the precision */
static inline int decimal(const uint8_t *p, int64_t n, const struct column *c, unsigned __int128 *out)
{
    const uint8_t *end = p + n, *first;
    int negative = p < end && *p == '-';
    p += negative;
    first = p;
    while (p < end && digit(*p))
        p++;
    int64_t whole = p - first, places = 0;
    if (UNLIKELY(whole == 0 || (*first == '0' && whole > 1)))
        return 0;
    const uint8_t *point = p;
    if (p < end && *p == '.') {
        p++;
        while (p < end && digit(*p))
            p++;
        places = p - point - 1;
        if (UNLIKELY(places == 0))
            return 0;
    }
    if (UNLIKELY(p != end || places > c->scale))
        return 0;
    if (UNLIKELY(whole > c->precision - c->scale))
        return 0;
    unsigned __int128 sum = 0;
    if (whole + places <= 19) {
        uint64_t small = 0;
        for (p = first; p < point; p++)
            small = small * 10 + (uint8_t)(*p - '0');
        for (p = point + 1; p < end; p++)
            small = small * 10 + (uint8_t)(*p - '0');
        sum = small;
    } else {
        for (p = first; p < point; p++)
            sum = sum * 10 + (uint8_t)(*p - '0');
        for (p = point + 1; p < end; p++)
            sum = sum * 10 + (uint8_t)(*p - '0');
    }
    for (int64_t left = c->scale - places; left > 0; left -= 19)
        sum *= POWERS[left < 19 ? left : 19];
    *out = negative ? -sum : sum;
    return 1;
}

static inline int two(const uint8_t *p) { return digit(p[0]) && digit(p[1]) ? (p[0] - '0') * 10 + p[1] - '0' : 99; }

static inline int day(const uint8_t *p, int64_t *out)
{
    static const uint8_t DAYS[13] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int century = two(p), rest = two(p + 2), month = two(p + 5), dom = two(p + 8);
    int64_t year = century * 100 + rest;
    if (UNLIKELY(century == 99 && !(p[0] == '9' && p[1] == '9')))
        return 0;
    if (UNLIKELY(rest == 99 && !(p[2] == '9' && p[3] == '9')))
        return 0;
    if (UNLIKELY(p[4] != '-' || p[7] != '-' || year < 1 || month < 1 || month > 12 || dom < 1 || dom > DAYS[month]))
        return 0;
    if (UNLIKELY(month == 2 && dom == 29 && (year % 4 || (year % 100 == 0 && year % 400))))
        return 0;
    int64_t y = year - (month <= 2), era = y / 400, yoe = y - era * 400;
    int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + dom - 1;
    *out = era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
    return 1;
}

/* HH:MM, HH:MM:SS or with up to six digits more; how many bytes it took, 0 if it is none */
static inline int64_t clock_time(const uint8_t *p, int64_t n, int64_t *out)
{
    if (UNLIKELY(n < 5 || p[2] != ':'))
        return 0;
    int hour = two(p), minute = two(p + 3), second = 0;
    int64_t took = 5, micros = 0;
    if (n >= 8 && p[5] == ':') {
        second = two(p + 6);
        took = 8;
        if (n > 9 && p[8] == '.' && digit(p[9])) {
            int64_t places = 0;
            for (took = 9; took < n && digit(p[took]); took++, places++)
                micros = places < 7 ? micros * 10 + (p[took] - '0') : micros;
            if (places > 6)
                return 0;
            micros *= (int64_t)POWERS[6 - places];
        }
    }
    if (UNLIKELY(hour > 23 || minute > 59 || second > 59))
        return 0;
    *out = ((int64_t)hour * 3600 + minute * 60 + second) * 1000000 + micros;
    return took;
}

static inline int timestamp(const uint8_t *p, int64_t n, int zone, int64_t *out)
{
    int64_t days, micros;
    if (UNLIKELY(n < 16 || !day(p, &days) || (p[10] != ' ' && p[10] != 'T')))
        return 0;
    int64_t took = clock_time(p + 11, n - 11, &micros), shift = 0;
    if (UNLIKELY(!took))
        return 0;
    p += 11 + took;
    n -= 11 + took;
    if (zone) {
        if (n == 1 && *p == 'Z') {
            n = 0;
        } else if (n >= 3 && (*p == '+' || *p == '-')) {
            int hours = two(p + 1), minutes = n == 3 ? 0 : n == 5 ? two(p + 3) : n == 6 && p[3] == ':' ? two(p + 4) : 99;
            if (hours > 23 || minutes > 59)
                return 0;
            shift = (*p == '-' ? 1 : -1) * ((int64_t)hours * 3600 + minutes * 60) * 1000000;
            n = 0;
        } else {
            return 0;
        }
    }
    *out = days * 86400000000 + micros + shift;
    return n == 0 && *out >= -719162 * 86400000000;
}

static inline int boolean(const uint8_t *p, int64_t n)
{
    static const char *const WORDS[6] = {"f", "t", "no", "yes", "false", "true"};
    static const int64_t SIZES[6] = {1, 1, 2, 3, 5, 4};
    for (int w = 0; w < 6; w++) {
        if (SIZES[w] != n)
            continue;
        int64_t i = 0;
        while (i < n && (p[i] | 32) == (uint8_t)WORDS[w][i])
            i++;
        if (i == n)
            return w & 1;
    }
    return -1;
}

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
        if (UNLIKELY(!decimal(p, n, c, &value)))
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

/* What kinds of values are in a column of json. */
struct kinds { int32_t seen, scale; };

enum { SEEN_BOOL = 1, SEEN_INTEGER = 2, SEEN_DECIMAL = 4, SEEN_DOUBLE = 8, SEEN_TEXT = 16 };

EXPORT void headrace_kinds(const uint8_t *data, const struct cell *cells, int64_t rows, int64_t stride,
                           struct kinds *kinds)
{
    for (int64_t row = 0; row < rows; row++, cells += stride) {
        const uint8_t *p = data + cells->start, *end = data + cells->end, *first;
        if (p == end)
            continue;
        if (*p == 't' || *p == 'f') {
            kinds->seen |= SEEN_BOOL;
        } else if (*p != '-' && !digit(*p)) {
            kinds->seen |= SEEN_TEXT;
        } else {
            p += *p == '-';
            first = p;
            uint64_t sum = 0;
            while (p < end && digit(*p))
                sum = sum * 10 + (uint8_t)(*p++ - '0');
            int64_t whole = p - first, places = p < end && *p == '.' ? 0 : -1;
            if (places == 0)
                for (p++; p < end && digit(*p); p++)
                    places++;
            if (p < end) {
                kinds->seen |= SEEN_DOUBLE;
            } else if (places < 0 && (whole < 19 || (whole == 19 && sum >> 63 == 0))) {
                kinds->seen |= SEEN_INTEGER;
            } else if (places < 0 && whole == 19 && first[-1] == '-' && sum == (uint64_t)1 << 63) {
                kinds->seen |= SEEN_INTEGER;
            } else {
                places = places < 0 ? 0 : places;
                kinds->seen |= whole + places > 38 ? SEEN_TEXT : SEEN_DECIMAL;
                if (places > kinds->scale && whole + places <= 38)
                    kinds->scale = (int32_t)places;
            }
        }
    }
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

/* Finds the cells of json lines, by the members that are known, and what kinds of values they hold. */

#include "cells.h"

struct member {
    int64_t key;    /* where its name begins in the text of all names */
    int32_t size;   /* of the name */
    int32_t column; /* -1 for none, -2 if it had no value of its own so far */
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
        if (UNLIKELY(value && c < -1)) {
            *why = UNKNOWN;
            return 0;
        }
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

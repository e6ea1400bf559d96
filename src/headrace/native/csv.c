/* Finds the records of csv and the cells in them, 64 bytes at a time. */

#include "cells.h"

struct extent {
    int64_t records; /* that have the right number of fields */
    int64_t end;     /* behind the last whole record */
    int64_t lines;   /* newlines up to there */
    int64_t wrong;   /* records with another number of fields */
    int32_t odd;     /* quotes out of place anywhere; up to there a NUL, or a return without its newline */
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
    int64_t record = 0, field = 0;
    int odd = 0, strays = 0;
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
        uint64_t stray = (((m.ret << 1 | ret) & ~m.newline) & there) | m.nul;
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
                uint64_t before = ~(uint64_t)0 >> (63 - top);
                found->lines = lines + __builtin_popcountll(m.newline & before);
                odd |= strays || (stray & before);
            }
            strays |= stray != 0;
            lines += __builtin_popcountll(m.newline);
            continue;
        }
        strays |= stray != 0;
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
    found->odd = odd != 0 || (last && (inside || ret || strays));
    found->ascii = high == 0;
    return 0;
}

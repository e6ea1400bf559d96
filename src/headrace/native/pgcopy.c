/* Turns the rows of PostgreSQL's binary COPY into Arrow's buffers.

   The caller allocates. `headrace_measure` looks at every length in a block before anything is written
   and says how much room the columns need; `headrace_fill` may then trust the block. Neither keeps
   anything between calls. The structs are declared a second time in connectors/postgres/compiled.py. */

#include "pgformat.h"

enum { ABI = 2 };

enum kind {
    BOOL, INT2, INT4, INT8, OID, FLOAT4, FLOAT8, NUMERIC,
    DATE, TIME, TIMESTAMP, TEXT, BYTES, JSONB, UUID, LIST
};

/* Why a block is none. */
enum { GOOD, BAD_COUNT, BAD_LENGTH, BAD_WIDTH, BAD_ARRAY, BAD_VALUE };

/* Why a value can't be held. */
enum refused { NAN_VALUE, INFINITE, MINUS_INFINITE, DIGITS, MIDNIGHT, LATE, ENCODING, DIMENSIONS };

struct column {
    int32_t kind;
    int32_t width;   /* bytes that a value must have, -1 for any */
    int32_t scale;   /* of a decimal */
    int32_t words;   /* 64-bit words of a decimal */
    uint64_t limit[4]; /* 10 to the power of the precision of a decimal */
    struct column *element;
    uint8_t *valid;  /* bits */
    uint8_t *values; /* of fixed width; or offsets, with the bytes in `bytes` */
    uint8_t *bytes;
    int64_t count;   /* values: measured for elements of lists, set by the caller for columns */
    int64_t size;    /* measured: bytes of all texts */
    int64_t nulls;
    int64_t done;    /* elements or bytes written so far */
};

struct extent {
    int64_t rows, end; /* whole rows, and the byte behind the last */
    int32_t ended;     /* the end mark, of two bytes, is there */
    int32_t column;    /* where an error is */
};

struct refusal {
    int64_t row;
    int64_t at, length; /* where the value lies in the block */
    int32_t column;
    int32_t reason;
};

struct refusals {
    struct refusal *list;
    int64_t room, count; /* `count` goes on when the room is used up */
};

static inline uint16_t be16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
static inline uint32_t be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
static inline uint64_t be64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }

EXPORT int32_t headrace_abi(void) { return ABI; }

/* ---- measure ---- */

static const int32_t LONGEST = 0x3fffffff; /* what a server allocates for a value at most */

static int account(struct column *column, const uint8_t *p, int32_t length, int sign);

static int account_list(struct column *column, const uint8_t *p, int32_t length, int sign)
{
    struct column *element = column->element;
    if (length < 12)
        return BAD_ARRAY;
    int32_t dimensions = (int32_t)be32(p);
    if (dimensions < 0 || (dimensions == 0 && length != 12))
        return BAD_ARRAY;
    if (dimensions != 1)
        return GOOD;
    if (length < 20)
        return BAD_ARRAY;
    int32_t count = (int32_t)be32(p + 12);
    const uint8_t *at = p + 20, *end = p + length;
    if (count < 0)
        return BAD_ARRAY;
    for (int32_t i = 0; i < count; i++) {
        if (end - at < 4)
            return BAD_ARRAY;
        int32_t size = (int32_t)be32(at);
        at += 4;
        if (size == -1)
            continue;
        if (size < 0 || size > end - at)
            return BAD_ARRAY;
        if (element->width >= 0 ? size != element->width : account(element, at, size, sign))
            return BAD_WIDTH;
        at += size;
    }
    if (at != end)
        return BAD_ARRAY;
    element->count += sign * (int64_t)count;
    return GOOD;
}

/* Check a value of variable length, and add it to what its column needs, or take it off again. */
static int account(struct column *column, const uint8_t *p, int32_t length, int sign)
{
    switch (column->kind) {
    case TEXT:
    case BYTES:
        column->size += sign * (int64_t)length;
        return GOOD;
    case JSONB:
        if (length < 1)
            return BAD_WIDTH;
        column->size += sign * (int64_t)(length - 1);
        return GOOD;
    case NUMERIC:
        return length < 8 || 8 + 2 * (int32_t)be16(p) != length ? BAD_VALUE : GOOD;
    default:
        return account_list(column, p, length, sign);
    }
}

/* Find the whole rows at the beginning of a block, at most `most`, and what their columns need. */
EXPORT int32_t headrace_measure(const uint8_t *data, int64_t size, struct column *columns, int32_t fields,
                                int64_t *starts, int64_t most, struct extent *found)
{
    int64_t at = 0, rows = 0;
    found->ended = 0;
    for (int32_t c = 0; c < fields; c++) {
        columns[c].size = 0;
        if (columns[c].element)
            columns[c].element->size = columns[c].element->count = 0;
    }
    while (rows < most && size - at >= 2) {
        const uint8_t *p = data + at, *end = data + size;
        int16_t count = (int16_t)be16(p);
        if (count == -1) {
            found->ended = 1;
            break;
        }
        if (count != fields)
            return BAD_COUNT;
        p += 2;
        int32_t c = 0;
        for (; c < fields; c++) {
            struct column *column = columns + c;
            if (UNLIKELY(end - p < 4))
                break;
            int32_t length = (int32_t)be32(p);
            if (length == -1) {
                p += 4;
                continue;
            }
            found->column = c;
            if (UNLIKELY(length < 0 || length > LONGEST))
                return BAD_LENGTH;
            if (UNLIKELY(end - p - 4 < length))
                break;
            p += 4;
            if (column->width >= 0) {
                if (UNLIKELY(length != column->width))
                    return BAD_WIDTH;
            } else if (column->kind == TEXT) {
                column->size += length;
            } else {
                int wrong = account(column, p, length, 1);
                if (UNLIKELY(wrong))
                    return wrong;
            }
            p += length;
        }
        if (c < fields) { /* the row goes on in the next block */
            p = data + at + 2;
            for (int32_t b = 0; b < c; b++) {
                int32_t length = (int32_t)be32(p);
                p += 4;
                if (length == -1)
                    continue;
                if (columns[b].width < 0)
                    account(columns + b, p, length, -1);
                p += length;
            }
            break;
        }
        starts[rows++] = at;
        at = p - data;
    }
    found->rows = rows;
    found->end = at;
    return GOOD;
}

/* ---- fill ---- */

static const int64_t LAST_DAY = 2932896, FIRST_DAY = -719162;   /* 9999-12-31, 0001-01-01 */

static inline void unset(struct column *column, int64_t row)
{
    column->valid[row >> 3] &= (uint8_t)~(1u << (row & 7));
    column->nulls++;
}

/* words = words * factor + more; what does not fit is returned. */
static inline uint64_t multiply(uint64_t *words, int32_t count, uint64_t factor, uint64_t more)
{
    for (int32_t i = 0; i < count; i++) {
        unsigned __int128 product = (unsigned __int128)words[i] * factor + more;
        words[i] = (uint64_t)product;
        more = (uint64_t)(product >> 64);
    }
    return more;
}

static inline int reaches(const uint64_t *words, const uint64_t *limit, int32_t count)
{
    for (int32_t i = count - 1; i >= 0; i--)
        if (words[i] != limit[i])
            return words[i] > limit[i];
    return 1;
}

/* Digits to base 10,000, the first of weight 10,000^weight. Gives -1, a `refused`, or -2 for what is none. */
static int decimal(const uint8_t *p, const struct column *column, uint64_t *words)
{
    int32_t count = be16(p), weight = (int16_t)be16(p + 2), sign = be16(p + 4);
    int32_t n = column->words;
    for (int32_t i = 0; i < n; i++)
        words[i] = 0;
    if (UNLIKELY(sign != 0 && sign != 0x4000)) {
        switch (sign) {
        case 0xC000: return NAN_VALUE;
        case 0xD000: return INFINITE;
        case 0xF000: return MINUS_INFINITE;
        default: return -2;
        }
    }
    if (count == 0)
        return -1;
    int32_t last = 4 * (weight - (count - 1)) + column->scale; /* the power of ten of the last digit */
    const uint8_t *digits = p + 8;
    if (4 * count + last <= 18 && last > -4 && count <= 4) {
        uint64_t sum = 0;
        for (int32_t i = 0; i < count - 1; i++) {
            uint32_t digit = be16(digits + 2 * i);
            if (UNLIKELY(digit > 9999))
                return -2;
            sum = sum * 10000 + digit;
        }
        uint32_t digit = be16(digits + 2 * (count - 1)), rest = 0;
        if (UNLIKELY(digit > 9999))
            return -2;
        switch (last) {
        case -3: rest = digit % 1000; sum = sum * 10 + digit / 1000; break;
        case -2: rest = digit % 100; sum = sum * 100 + digit / 100; break;
        case -1: rest = digit % 10; sum = sum * 1000 + digit / 10; break;
        default: sum = (sum * 10000 + digit) * POWERS[last];
        }
        words[0] = sum;
        if (UNLIKELY(rest))
            return DIGITS;
    } else {
        int beyond = 0; /* the digits that follow are looked at all the same: one may be none */
        for (int32_t i = 0; i < count; i++) {
            uint32_t digit = be16(digits + 2 * i);
            if (UNLIKELY(digit > 9999))
                return -2;
            int64_t power = last + 4 * (int64_t)(count - 1 - i);
            if (power >= 0) {
                beyond |= multiply(words, n, 10000, digit) != 0;
            } else if (power > -4) {
                uint32_t unit = (uint32_t)POWERS[-power];
                beyond |= digit % unit || multiply(words, n, POWERS[4 + power], digit / unit);
            } else {
                beyond |= digit != 0;
            }
        }
        if (UNLIKELY(beyond))
            return DIGITS;
        uint64_t some = words[0] | words[1] | (n > 2 ? words[2] | words[3] : 0);
        for (int64_t left = some ? last : 0; left > 0; left -= 18)
            if (UNLIKELY(multiply(words, n, POWERS[left < 18 ? left : 18], 0)))
                return DIGITS;
    }
    if (UNLIKELY(reaches(words, column->limit, n)))
        return DIGITS;
    if (sign) {
        uint64_t carry = 1;
        for (int32_t i = 0; i < n; i++) {
            words[i] = ~words[i] + carry;
            carry = carry && words[i] == 0;
        }
    }
    return -1;
}

static const char HEX[] = "0123456789abcdef";

static inline void uuid_text(const uint8_t *p, uint8_t *out)
{
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = (uint8_t)HEX[p[i] >> 4];
        *out++ = (uint8_t)HEX[p[i] & 15];
    }
}

static inline void put32(struct column *column, int64_t row, int32_t value) { memcpy(column->values + 4 * row, &value, 4); }
static inline void put64(struct column *column, int64_t row, int64_t value) { memcpy(column->values + 8 * row, &value, 8); }

static inline void append(struct column *column, int64_t row, const uint8_t *p, int32_t length)
{
    uint8_t *to = column->bytes + column->done;
    memcpy(to, p, (size_t)length);
    column->done += length;
    put32(column, row + 1, (int32_t)column->done);
}

static void put_null(struct column *column, int64_t row)
{
    unset(column, row);
    switch (column->kind) {
    case BOOL:
        break;
    case INT2:
        memset(column->values + 2 * row, 0, 2);
        break;
    case INT4: case FLOAT4: case DATE:
        put32(column, row, 0);
        break;
    case NUMERIC:
        memset(column->values + 8 * column->words * row, 0, 8 * (size_t)column->words);
        break;
    case TEXT: case BYTES: case JSONB: case UUID: case LIST:
        put32(column, row + 1, (int32_t)column->done);
        break;
    default:
        put64(column, row, 0);
    }
}

static int put_list(struct column *column, int64_t row, const uint8_t *p);

/* Gives -1, a `refused`, or -2 for what is no value. */
static inline int put(struct column *column, int64_t row, const uint8_t *p, int32_t length)
{
    switch (column->kind) {
    case BOOL:
        if (*p)
            column->values[row >> 3] |= (uint8_t)(1u << (row & 7));
        return -1;
    case INT2: {
        uint16_t value = be16(p);
        memcpy(column->values + 2 * row, &value, 2);
        return -1;
    }
    case INT4: case FLOAT4:
        put32(column, row, (int32_t)be32(p));
        return -1;
    case INT8: case FLOAT8:
        put64(column, row, (int64_t)be64(p));
        return -1;
    case OID:
        put64(column, row, be32(p));
        return -1;
    case DATE: {
        int32_t days = (int32_t)be32(p);
        int32_t shifted = (int32_t)((uint32_t)days + (uint32_t)EPOCH_DAYS);
        put32(column, row, days == INT32_MAX ? (int32_t)LAST_DAY : days == INT32_MIN ? (int32_t)FIRST_DAY : shifted);
        return -1;
    }
    case TIME: {
        int64_t us = (int64_t)be64(p);
        put64(column, row, us);
        if (UNLIKELY((uint64_t)us >= (uint64_t)DAY_US))
            return us == DAY_US ? MIDNIGHT : -2;
        return -1;
    }
    case TIMESTAMP: {
        int64_t us = (int64_t)be64(p), most = INT64_MAX - EPOCH_DAYS * DAY_US;
        if (UNLIKELY(us > most || us == INT64_MIN)) {
            put64(column, row, us == INT64_MAX ? (LAST_DAY + 1) * DAY_US - 1 : us < 0 ? FIRST_DAY * DAY_US : 0);
            return us > most && us != INT64_MAX ? LATE : -1;
        }
        put64(column, row, us + EPOCH_DAYS * DAY_US);
        return -1;
    }
    case NUMERIC: {
        uint64_t words[4];
        int refused = decimal(p, column, words);
        memcpy(column->values + 8 * column->words * row, words, 8 * (size_t)column->words);
        return refused;
    }
    case TEXT: case BYTES:
        append(column, row, p, length);
        return -1;
    case JSONB:
        append(column, row, p + 1, length - 1);
        return -1;
    case UUID:
        uuid_text(p, column->bytes + column->done);
        column->done += 36;
        put32(column, row + 1, (int32_t)column->done);
        return -1;
    default:
        return put_list(column, row, p);
    }
}

static int put_list(struct column *column, int64_t row, const uint8_t *p)
{
    struct column *element = column->element;
    int32_t dimensions = (int32_t)be32(p);
    int result = dimensions > 1 ? DIMENSIONS : -1;
    int32_t count = dimensions == 1 ? (int32_t)be32(p + 12) : 0;
    p += 20;
    for (int32_t i = 0; i < count; i++) {
        int32_t length = (int32_t)be32(p);
        p += 4;
        if (length == -1) {
            put_null(element, column->done++);
            continue;
        }
        int refused = put(element, column->done, p, length);
        if (UNLIKELY(refused != -1)) {
            if (refused == -2)
                return -2;
            unset(element, column->done);
            if (result == -1)
                result = refused;
        }
        column->done++;
        p += length;
    }
    put32(column, row + 1, (int32_t)column->done);
    return result;
}

static inline void note(struct refusals *refusals, struct refusal refusal)
{
    if (refusals->count < refusals->room)
        refusals->list[refusals->count] = refusal;
    refusals->count++;
}

static int ascii(const uint8_t *p, int64_t size)
{
    uint64_t all = 0;
    int64_t i = 0;
    for (; i + 32 <= size; i += 32) {
        uint64_t w[4];
        memcpy(w, p + i, 32);
        all |= w[0] | w[1] | w[2] | w[3];
    }
    for (; i < size; i++)
        all |= (uint64_t)p[i];
    return !(all & 0x8080808080808080u);
}

static int utf8(const uint8_t *p, int64_t size)
{
    int64_t i = 0;
    while (i < size) {
        uint8_t first = p[i];
        if (first < 0x80) {
            i++;
            continue;
        }
        int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
        if (first < 0xC2 || first > 0xF4 || size - i <= more)
            return 0;
        uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
        uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
        if (p[i + 1] < low || p[i + 1] > high)
            return 0;
        for (int k = 2; k <= more; k++)
            if ((p[i + k] & 0xC0) != 0x80)
                return 0;
        i += more + 1;
    }
    return 1;
}

static inline int64_t offset(const struct column *column, int64_t row)
{
    int32_t value;
    memcpy(&value, column->values + 4 * row, 4);
    return value;
}

static inline int is_set(const struct column *column, int64_t row)
{
    return column->valid[row >> 3] >> (row & 7) & 1;
}

/* Texts were taken as they came: look at those of a column all at once, and one by one if need be. */
static void check_texts(struct column *column, int32_t number, struct refusals *refusals)
{
    struct column *texts = column->kind == LIST ? column->element : column;
    if ((texts->kind != TEXT && texts->kind != JSONB) || ascii(texts->bytes, texts->done))
        return;
    int64_t row = 0;
    for (int64_t i = 0; i < texts->count; i++) {
        int64_t from = offset(texts, i);
        if (!is_set(texts, i) || utf8(texts->bytes + from, offset(texts, i + 1) - from))
            continue;
        unset(texts, i);
        if (column != texts) {
            while (offset(column, row + 1) <= i)
                row++;
            if (!is_set(column, row))
                continue;
            unset(column, row);
        } else {
            row = i;
        }
        note(refusals, (struct refusal){.row = row, .column = number, .reason = ENCODING});
    }
}

static void begin(struct column *column)
{
    int64_t bits = (column->count + 7) / 8;
    column->nulls = column->done = 0;
    memset(column->valid, 0xFF, (size_t)bits);
    if (column->kind == BOOL)
        memset(column->values, 0, (size_t)bits);
    if (column->width < 0 || column->kind == UUID)
        if (column->kind != NUMERIC)
            put32(column, 0, 0);
}

/* Write the rows that were measured. `refusals` may need more room than it has: then call again. */
EXPORT int32_t headrace_fill(const uint8_t *data, const int64_t *starts, int64_t rows, struct column *columns,
                             int32_t fields, struct refusals *refusals)
{
    refusals->count = 0;
    for (int32_t c = 0; c < fields; c++) {
        begin(columns + c);
        if (columns[c].element)
            begin(columns[c].element);
    }
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t *p = data + starts[row] + 2;
        for (int32_t c = 0; c < fields; c++) {
            struct column *column = columns + c;
            int32_t length = (int32_t)be32(p);
            p += 4;
            if (length == -1) {
                put_null(column, row);
                continue;
            }
            int refused = put(column, row, p, length);
            if (UNLIKELY(refused != -1)) {
                if (refused == -2)
                    return BAD_VALUE;
                unset(column, row);
                note(refusals, (struct refusal){row, p - data, length, c, refused});
            }
            p += length;
        }
    }
    for (int32_t c = 0; c < fields; c++)
        check_texts(columns + c, c, refusals);
    return GOOD;
}
